//! The server's side: one file in memory, requests taken from /dev/fuse by splice(2).

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{self, InHeader, OutHeader, TransferIn};
use super::{Answer, Command, Settings, Which};
use crate::pipe::Pipe;
use crate::stamp;
use crate::sys;

/// Largest WRITE, in bytes. Its pages and the headers fit into a [`Pipe`].
const WRITE_MAX: u32 = 128 << 10;
/// Longest that a request may take to come.
const BOUND: Duration = Duration::from_secs(5);
const FILE_NODE: u64 = 2;
/// How long the kernel may believe what it was told, in seconds.
const VALID: u64 = 3600;

/// A request that is held.
struct Held {
    unique: u64,
    transfer: TransferIn,
    /// Where the payload of a WRITE still is.
    pipe: Option<Pipe>,
    answered: bool,
}

struct State {
    data: Vec<u8>,
    /// The size that attributes say.
    size: u64,
    hold: Option<(Which, bool)>,
    held: Option<Held>,
}

struct Server {
    dev: File,
    settings: Settings,
    state: Mutex<State>,
    changed: Condvar,
    /// What is moved into answers comes out of this file's page cache.
    source: File,
}

/// Mounts at `at`, serves in a thread, and obeys commands from standard input until it ends. Then the process
/// ends, and with it the connection: whoever waits for an answer gets an error.
///
/// # Errors
/// The mount failed, or nobody listens.
pub fn serve(at: &Path, settings: Settings) -> anyhow::Result<()> {
    let dev = File::options().read(true).write(true).open("/dev/fuse").context("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", dev.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("raw"), at, Some("fuse.raw"), flags, Some(&*options)).context("mount")?;
    let data = stamp::content(settings.id, 1, 0, settings.len);
    let source = tempfile::tempfile().context("a file for answers")?;
    source.write_all_at(&data, 0)?;
    let size = settings.len as u64;
    let state = Mutex::new(State { data, size, hold: None, held: None });
    let server = Arc::new(Server { dev, settings, state, changed: Condvar::new(), source });
    let serving = Arc::clone(&server);
    // Its end is that of the connection; commands are obeyed for longer, so that an answer can come too late.
    std::thread::spawn(move || {
        if let Err(error) = serving.requests() {
            eprintln!("splicing server: {error:#}");
        }
    });
    say(&Answer::Done)?;
    for line in std::io::stdin().lock().lines() {
        say(&server.obey(serde_json::from_str(&line?)?)?)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes requests until the connection ends.
    fn requests(&self) -> anyhow::Result<()> {
        let mut pipe = Pipe::new()?;
        loop {
            match sys::splice(self.dev.as_raw_fd(), None, pipe.into_fd(), 1 << 20, 0) {
                Ok(_) => pipe = self.request(pipe)?,
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::ENODEV | Errno::ECONNABORTED) => return Ok(()),
                Err(errno) => return Err(errno).context("take a request"),
            }
        }
    }

    /// Serves the request in the pipe; gives an empty pipe back.
    fn request(&self, mut pipe: Pipe) -> anyhow::Result<Pipe> {
        let mut header = [0; size_of::<InHeader>()];
        pipe.read_exact(&mut header).context("a request's header")?;
        let header = InHeader::read_from_bytes(&header).expect("as long as that");
        let is_transfer = matches!(header.opcode, wire::READ | wire::WRITE);
        if is_transfer {
            let mut transfer = [0; size_of::<TransferIn>()];
            pipe.read_exact(&mut transfer).context("a request's range")?;
            let transfer = TransferIn::read_from_bytes(&transfer).expect("as long as that");
            return self.transfer(&header, transfer, pipe);
        }
        let body = pipe.drain()?;
        self.plain(&header, &body)?;
        Ok(pipe)
    }

    fn plain(&self, header: &InHeader, body: &[u8]) -> anyhow::Result<()> {
        let unique = header.unique;
        match header.opcode {
            wire::FORGET | wire::BATCH_FORGET | wire::INTERRUPT => Ok(()),
            wire::INIT => self.answer(unique, self.init(body)?.as_bytes()),
            wire::LOOKUP if header.nodeid == 1 && body == b"f\0" => {
                let (nodeid, attr) = (FILE_NODE, self.attr(FILE_NODE));
                let (entry_valid, attr_valid) = (VALID, VALID);
                let entry =
                    wire::EntryOut { nodeid, entry_valid, attr_valid, attr, ..Default::default() };
                self.answer(unique, entry.as_bytes())
            }
            wire::LOOKUP => self.refuse(unique, Errno::ENOENT),
            wire::SETATTR => {
                let (set, _) = wire::SetattrIn::read_from_prefix(body).ok().context("SETATTR")?;
                if set.valid & wire::ATTR_SIZE != 0 {
                    let mut state = self.state();
                    state.data.resize(set.size as usize, 0);
                    state.size = set.size;
                }
                self.answer_attr(unique, header.nodeid)
            }
            wire::GETATTR => self.answer_attr(unique, header.nodeid),
            wire::OPEN => {
                // Otherwise each open drops the page cache, and with it the pages that are in our pipe.
                let open_flags = match self.settings.direct_io {
                    true => wire::OPEN_DIRECT_IO,
                    false => wire::OPEN_KEEP_CACHE,
                };
                self.answer(unique, wire::OpenOut { open_flags, ..Default::default() }.as_bytes())
            }
            wire::RELEASE | wire::FLUSH | wire::FSYNC | wire::DESTROY => self.answer(unique, &[]),
            _ => self.refuse(unique, Errno::ENOSYS),
        }
    }

    fn init(&self, body: &[u8]) -> anyhow::Result<wire::InitOut> {
        let (init, _) = wire::InitIn::read_from_prefix(body).ok().context("INIT")?;
        ensure!(init.major == 7, "FUSE protocol {}.{}", init.major, init.minor);
        let writeback = if self.settings.writeback { wire::WRITEBACK_CACHE } else { 0 };
        Ok(wire::InitOut {
            major: 7,
            minor: init.minor.min(31),
            max_readahead: WRITE_MAX,
            flags: init.flags & (wire::WANTED | writeback),
            max_background: 16,
            congestion_threshold: 12,
            max_write: WRITE_MAX,
            time_gran: 1,
            max_pages: (WRITE_MAX / 4096) as u16,
            ..wire::InitOut::default()
        })
    }

    fn attr(&self, nodeid: u64) -> wire::Attr {
        let mut attr = wire::Attr { ino: nodeid, nlink: 1, blksize: 4096, ..Default::default() };
        attr.mode = libc::S_IFDIR | 0o755;
        if nodeid == FILE_NODE {
            (attr.mode, attr.size) = (libc::S_IFREG | 0o644, self.state().size);
        }
        attr
    }

    fn answer_attr(&self, unique: u64, nodeid: u64) -> anyhow::Result<()> {
        let attr = self.attr(nodeid);
        let out = wire::AttrOut { attr_valid: VALID, attr, ..Default::default() };
        self.answer(unique, out.as_bytes())
    }

    fn transfer(
        &self,
        header: &InHeader,
        transfer: TransferIn,
        mut pipe: Pipe,
    ) -> anyhow::Result<Pipe> {
        let is_write = header.opcode == wire::WRITE;
        let which = if is_write { Which::Write } else { Which::Read };
        let mut state = self.state();
        if let Some((_, answer_first)) = state.hold.take_if(|hold| hold.0 == which) {
            let (unique, answered) = (header.unique, is_write && answer_first);
            if answered {
                self.written(unique, &transfer)?;
            }
            let pipe = is_write.then_some(pipe);
            state.held = Some(Held { unique, transfer, pipe, answered });
            self.changed.notify_all();
            return Pipe::new();
        }
        if is_write {
            store(&mut state, &transfer, &pipe.drain()?);
            drop(state);
            self.written(header.unique, &transfer)?;
        } else {
            let bytes = load(&state, &transfer);
            drop(state);
            self.answer(header.unique, &bytes)?;
        }
        Ok(pipe)
    }

    fn written(&self, unique: u64, transfer: &TransferIn) -> anyhow::Result<()> {
        self.answer(unique, wire::WriteOut { size: transfer.size, padding: 0 }.as_bytes())
    }

    fn answer(&self, unique: u64, body: &[u8]) -> anyhow::Result<()> {
        self.send(unique, body).context("answer a request")
    }

    fn send(&self, unique: u64, body: &[u8]) -> std::io::Result<()> {
        let len = (size_of::<OutHeader>() + body.len()) as u32;
        let header = OutHeader { len, error: 0, unique };
        let whole = [header.as_bytes(), body].concat();
        (&self.dev).write_all(&whole)
    }

    fn refuse(&self, unique: u64, errno: Errno) -> anyhow::Result<()> {
        let len = size_of::<OutHeader>() as u32;
        let header = OutHeader { len, error: -(errno as i32), unique };
        (&self.dev).write_all(header.as_bytes()).context("answer a request")
    }

    /// Answers a READ out of the page cache of the source file, and offers its pages to the kernel.
    fn answer_by_move(&self, unique: u64, transfer: &TransferIn) -> anyhow::Result<Errno> {
        let size = load(&self.state(), transfer).len();
        let len = (size_of::<OutHeader>() + size) as u32;
        let mut pipe = Pipe::new()?;
        pipe.put(OutHeader { len, error: 0, unique }.as_bytes())?;
        let from = transfer.offset as i64;
        let fill = |done| pipe.fill(&self.source, Some(from + done as i64), size - done);
        let filled = sys::repeat(size, fill).context("splice the source")?;
        ensure!(filled == size, "the pipe took {filled} of {size} bytes");
        let (from, to) = (pipe.out_fd(), self.dev.as_raw_fd());
        let sent = sys::splice(from, None, to, len as usize, libc::SPLICE_F_MOVE);
        pipe.drain().ok();
        Ok(sent.map_or_else(|errno| errno, |_| Errno::from_raw(0)))
    }

    fn obey(&self, command: Command) -> anyhow::Result<Answer> {
        match command {
            Command::Size { size } => self.state().size = size,
            Command::Hold { which, answer_first } => {
                self.state().hold = Some((which, answer_first));
            }
            Command::Wait => {
                let (state, _) = self
                    .changed
                    .wait_timeout_while(self.state(), BOUND, |state| state.held.is_none())
                    .unwrap_or_else(PoisonError::into_inner);
                return Ok(Answer::Held { held: state.held.is_some() });
            }
            Command::Drain => {
                let mut state = self.state();
                let held = state.held.as_mut().context("nothing is held")?;
                let bytes = held.pipe.as_mut().context("no payload is held")?.drain()?;
                let transfer = held.transfer;
                store(&mut state, &transfer, &bytes);
                return Ok(Answer::Bytes { bytes });
            }
            Command::Answer { by_move } => {
                let (unique, transfer, answered, is_write) = {
                    let state = self.state();
                    let held = state.held.as_ref().context("nothing is held")?;
                    (held.unique, held.transfer, held.answered, held.pipe.is_some())
                };
                ensure!(!answered, "it was answered already");
                let errno = match (is_write, by_move) {
                    (true, _) => self.errno_of(
                        unique,
                        wire::WriteOut { size: transfer.size, padding: 0 }.as_bytes(),
                    ),
                    (false, true) => self.answer_by_move(unique, &transfer)?,
                    (false, false) => {
                        let bytes = load(&self.state(), &transfer);
                        self.errno_of(unique, &bytes)
                    }
                };
                return Ok(Answer::Sent { errno: errno as i32 });
            }
            Command::Source => {
                return Ok(Answer::Bytes { bytes: sys::contents(&self.source)? });
            }
        }
        Ok(Answer::Done)
    }

    fn errno_of(&self, unique: u64, body: &[u8]) -> Errno {
        let sent = self.send(unique, body);
        Errno::from_raw(sent.err().and_then(|error| error.raw_os_error()).unwrap_or(0))
    }
}

fn load(state: &State, transfer: &TransferIn) -> Vec<u8> {
    let from = (transfer.offset as usize).min(state.data.len());
    let to = (from + transfer.size as usize).min(state.data.len());
    state.data[from..to].to_vec()
}

fn store(state: &mut State, transfer: &TransferIn, bytes: &[u8]) {
    let from = transfer.offset as usize;
    let end = from + bytes.len();
    if state.data.len() < end {
        state.data.resize(end, 0);
    }
    state.data[from..end].copy_from_slice(bytes);
    state.size = state.size.max(end as u64);
}
