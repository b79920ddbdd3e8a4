//! An answer into the buffer of its entry.

use crate::abi::OutHeader;
use crate::channel::drain;
use crate::encode::{Data, Frame, Reply};
use crate::payload::Payload;
use inflight_dio::{Buffer, Lender};
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use zerocopy::FromBytes as _;

pub(super) enum Composed {
    /// The answer, `len` bytes of it in the buffer.
    Ready { header: OutHeader, len: usize, buffer: Buffer },
    /// Somebody still has the buffer.
    Lent(Box<Frame>),
    /// It does not fit, or could not be read out of its pipe: EIO is answered.
    Refused { header: OutHeader, buffer: Buffer, error: io::Error },
}

/// Puts what follows the header of `frame` into the memory of `lender`: `own`, if it is at hand,
/// or the data's own buffer if that is it. Data that begin where they must are not copied.
pub(super) fn compose(lender: &Arc<Lender>, own: Option<Buffer>, frame: Frame) -> Composed {
    let is_in_place = match frame.data() {
        Some(Data::Payload(payload)) => payload.is_from(lender),
        _ => false,
    };
    let own = if is_in_place { None } else { own.or_else(|| lender.lend()) };
    if own.is_none() && !is_in_place {
        return Composed::Lent(Box::new(frame));
    }
    let unique = header(&frame).unique;
    let (head, head_len, data) = frame.into_parts();
    let (header, fixed) = OutHeader::read_from_prefix(&head[..head_len]).expect("a header");
    let (buffer, result) = match (own, data) {
        (Some(mut buffer), data) => {
            let result = copy(&mut buffer, fixed, data.as_ref());
            (buffer, result)
        }
        (None, Some(Data::Payload(payload))) => in_place(payload, fixed),
        (None, _) => unreachable!("without a buffer the data lie in it"),
    };
    match result {
        Ok(len) => Composed::Ready { header, len, buffer },
        Err(error) => {
            let header = self::header(&Reply::Error(Errno::EIO).into_frame(unique));
            Composed::Refused { header, buffer, error }
        }
    }
}

fn header(frame: &Frame) -> OutHeader {
    OutHeader::read_from_bytes(frame.header()).expect("as long as that")
}

fn copy(buffer: &mut Buffer, fixed: &[u8], data: Option<&Data>) -> io::Result<usize> {
    let len = fixed.len() + data.map_or(0, Data::len);
    if len > buffer.capacity() {
        return Err(Errno::EMSGSIZE.into());
    }
    buffer.set_len(len);
    let memory = buffer.as_mut_slice();
    memory[..fixed.len()].copy_from_slice(fixed);
    let mut rest = &mut memory[fixed.len()..];
    if let Some(Data::Piped(filled)) = data {
        rest.copy_from_slice(&drain(filled)?);
        return Ok(len);
    }
    for slice in data.into_iter().flat_map(Data::slices) {
        let (to, next) = rest.split_at_mut(slice.len());
        to.copy_from_slice(slice);
        rest = next;
    }
    Ok(len)
}

/// The data lie in the entry's own buffer, perhaps not where they must.
fn in_place(payload: Payload, fixed: &[u8]) -> (Buffer, io::Result<usize>) {
    let (mut buffer, range) = payload.into_buffer().expect("it lies in a buffer");
    let len = fixed.len() + range.len();
    if len > buffer.capacity() {
        return (buffer, Err(Errno::EMSGSIZE.into()));
    }
    buffer.set_len(len.max(range.end));
    let memory = buffer.as_mut_slice();
    if range.start != fixed.len() {
        memory.copy_within(range, fixed.len());
    }
    memory[..fixed.len()].copy_from_slice(fixed);
    (buffer, Ok(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use inflight_dio::{Pool, PoolConfig, page_size};

    fn lender() -> Arc<Lender> {
        let pool = Pool::new(PoolConfig { slabs: 0, ..PoolConfig::default() }).unwrap();
        Lender::new(pool.take(page_size()), || {})
    }

    fn ready(composed: Composed) -> (OutHeader, Vec<u8>, *const u8) {
        let Composed::Ready { header, len, buffer } = composed else { panic!("not ready") };
        assert_eq!(header.len as usize, len + 16);
        (header, buffer.as_slice()[..len].to_vec(), buffer.as_ptr())
    }

    #[test]
    fn data_that_are_in_place_stay_there() {
        let lender = lender();
        let mut buffer = lender.lend().unwrap();
        buffer.set_len(100);
        buffer.as_mut_slice().fill(7);
        let frame = Reply::Data(buffer.into()).into_frame(4);
        let (header, bytes, address) = ready(compose(&lender, None, frame));
        assert_eq!((header.unique, bytes, address), (4, vec![7; 100], lender.as_ptr()));
    }

    #[test]
    fn data_in_place_move_behind_a_fixed_part() {
        let lender = lender();
        let mut buffer = lender.lend().unwrap();
        buffer.set_len(page_size() - 16);
        buffer.as_mut_slice().fill(7);
        let reply = Reply::Ioctl { result: 0, data: buffer.into() };
        let (_, bytes, _) = ready(compose(&lender, None, reply.into_frame(4)));
        assert_eq!(bytes.len(), page_size());
        assert_eq!((&bytes[..16], &bytes[16..20]), (&[0; 16][..], &[7; 4][..]));
    }

    #[test]
    fn what_is_elsewhere_is_copied_and_what_does_not_fit_is_refused() {
        let lender = lender();
        let frame = Reply::Data(vec![3; 10].into()).into_frame(4);
        assert_eq!(ready(compose(&lender, None, frame)).1, [3; 10]);
        let frame = Reply::Data(vec![3; page_size() + 1].into()).into_frame(4);
        let Composed::Refused { header, .. } = compose(&lender, None, frame) else {
            panic!("it does not fit")
        };
        assert_eq!((header.error, header.unique), (-libc::EIO, 4));
    }

    #[test]
    fn an_answer_waits_for_the_buffer() {
        let lender = lender();
        let data = lender.lend().unwrap();
        let frame = Reply::Written(1).into_frame(4);
        let Composed::Lent(frame) = compose(&lender, None, frame) else { panic!("it is lent") };
        drop(data);
        assert_eq!(ready(compose(&lender, None, *frame)).1.len(), 8);
    }
}
