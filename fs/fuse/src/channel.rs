//! The way of requests to a server and of its answers back.
//!
//! A [`Channel`] is one connection over a link that carries whole messages: the device
//! ([`Channel::device`]), a socket ([`Channel::pair`]) or memory ([`memory`]). Each thread that
//! takes requests has a [`Receiver`]; each request comes with a [`Ticket`] by which any thread may
//! answer it, at any time. [`uring`] has the same tickets, on queues of its own.

pub mod dev;
pub mod intake;
pub mod memory;
mod message;
pub mod pair;
mod receiver;
mod ticket;
mod turn;
pub mod uring;

pub use inflight_splice::SendError;
pub use intake::Intake;
pub use message::Message;
pub use receiver::{Receive, ReceiveError, Received, Receiver};
pub use ticket::Ticket;

use crate::decode::Dialect;
use crate::encode::{Data, Frame, Notification};
use crate::negotiate::{NegotiateError, Negotiated, Wanted, negotiate, version_only};
use crate::request::Operation;
use crate::{Reply, abi};
use inflight_dio::{Pool, PoolConfig, Registration};
use inflight_splice::{FillError, Filled, Filling, PipePool, ReplyChannel};
use nix::errno::Errno;
use parking_lot::RwLock;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use turn::Turn;

/// What a channel is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where receive buffers come from. A WRITE's data stay in theirs until they are dropped.
    pub pool: Pool,
    /// Pipes for spliced answers; without them there are none.
    pub pipes: Option<PipePool>,
    /// Largest WRITE in bytes that will be agreed upon; receive buffers are as large.
    pub max_write: u32,
    /// How long a receiver of [`Channel::device`] looks for the next request before it sleeps. It
    /// costs CPU time, less where others want it, and saves the wake-up of a sleeping core where
    /// requests follow each other. Only one thread receives at a time then, and goes on to do so
    /// while it serves: what may take long calls [`Ticket::let_others_receive`] first. Zero never
    /// looks twice.
    pub spin: Duration,
    /// By which a channel of the device can be stopped from receiving; not used by others. Its receivers
    /// take turns, as where they spin.
    pub intake: Option<Arc<Intake>>,
}

impl Config {
    /// Plain memory, no pipes, 1 MiB requests, no spinning.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn plain() -> io::Result<Config> {
        let config = PoolConfig { slabs: 8, registration: Registration::Off, huge: true };
        let pool = Pool::new(config).map_err(io::Error::other)?;
        Ok(Config { pool, pipes: None, max_write: 1 << 20, spin: Duration::ZERO, intake: None })
    }
}

/// What a channel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Answers may be spliced: [`Data::Piped`] goes without a copy.
    pub splice: bool,
    /// A WRITE's data come page-aligned in a pool's buffer.
    pub aligned: bool,
    /// Requests come with memory of the channel's to read into: [`Ticket::buffer`].
    pub buffers: bool,
    /// Largest WRITE in bytes.
    pub max_write: usize,
}

/// What carries whole messages.
trait Link: Send + Sync + std::fmt::Debug {
    /// One message into `head` and, from where it is full, `tail`; the number of bytes.
    /// `turn` is the caller's to receive, where receivers take turns.
    fn receive(&self, head: &mut [u8], tail: &mut [u8], turn: Option<&Turn>) -> io::Result<usize>;
    /// One message out of these pieces.
    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()>;
    /// The descriptor, if there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Whether the data of a WRITE arrive page-aligned.
    fn is_aligned(&self) -> bool;
    /// Whether requests come faster than they are received.
    fn is_behind(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Inner {
    link: Box<dyn Link>,
    splicer: Option<ReplyChannel>,
    pool: Pool,
    max_write: u32,
    dialect: RwLock<Dialect>,
    /// Where receivers spin.
    turn: Option<Turn>,
    intake: Option<Arc<Intake>>,
}

/// One connection. Cloning gives another handle to it.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: Arc<Inner>,
}

/// A server, as those who take requests for it see it: [`serve`] and [`uring`].
pub trait Handler: Send + Sync {
    /// A request came: by `queue`, or by the device or another link. It may be answered before
    /// this returns or at any time later; a queue's thread must not wait here.
    fn request(&self, received: Received, queue: Option<&mut uring::Queue>);

    /// A transfer that was queued on `queue` is over.
    fn completed(&self, completion: uring::Completion, queue: &mut uring::Queue) {
        let _ = (completion, queue);
    }
}

/// Hands requests to `handler` until the connection ends. Run it in as many threads as there are
/// cores, and at least two.
///
/// # Errors
/// [`ReceiveError`] other than [`ReceiveError::Closed`] and [`ReceiveError::Aborted`], which are
/// the ends that a connection has.
pub fn serve(mut receiver: Receiver, handler: &dyn Handler) -> Result<(), ReceiveError> {
    loop {
        match receiver.receive() {
            Ok(received) => handler.request(received, None),
            Err(ReceiveError::Closed | ReceiveError::Aborted) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Why no agreement was reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection ended before it.
    #[error("the connection ended before INIT was answered: {0}")]
    Ended(#[from] ReceiveError),
    /// The versions do not fit.
    #[error(transparent)]
    Version(#[from] NegotiateError),
    /// Something else was asked first.
    #[error("{0} came before INIT")]
    NotInit(abi::Opcode),
    /// The answer did not arrive.
    #[error("cannot answer INIT: {0}")]
    Send(#[from] SendError),
}

impl Channel {
    /// Over an open and mounted /dev/fuse. Any number of threads may receive.
    ///
    /// # Errors
    /// fcntl(2) when the descriptor is to be duplicated for splicing or made non-blocking for
    /// spinning.
    pub fn device(device: OwnedFd, config: Config) -> io::Result<Channel> {
        let sink = device.try_clone()?;
        let link = dev::Device::new(device, config.spin, config.intake.clone())?;
        Ok(Self::new(Box::new(link), Some(sink), config))
    }

    /// The server's end of a socket of whole messages (`SOCK_SEQPACKET`), the other end of which
    /// is a [`pair::Kernel`].
    pub fn pair(socket: OwnedFd, config: Config) -> Channel {
        let config = Config { spin: Duration::ZERO, intake: None, ..config };
        Self::new(Box::new(pair::Socket::new(socket)), None, config)
    }

    fn new(link: Box<dyn Link>, sink: Option<OwnedFd>, config: Config) -> Channel {
        let Config { pool, pipes, max_write, spin, intake } = config;
        let turn = (!spin.is_zero() || intake.is_some()).then(Turn::default);
        let splicer = sink.zip(pipes).map(|(sink, pipes)| ReplyChannel::new(sink, pipes));
        let dialect = RwLock::new(Dialect::default());
        Channel { inner: Arc::new(Inner { link, splicer, pool, max_write, dialect, turn, intake }) }
    }

    /// What it can do.
    pub fn caps(&self) -> Caps {
        Caps {
            splice: self.inner.splicer.is_some(),
            aligned: self.inner.link.is_aligned(),
            buffers: false,
            max_write: self.inner.max_write as usize,
        }
    }

    /// One for each thread that takes requests.
    pub fn receiver(&self) -> Receiver {
        Receiver::new(self.clone())
    }

    /// The right to answer a request that was received as a [`Message`], for a proxy that answers
    /// instead of passing it on. Take one for each request at most.
    pub fn ticket(&self, unique: u64, opcode: abi::Opcode) -> Ticket {
        Ticket::on_link(self.clone(), unique, opcode, None)
    }

    /// How requests look; set by the answer to INIT.
    pub fn dialect(&self) -> Dialect {
        *self.inner.dialect.read()
    }

    /// Sets how requests look, for whoever answers INIT without [`Channel::handshake`].
    pub fn set_dialect(&self, dialect: Dialect) {
        *self.inner.dialect.write() = dialect;
    }

    /// Takes INIT and answers it.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn handshake(&self, wanted: &Wanted) -> Result<Negotiated, HandshakeError> {
        let mut receiver = self.receiver();
        loop {
            let Received { request, ticket } = receiver.receive()?;
            let Operation::Init(offer) = &request.operation else {
                let _ = ticket.reply(Reply::Error(nix::errno::Errno::EIO));
                return Err(HandshakeError::NotInit(request.opcode()));
            };
            let max_write = wanted.max_write.min(self.inner.max_write);
            match negotiate(offer, &Wanted { max_write, ..*wanted }) {
                Ok(agreed) => {
                    // Requests may come before this thread is back from the answer.
                    self.set_dialect(agreed.dialect());
                    ticket.reply(Reply::Init(agreed.out))?;
                    return Ok(agreed);
                }
                Err(NegotiateError::Later(_)) => ticket.reply(Reply::Init(version_only()))?,
                Err(error) => {
                    let _ = ticket.reply(Reply::Error(nix::errno::Errno::EPROTO));
                    return Err(error.into());
                }
            }
        }
    }

    /// Tells the kernel something unasked. It may wait for locks: see [`Notification`].
    ///
    /// # Errors
    /// ENOENT as [`SendError::Gone`] when the kernel does not have what it is told about;
    /// EINVAL in [`SendError::Io`] from a kernel that does not know the code.
    pub fn notify(&self, notification: &Notification<'_>) -> Result<(), SendError> {
        let (head, data) = notification.encode();
        self.send_pieces(&[IoSlice::new(&head), IoSlice::new(data)])
    }

    /// Begins the data of a spliced answer of at most `len_max` bytes.
    ///
    /// # Errors
    /// [`FillError::Full`] where nothing can be spliced or as much does not fit: copy it.
    pub fn begin(&self, len_max: usize) -> Result<Filling, FillError> {
        match &self.inner.splicer {
            Some(splicer) => splicer.begin(len_max),
            None => Err(FillError::Full { wanted: 1, free: 0, done: 0 }),
        }
    }

    /// Sends a message that is already in bytes: an answer that a proxy passes on.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_pieces(&self, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
        loop {
            match self.inner.link.send(pieces) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map_err(SendError::from_sink),
            }
        }
    }

    fn send(&self, frame: Frame) -> Result<(), SendError> {
        match (frame.data(), &self.inner.splicer) {
            (Some(Data::Piped(_)), Some(splicer)) => {
                let (head, len, data) = frame.into_parts();
                match data {
                    Some(Data::Piped(filled)) => {
                        let sent = splicer.send(&head[..len], filled);
                        if !matches!(&sent, Ok(()) | Err(SendError::Gone | SendError::Disconnected))
                        {
                            // The kernel did not take it, and whoever asked must not wait for ever.
                            let unique = u64::from_ne_bytes(
                                head[8..16].try_into().expect("a header has 16 bytes"),
                            );
                            let error = Reply::Error(Errno::EIO).into_frame(unique);
                            self.send_pieces(&[IoSlice::new(error.head())])?;
                        }
                        sent
                    }
                    _ => unreachable!("matched above"),
                }
            }
            (Some(Data::Piped(filled)), None) => {
                let bytes = drain(filled).map_err(SendError::Io)?;
                self.send_pieces(&[IoSlice::new(frame.head()), IoSlice::new(&bytes)])
            }
            (None, _) => self.send_pieces(&[IoSlice::new(frame.head())]),
            (Some(Data::Payload(payload)), _) => {
                let data = IoSlice::new(payload.as_slice());
                self.send_pieces(&[IoSlice::new(frame.head()), data])
            }
            (Some(_), _) => self.send_pieces(&frame.io_slices()),
        }
    }

    /// By which it can be stopped from receiving, where it has that.
    pub fn intake(&self) -> Option<&Arc<Intake>> {
        self.inner.intake.as_ref()
    }

    /// The descriptor below, for poll(2) and ioctl(2); none in memory.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.link.fd()
    }

    /// Another handle of the same connection with a queue of its own (`FUSE_DEV_IOC_CLONE`):
    /// what is received on it must be answered on it, which tickets see to.
    ///
    /// # Errors
    /// open(2) of /dev/fuse, ioctl(2); ENOTTY over anything but the device.
    pub fn try_clone_device(&self, config: Config) -> io::Result<Channel> {
        let fd = self.fd().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTTY))?;
        let clone = Channel::device(dev::clone_device(fd)?, config)?;
        clone.set_dialect(self.dialect());
        Ok(clone)
    }
}

/// What is in the pipe of an answer, for a link that cannot splice.
pub(crate) fn drain(filled: &Filled) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; filled.len()];
    let mut done = 0;
    while done < bytes.len() {
        match nix::unistd::read(filled.pipe().reader().as_fd(), &mut bytes[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(bytes)
}
