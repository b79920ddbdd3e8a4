//! What must hold of any bytes; the fuzzer and the replay of its corpus share it.

use inflight_fuse::decode::decode;
use inflight_fuse::{Dialect, Payload, Request};

/// The first byte chooses dialect and cut, the rest is the message. Its length is set right in
/// the header half of the time, because few messages get past a wrong one. Gives the request, if
/// it is one.
pub fn check(bytes: &[u8]) -> Option<Request> {
    let (choice, message) = bytes.split_first()?;
    let dialect = Dialect { setxattr_ext: choice & 1 != 0 };
    let mut message = message.to_vec();
    if choice & 2 != 0 && message.len() >= 4 {
        let len = message.len() as u32;
        message[..4].copy_from_slice(&len.to_ne_bytes());
    }
    let whole = Request::decode(&message, dialect);
    let cut = usize::from(choice >> 2) * 2;
    if (40..message.len()).contains(&cut) {
        let mut tail = Some(Payload::from(&message[cut..]));
        assert_eq!(decode(&message[..cut], &mut tail, dialect), whole);
    }
    let Ok(request) = whole else { return None };
    // What nobody knows has no bytes.
    if let Ok(again) = request.encode(dialect) {
        assert_eq!(Request::decode(&again, dialect).as_ref(), Ok(&request));
    }
    Some(request)
}
