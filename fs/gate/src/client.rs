//! A client of the control protocol, for tests and for the command line.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wire::{Answer, ParkedInfo, Request, RuleInfo, VERSION};
use super::{GateError, Notice, Notified, Record, Rule};

/// What the server may take for an answer beyond the time that the request itself asks for.
const GRACE: Duration = Duration::from_secs(10);

/// A connection to a gate. Its rules end with it, unless they are detached.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    reader: BufReader<UnixStream>,
    start_ns: u64,
    server_pid: u32,
}

/// What is in force and what is parked.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Rules in force.
    pub rules: Vec<RuleInfo>,
    /// Parked requests, oldest first.
    pub parked: Vec<ParkedInfo>,
    /// Requests that the watchdog released since the gate started.
    pub watchdog_releases: u64,
    /// Number of the last request that arrived.
    pub last_seq: u64,
}

/// What a wait came to.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Whether it came to what was waited for, within the time.
    pub reached: bool,
    /// What is parked now (by the rule that was asked for).
    pub parked: Vec<ParkedInfo>,
}

/// A piece of the request log.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// Finished requests in the order in which they finished.
    pub records: Vec<Record>,
    /// Requests that are not finished, in the order in which they arrived.
    pub open: Vec<Record>,
    /// Records that were dropped before they were asked for.
    pub lost: u64,
    /// `since` of the next call.
    pub next: u64,
}

impl Client {
    /// Connects to the gate behind `socket`.
    ///
    /// # Errors
    /// No such socket, nobody listens, another version.
    pub fn connect(socket: &Path) -> Result<Client, GateError> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            ErrorKind::NotFound => GateError::NoSocket(socket.to_owned()),
            // connect(2) refuses what is no socket in the same way.
            ErrorKind::ConnectionRefused if !is_socket(socket) => {
                GateError::NotASocket(socket.to_owned())
            }
            ErrorKind::ConnectionRefused => GateError::NobodyListens(socket.to_owned()),
            _ => GateError::io(format!("connect to gate {}", socket.display()), error),
        })?;
        let reader = BufReader::new(stream);
        let mut client = Client { socket: socket.to_owned(), reader, start_ns: 0, server_pid: 0 };
        match client.ask(&Request::Hello { version: VERSION }, Duration::ZERO)? {
            Answer::Hello { version: VERSION, pid, start_ns } => {
                (client.server_pid, client.start_ns) = (pid, start_ns);
                Ok(client)
            }
            Answer::Hello { version, .. } => {
                Err(GateError::Version { server: version, client: VERSION })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// CLOCK_MONOTONIC when the gate started, in ns: the zero of all times in records.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Process of the server.
    pub fn server_pid(&self) -> u32 {
        self.server_pid
    }

    /// Makes a rule and gives its number.
    ///
    /// # Errors
    /// The rule is refused, or the server is gone.
    pub fn park(&mut self, rule: Rule) -> Result<u64, GateError> {
        match self.ask(&Request::Park { rule: Box::new(rule) }, Duration::ZERO)? {
            Answer::Rule { rule } => Ok(rule),
            other => Err(unexpected(&other)),
        }
    }

    /// Rules in force and parked requests.
    ///
    /// # Errors
    /// The server is gone.
    pub fn list(&mut self) -> Result<Listing, GateError> {
        match self.ask(&Request::List, Duration::ZERO)? {
            Answer::List { rules, parked, watchdog_releases, last_seq } => {
                Ok(Listing { rules, parked, watchdog_releases, last_seq })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until `wanted` requests are parked, by `rule` or at all.
    ///
    /// # Errors
    /// The server is gone. That the time ended is no error: see [`Wait::reached`].
    pub fn wait_parked(
        &mut self,
        rule: Option<u64>,
        wanted: u64,
        bound: Duration,
    ) -> Result<Wait, GateError> {
        self.wait(rule, Some(wanted), None, bound)
    }

    /// Waits until the request `seq` is over: answered, failed or dropped.
    ///
    /// # Errors
    /// As [`Client::wait_parked`].
    pub fn wait_done(&mut self, seq: u64, bound: Duration) -> Result<Wait, GateError> {
        self.wait(None, None, Some(seq), bound)
    }

    fn wait(
        &mut self,
        rule: Option<u64>,
        parked: Option<u64>,
        done: Option<u64>,
        bound: Duration,
    ) -> Result<Wait, GateError> {
        let timeout_ms = bound.as_millis() as u64;
        match self.ask(&Request::Wait { rule, parked, done, timeout_ms }, bound)? {
            Answer::Waited { reached, parked } => Ok(Wait { reached, parked }),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets one parked request go.
    ///
    /// # Errors
    /// It is not parked, or the server is gone.
    pub fn release(&mut self, id: u64) -> Result<u64, GateError> {
        self.released(&Request::Release { id: Some(id), rule: None, all: false })
    }

    /// Lets go what a rule parked; the rule stays. Gives how many went on.
    ///
    /// # Errors
    /// No such rule, or the server is gone.
    pub fn release_rule(&mut self, rule: u64) -> Result<u64, GateError> {
        self.released(&Request::Release { id: None, rule: Some(rule), all: false })
    }

    /// Lets go everything that is parked; rules stay. Gives how many went on.
    ///
    /// # Errors
    /// The server is gone.
    pub fn release_all(&mut self) -> Result<u64, GateError> {
        self.released(&Request::Release { id: None, rule: None, all: true })
    }

    /// Lets a parked request go with a (positive) errno as its answer.
    ///
    /// # Errors
    /// It is not parked, the errno is not 1 to 4095, or the server is gone.
    pub fn fail(&mut self, id: u64, errno: i32) -> Result<u64, GateError> {
        self.released(&Request::Fail { id, errno })
    }

    /// Lets a parked request go with at most `bytes` bytes.
    ///
    /// # Errors
    /// It is not parked, or the server is gone.
    pub fn short(&mut self, id: u64, bytes: u32) -> Result<u64, GateError> {
        self.released(&Request::Short { id, bytes })
    }

    /// Does not answer a parked request until its rule ends or it is released, and then with EIO.
    ///
    /// # Errors
    /// It is not parked, or the server is gone.
    pub fn discard(&mut self, id: u64) -> Result<u64, GateError> {
        self.released(&Request::Drop { id })
    }

    /// Removes a rule and lets go what it parked.
    ///
    /// # Errors
    /// No such rule, or the server is gone.
    pub fn unpark(&mut self, rule: u64) -> Result<u64, GateError> {
        self.released(&Request::Unpark { rule })
    }

    /// Removes every rule and lets everything go.
    ///
    /// # Errors
    /// The server is gone.
    pub fn open(&mut self) -> Result<u64, GateError> {
        self.released(&Request::Open)
    }

    /// Asks the server behind the gate something that is not the gate's business, and may take up to `bound`.
    ///
    /// # Errors
    /// It does not know what is asked, refuses, or is gone.
    pub fn ask_server(&mut self, what: &str, bound: Duration) -> Result<String, GateError> {
        match self.ask(&Request::Ask { what: what.to_owned() }, bound)? {
            Answer::Told { text } => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the kernel told something unasked, and waits up to `bound` until it took it.
    ///
    /// # Errors
    /// The gate has no way to the kernel, or the server is gone.
    pub fn notify(&mut self, notice: Notice, bound: Duration) -> Result<Notified, GateError> {
        let request = Request::Notify { notice, timeout_ms: bound.as_millis() as u64 };
        match self.ask(&request, bound)? {
            Answer::Notified { is_over, errno, .. } => Ok(Notified { is_over, errno }),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the kernel send what the page cache holds of `size` bytes of an inode, and waits up to `bound` until it said that
    /// it will. The number is for [`Client::retrieved`].
    ///
    /// # Errors
    /// As [`Client::notify`].
    pub fn retrieve(
        &mut self,
        (ino, offset, size): (u64, u64, u32),
        bound: Duration,
    ) -> Result<(Notified, u64), GateError> {
        let (notice, timeout_ms) =
            (Notice::Retrieve { ino, offset, size }, bound.as_millis() as u64);
        match self.ask(&Request::Notify { notice, timeout_ms }, bound)? {
            Answer::Notified { is_over, errno, number: Some(number) } => {
                Ok((Notified { is_over, errno }, number))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What a RETRIEVE brought: the bytes up to the first that the page cache does not have. `None` when nothing came within
    /// `bound`.
    ///
    /// # Errors
    /// The server is gone.
    pub fn retrieved(
        &mut self,
        number: u64,
        bound: Duration,
    ) -> Result<Option<Vec<u8>>, GateError> {
        let request = Request::Retrieved { number, timeout_ms: bound.as_millis() as u64 };
        match self.ask(&request, bound)? {
            Answer::Retrieved { data } => Ok(data),
            other => Err(unexpected(&other)),
        }
    }

    /// The node id of a path below the mount's root, e.g. `/folder/file`.
    ///
    /// # Errors
    /// There is no such path, or the server is gone.
    pub fn node(&mut self, path: &str) -> Result<u64, GateError> {
        match self.ask(&Request::Node { path: path.to_owned() }, Duration::ZERO)? {
            Answer::Node { ino } => Ok(ino),
            other => Err(unexpected(&other)),
        }
    }

    /// Records that finished after the first `since`, up to `max`; waits up to `follow` for one.
    ///
    /// # Errors
    /// The server is gone.
    pub fn log(&mut self, since: u64, max: usize, follow: Duration) -> Result<LogPage, GateError> {
        let request = Request::Log { since, max, follow_ms: follow.as_millis() as u64 };
        match self.ask(&request, follow)? {
            Answer::Log { records, open, lost, next } => Ok(LogPage { records, open, lost, next }),
            other => Err(unexpected(&other)),
        }
    }

    fn released(&mut self, request: &Request) -> Result<u64, GateError> {
        match self.ask(request, Duration::ZERO)? {
            Answer::Released { count } => Ok(count),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: &Request, bound: Duration) -> Result<Answer, GateError> {
        let what = || format!("gate {}", self.socket.display());
        let mut line = serde_json::to_vec(request).map_err(protocol)?;
        line.push(b'\n');
        let stream = self.reader.get_mut();
        stream
            .set_read_timeout(Some(bound + GRACE))
            .and_then(|()| stream.write_all(&line))
            .map_err(|error| GateError::io(what(), error))?;
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(0) => return Err(GateError::NobodyListens(self.socket.clone())),
            Ok(_) => {}
            Err(error) => {
                return Err(GateError::io(format!("gate {}", self.socket.display()), error));
            }
        }
        match serde_json::from_str(&text).map_err(protocol)? {
            Answer::Error { message } => Err(GateError::Refused(message)),
            answer => Ok(answer),
        }
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

fn protocol(error: serde_json::Error) -> GateError {
    GateError::Protocol(error.to_string())
}

fn unexpected(answer: &Answer) -> GateError {
    GateError::Protocol(format!("unexpected answer {answer:?}"))
}
