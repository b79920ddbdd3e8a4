//! A TCP proxy in front of a server, which can keep the server's answers back: the gate of a network filesystem.
//!
//! It knows where a message begins and ends, and nothing else of any protocol. What is kept back is every answer of
//! some length, which a READ's is and a GETATTR's is not; shorter ones pass, also on the same connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::socket;

/// How a protocol cuts its byte stream into messages: by a head of four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// ONC RPC over TCP (RFC 5531, 11): big endian, without itself, the highest bit marks the last fragment.
    Rpc,
    /// SMB over TCP (MS-SMB2, 2.1): a zero byte and three of the length, big endian, without itself.
    Smb,
    /// 9P2000.L: little endian, with itself.
    NineP,
}

impl Framing {
    /// Bytes of a whole message that begins like this.
    pub fn len(self, head: [u8; 4]) -> usize {
        match self {
            Framing::Rpc => 4 + (u32::from_be_bytes(head) & 0x7FFF_FFFF) as usize,
            Framing::Smb => 4 + (u32::from_be_bytes(head) & 0x00FF_FFFF) as usize,
            Framing::NineP => (u32::from_le_bytes(head) as usize).max(4),
        }
    }
}

/// A running proxy on the loopback device. Ends with its connections when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    framing: Framing,
    server: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Answers of at least so many bytes are kept back.
    hold: Option<usize>,
    held: Vec<Held>,
    streams: Vec<TcpStream>,
    closed: bool,
    /// Bytes of the answers that were passed on.
    passed: u64,
}

impl State {
    fn bytes(&self) -> usize {
        self.held.iter().map(|held| held.message.len()).sum()
    }
}

/// An answer that was kept back.
#[derive(Debug)]
struct Held {
    to: Client,
    message: Vec<u8>,
}

type Client = Arc<Mutex<TcpStream>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Starts one in front of a server, in the network of the calling thread.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(framing: Framing, server: SocketAddr) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port of our own")?;
        let address = listener.local_addr()?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { framing, server, state, changed });
        let (doorman, theirs) = (listener.try_clone()?, Arc::clone(&shared));
        std::thread::Builder::new().name("race-proxy".to_owned()).spawn(move || {
            while let Ok((client, _)) = doorman.accept() {
                if theirs.is_closed() || theirs.connect(client).is_err() {
                    // The client sees a closed connection and says what it makes of it.
                    continue;
                }
            }
        })?;
        Ok(Proxy { address, listener, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that the server has answered so far, without what is kept back.
    pub fn passed(&self) -> u64 {
        lock(&self.shared.state).passed
    }

    /// Keeps back answers of at least `len` bytes from now on.
    pub fn hold(&self, len: usize) {
        lock(&self.shared.state).hold = Some(len);
    }

    /// Waits until answers of so many bytes altogether are kept back; `false` when they did not come within the bound.
    pub fn wait_held(&self, bytes: usize, bound: Duration) -> bool {
        let few = |state: &mut State| state.bytes() < bytes;
        let wait = self.shared.changed.wait_timeout_while(lock(&self.shared.state), bound, few);
        let (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        state.bytes() >= bytes
    }

    /// Sends on what was kept back, and keeps nothing back any more; gives how many answers it were.
    ///
    /// # Errors
    /// The client has closed its connection.
    pub fn release(&self) -> anyhow::Result<usize> {
        let held = {
            let mut state = lock(&self.shared.state);
            state.hold = None;
            std::mem::take(&mut state.held)
        };
        let count = held.len();
        lock(&self.shared.state).passed +=
            held.iter().map(|held| held.message.len() as u64).sum::<u64>();
        for Held { to, message } in held {
            lock(&to).write_all(&message).context("send on an answer that was kept back")?;
        }
        Ok(count)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // What a case left behind must not keep its client waiting.
        let _ = self.release();
        let mut state = lock(&self.shared.state);
        state.closed = true;
        for stream in &state.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Joins a client to the server, in two threads that end with either side.
    fn connect(self: &Arc<Self>, client: TcpStream) -> anyhow::Result<()> {
        let server = TcpStream::connect(self.server).context("the server behind the proxy")?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            lock(&self.state).streams.push(stream.try_clone()?);
        }
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        std::thread::Builder::new().name("race-proxy-up".to_owned()).spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        })?;
        let shared = Arc::clone(self);
        std::thread::Builder::new().name("race-proxy-down".to_owned()).spawn(move || {
            let end = client.try_clone();
            let _ = shared.answers(server, &Arc::new(Mutex::new(client)));
            let _ = end.and_then(|end| end.shutdown(Shutdown::Both));
        })?;
        Ok(())
    }

    /// Passes answers on, or keeps them back.
    fn answers(&self, mut server: TcpStream, client: &Client) -> anyhow::Result<()> {
        loop {
            let mut message = vec![0; 4];
            server.read_exact(&mut message)?;
            let len = self.framing.len([message[0], message[1], message[2], message[3]]);
            ensure!(len <= MOST, "a message of {len} bytes");
            message.resize(len, 0);
            server.read_exact(&mut message[4..])?;
            let mut state = lock(&self.state);
            if state.hold.is_some_and(|least| len >= least) {
                state.held.push(Held { to: Arc::clone(client), message });
                self.changed.notify_all();
            } else {
                state.passed += len as u64;
                drop(state);
                lock(client).write_all(&message)?;
            }
        }
    }
}

/// No message is longer.
const MOST: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    /// A server that sends whole messages back, for one client.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut answers = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut answers)
        });
        address
    }

    fn message(len: u8) -> Vec<u8> {
        let mut bytes = vec![len; usize::from(len)];
        bytes[..4].copy_from_slice(&u32::from(len).to_le_bytes());
        bytes
    }

    fn hear(stream: &mut TcpStream, len: u8) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(len)];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn long_answers_are_kept_back_and_short_ones_pass() {
        let proxy = Proxy::start(Framing::NineP, echo()).unwrap();
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.set_read_timeout(Some(BOUND)).unwrap();
        client.write_all(&message(200)).unwrap();
        assert_eq!(hear(&mut client, 200), message(200));
        proxy.hold(100);
        client.write_all(&[message(100), message(9)].concat()).unwrap();
        assert_eq!(hear(&mut client, 9), message(9));
        assert!(proxy.wait_held(100, BOUND));
        assert!(!proxy.wait_held(101, Duration::ZERO));
        assert_eq!(proxy.release().unwrap(), 1);
        assert_eq!(hear(&mut client, 100), message(100));
        assert_eq!(proxy.release().unwrap(), 0);
        client.write_all(&message(101)).unwrap();
        assert_eq!(hear(&mut client, 101), message(101));
        drop(proxy);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn each_protocol_has_its_own_head() {
        assert_eq!(Framing::Rpc.len([0x80, 0, 1, 2]), 262);
        assert_eq!(Framing::Smb.len([0, 0, 1, 2]), 262);
        assert_eq!(Framing::NineP.len([2, 1, 0, 0]), 258);
        assert_eq!(Framing::NineP.len([0; 4]), 4);
    }
}
