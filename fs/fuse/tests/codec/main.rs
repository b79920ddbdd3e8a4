//! Requests to bytes and back, and bytes that are no requests.

mod strategies;
mod total;

use inflight_fuse::abi::{InHeader, Opcode};
use inflight_fuse::{
    DecodeError, Dialect, Malformed, Operation, Payload, Request, SetTime, Time, decode::decode,
};
use proptest::prelude::*;
use std::path::Path;
use zerocopy::{FromBytes as _, IntoBytes as _};

const LONG: Dialect = Dialect { setxattr_ext: true };

/// The first and the second piece of a message, as a channel receives them.
fn in_two(bytes: &[u8], head: usize) -> (Vec<u8>, Option<Payload>) {
    let (head, tail) = bytes.split_at(head.clamp(size_of::<InHeader>(), bytes.len()));
    (head.to_vec(), Some(Payload::from(tail)))
}

proptest! {
    #[test]
    fn a_request_comes_back_from_its_bytes(request in strategies::request(), cut in 40_usize..200) {
        let bytes = request.encode(LONG).unwrap();
        let whole = Request::decode(&bytes, LONG);
        let (head, mut tail) = in_two(&bytes, cut);
        let pieces = decode(&head, &mut tail, LONG);
        prop_assert_eq!(whole.as_ref(), Ok(&request));
        prop_assert_eq!(pieces.as_ref(), Ok(&request));
    }

    #[test]
    fn the_bytes_of_a_request_come_back(request in strategies::request()) {
        let bytes = request.encode(LONG).unwrap();
        let again = Request::decode(&bytes, LONG).unwrap().encode(LONG).unwrap();
        prop_assert_eq!(bytes, again);
    }

    #[test]
    fn any_bytes_are_a_request_or_an_error(
        opcode in 0_u32..60,
        extension in prop_oneof![Just(0_u16), any::<u16>()],
        body in proptest::collection::vec(any::<u8>(), 0..300),
        cut in 40_usize..300,
    ) {
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode, unique: 4, total_extlen: extension, ..Default::default() };
        let bytes = [header.as_bytes(), &body].concat();
        let whole = Request::decode(&bytes, LONG);
        let (head, mut tail) = in_two(&bytes, cut);
        prop_assert_eq!(&decode(&head, &mut tail, LONG), &whole);
        if let Err(error) = whole {
            prop_assert_eq!(error.unique(), Opcode(opcode).wants_answer().then_some(4));
        }
    }

    #[test]
    fn a_request_that_is_cut_off_is_an_error(request in strategies::request(), keep in 0.0..1.0) {
        let mut bytes = request.encode(LONG).unwrap();
        let body = bytes.len() - size_of::<InHeader>();
        // INIT may be longer than what counts of it.
        if body == 0 || request.opcode() == Opcode::INIT {
            return Ok(());
        }
        bytes.truncate(size_of::<InHeader>() + (body as f64 * keep) as usize);
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        // A shorter list of extensions may be whole.
        if let Ok(found) = Request::decode(&bytes, LONG) {
            let is_extended = InHeader::read_from_prefix(&bytes).unwrap().0.total_extlen > 0;
            prop_assert!(is_extended, "{found:?}");
        }
    }
}

#[test]
fn the_corpus_of_the_fuzzer_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode");
    let mut opcodes = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is part of the crate") {
        let path = entry.unwrap().path();
        let request = total::check(&std::fs::read(&path).unwrap());
        // A file that is called like an opcode holds such a request.
        if let Ok(opcode) = path.file_name().unwrap().to_str().unwrap().parse::<Opcode>() {
            assert_eq!(request.map(|request| request.opcode()), Some(opcode));
            opcodes += 1;
        }
    }
    assert_eq!(opcodes, Opcode::TABLE.len());
}

#[test]
fn data_in_the_second_piece_is_handed_over() {
    let request = strategies::write(vec![5; 4096]);
    let bytes = request.encode(LONG).unwrap();
    let tail = Payload::from(&bytes[80..]);
    let address = tail.as_slice().as_ptr();
    let mut tail = Some(tail);
    let Operation::Write(write) = decode(&bytes[..80], &mut tail, LONG).unwrap().operation else {
        panic!("not a WRITE");
    };
    assert_eq!(write.data.as_slice().as_ptr(), address);
    assert!(tail.is_none());
}

#[test]
fn what_is_no_header_has_no_number() {
    let error = Request::decode(&[0; 39], LONG).unwrap_err();
    assert_eq!(error, DecodeError::NoHeader { len: 39 });
    assert_eq!(error.unique(), None);
}

#[test]
fn a_length_that_is_not_true_is_refused_with_the_number() {
    let mut bytes = strategies::write(vec![1]).encode(LONG).unwrap();
    bytes.push(0);
    let error = Request::decode(&bytes, LONG).unwrap_err();
    assert!(matches!(error, DecodeError::Length { said: 81, len: 82, .. }), "{error}");
    assert!(error.unique().is_some());
}

#[test]
fn an_unknown_opcode_is_a_request() {
    let len = 48;
    let header = InHeader { len, opcode: 4000, unique: 2, ..Default::default() };
    let bytes = [header.as_bytes(), &[9; 8]].concat();
    let request = Request::decode(&bytes, LONG).unwrap();
    assert_eq!(request.operation, Operation::Unknown { opcode: 4000 });
}

#[test]
fn a_list_is_as_long_as_its_bytes_whatever_it_says() {
    let header = InHeader { len: 48, opcode: Opcode::BATCH_FORGET.number(), ..Default::default() };
    let bytes = [header.as_bytes(), &[0xff; 8]].concat();
    let error = Request::decode(&bytes, LONG).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { what: Malformed::Data, .. }), "{error}");
    assert_eq!(error.unique(), None, "a FORGET is not answered");
}

#[test]
fn the_shorter_setxattr_is_read_where_the_longer_was_not_agreed_upon() {
    let request = strategies::setxattr(false);
    let short = Dialect::default();
    let bytes = request.encode(short).unwrap();
    assert_eq!(Request::decode(&bytes, short).as_ref(), Ok(&request));
    assert_eq!(bytes.len() + 8, request.encode(LONG).unwrap().len());
}

#[test]
fn a_context_without_a_length_in_the_header_is_read() {
    // Linux 5.17 to 6.2 send it so.
    let request = strategies::symlink_with_context();
    let mut bytes = request.encode(LONG).unwrap();
    let at = std::mem::offset_of!(InHeader, total_extlen);
    bytes[at..at + 2].fill(0);
    assert_eq!(Request::decode(&bytes, LONG).as_ref(), Ok(&request));
}

#[test]
fn times_before_1970_keep_their_fraction() {
    let time = Time { seconds: -2, nanos: 250_000_000 };
    let request = strategies::touch(SetTime::At(time));
    let bytes = request.encode(LONG).unwrap();
    let Operation::Setattr(setattr) = Request::decode(&bytes, LONG).unwrap().operation else {
        panic!("not a SETATTR");
    };
    assert_eq!(setattr.mtime, Some(SetTime::At(time)));
}
