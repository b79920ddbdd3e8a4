//! Answers put together from the messages that a socket made of them.
//!
//! A server that writes its answers sends each as one message. One that splices them sends up to 16 pages at
//! a time (`splice_to_socket`, fs/splice.c), and nothing in the pieces after the first says whose they are. So
//! of the READs that may be answered in pieces only one is with the server at a time, until an answer that
//! is too large for a piece has come whole: see [`Manner`].

use inflight_fuse::Payload;
use inflight_fuse::abi::OutHeader;
use inflight_fuse::channel::pair::{Answer, Part};

use super::page_size;

/// Pipe buffers, of a page at most, that make one message.
const BUFFERS: usize = 16;

/// Most bytes of data that come in one message with their header however they lie in pages.
fn surely_whole() -> usize {
    (BUFFERS - 3) * page_size()
}

/// How a server sends what it was asked to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Not seen yet: large READs are sent to it one by one.
    Unknown,
    /// It writes: every answer is one message.
    Whole,
    /// It splices: large READs are sent to it one by one.
    Pieces,
    /// It sends even small answers in pieces: all READs are sent to it one by one.
    SmallPieces,
}

impl Manner {
    /// Whether a READ of `size` bytes has to wait for another one's answer.
    pub fn one_by_one(self, size: u32) -> bool {
        match self {
            Manner::Whole => false,
            Manner::Unknown | Manner::Pieces => size as usize > surely_whole(),
            Manner::SmallPieces => true,
        }
    }
}

/// What a server sent that cannot be an answer, nor go on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent {got} bytes where an answer {at} has {left} left")]
pub(super) struct Garbled {
    got: usize,
    at: u64,
    left: usize,
}

/// The answer that is being put together.
#[derive(Debug)]
struct Pending {
    header: OutHeader,
    bytes: Vec<u8>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Pieces {
    pending: Option<Pending>,
    manner: Manner,
    answer_max: usize,
}

impl Pieces {
    pub fn new(answer_max: usize) -> Pieces {
        Pieces { pending: None, manner: Manner::Unknown, answer_max }
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// Takes the next message; gives the answer that it is or completes. `is_asked` says whether an answer
    /// with this number is waited for.
    pub fn take(
        &mut self,
        part: Part,
        is_asked: impl Fn(u64) -> bool,
    ) -> Result<Option<Answer>, Garbled> {
        let Some(mut pending) = self.pending.take() else { return self.begin(part) };
        let whole = part
            .header()
            .is_some_and(|header| header.len as usize == part.len() && is_asked(header.unique));
        if whole {
            // Another one's, which came between.
            self.pending = Some(pending);
            return Ok(part.into_answer().ok());
        }
        let left = pending.header.len as usize - size_of::<OutHeader>() - pending.bytes.len();
        if part.len() > left {
            return Err(Garbled { got: part.len(), at: pending.header.unique, left });
        }
        part.slices().iter().for_each(|slice| pending.bytes.extend_from_slice(slice));
        if part.len() < left {
            self.pending = Some(pending);
            return Ok(None);
        }
        let small = pending.header.len as usize <= surely_whole();
        self.manner = match self.manner {
            Manner::SmallPieces => Manner::SmallPieces,
            _ if small => Manner::SmallPieces,
            _ => Manner::Pieces,
        };
        Ok(Some(Answer::new(pending.header, Payload::from(pending.bytes))))
    }

    fn begin(&mut self, part: Part) -> Result<Option<Answer>, Garbled> {
        let len = part.len();
        let part = match part.into_answer() {
            Ok(answer) => {
                if self.manner == Manner::Unknown && len > BUFFERS * page_size() {
                    self.manner = Manner::Whole;
                }
                return Ok(Some(answer));
            }
            Err(part) => part,
        };
        let fits = |header: &OutHeader| (len..=self.answer_max).contains(&(header.len as usize));
        let Some(header) = part.header().filter(fits) else {
            let at = part.header().map_or(0, |header| header.unique);
            return Err(Garbled { got: len, at, left: self.answer_max });
        };
        let mut bytes = Vec::with_capacity(header.len as usize);
        bytes.extend_from_slice(part.slices()[1]);
        self.pending = Some(Pending { header, bytes });
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inflight_fuse::channel::{Config, pair};
    use nix::sys::socket::{MsgFlags, send};
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use zerocopy::IntoBytes as _;

    const MAX: usize = 1 << 20;

    /// A server that sends what it is told, and the other end.
    fn sockets() -> (OwnedFd, pair::Kernel) {
        let (server, ours) = pair::sockets(MAX).unwrap();
        let pool = Config::plain().unwrap().pool;
        (server, pair::Kernel::new(ours, pool, MAX))
    }

    fn say(server: &OwnedFd, bytes: &[u8]) {
        assert_eq!(send(server.as_raw_fd(), bytes, MsgFlags::empty()), Ok(bytes.len()));
    }

    fn message(unique: u64, data: &[u8]) -> Vec<u8> {
        let len = (size_of::<OutHeader>() + data.len()) as u32;
        [OutHeader { len, error: 0, unique }.as_bytes(), data].concat()
    }

    /// What comes of the next message, by number and data.
    fn next(pieces: &mut Pieces, kernel: &pair::Kernel) -> Result<Option<(u64, Vec<u8>)>, Garbled> {
        let part = kernel.receive_part().unwrap().unwrap();
        let answer = pieces.take(part, |unique| unique < 100)?;
        Ok(answer.map(|answer| (answer.header().unique, answer.data().to_vec())))
    }

    #[test]
    fn an_answer_in_pieces_is_put_together_around_others() {
        let (server, kernel) = sockets();
        let mut pieces = Pieces::new(MAX);
        let data: Vec<u8> = (0..150_000u32).map(|at| at as u8).collect();
        let long = message(4, &data);
        say(&server, &long[..65_536]);
        say(&server, &message(6, b"between"));
        say(&server, &long[65_536..131_072]);
        say(&server, &long[131_072..]);
        assert_eq!(next(&mut pieces, &kernel), Ok(None));
        assert_eq!(next(&mut pieces, &kernel), Ok(Some((6, b"between".to_vec()))));
        assert_eq!(next(&mut pieces, &kernel), Ok(None));
        assert_eq!(next(&mut pieces, &kernel), Ok(Some((4, data))));
        assert_eq!(pieces.manner(), Manner::Pieces);
        assert!(pieces.manner().one_by_one(131_072) && !pieces.manner().one_by_one(4096));
    }

    #[test]
    fn data_that_look_like_an_answer_that_nobody_asked_for_are_data() {
        let (server, kernel) = sockets();
        let mut pieces = Pieces::new(MAX);
        let data = message(100, b"a file of answers");
        let long = message(4, &data);
        say(&server, &long[..16]);
        say(&server, &long[16..]);
        assert_eq!(next(&mut pieces, &kernel), Ok(None));
        assert_eq!(next(&mut pieces, &kernel), Ok(Some((4, data))));
        assert_eq!(pieces.manner(), Manner::SmallPieces);
        assert!(pieces.manner().one_by_one(1));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let (server, kernel) = sockets();
        let mut pieces = Pieces::new(MAX);
        say(&server, b"short");
        assert!(next(&mut pieces, &kernel).is_err());
        say(&server, &[0; 16]);
        assert!(next(&mut pieces, &kernel).is_err(), "a length of 0");
        say(&server, &message(4, &[0; 100])[..50]);
        assert_eq!(next(&mut pieces, &kernel), Ok(None));
        say(&server, &[1; 90]);
        assert!(next(&mut pieces, &kernel).is_err(), "more than is left");
    }

    #[test]
    fn a_server_that_writes_large_answers_whole_is_asked_for_many_at_once() {
        let (server, kernel) = sockets();
        let mut pieces = Pieces::new(MAX);
        assert!(pieces.manner().one_by_one(131_072));
        say(&server, &message(4, &vec![0; 131_072]));
        assert!(matches!(next(&mut pieces, &kernel), Ok(Some((4, _)))));
        assert_eq!(pieces.manner(), Manner::Whole);
        assert!(!pieces.manner().one_by_one(131_072));
    }
}
