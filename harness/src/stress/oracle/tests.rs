//! The model against histories whose verdict is known.

use super::*;
use crate::kit::stamp::POISON;

fn classes(harm: Result<(), Box<Harm>>) -> Vec<Class> {
    harm.err().map_or(Vec::new(), |harm| harm.faults.iter().map(|fault| fault.class).collect())
}

fn read(oracle: &Oracle, part: usize, bytes: &[u8]) -> Vec<Class> {
    classes(oracle.judge("t", oracle.read(), part, bytes, bytes.len()))
}

fn old(part: usize) -> Vec<u8> {
    stamp::content(7, 1, (part * PART) as u64, PART)
}

#[test]
fn a_completed_write_buries_what_was_before_it() {
    let oracle = Oracle::new(7, 4);
    assert_eq!(read(&oracle, 2, &old(2)), []);
    let (open, new) = oracle.write(2, Manner::Direct);
    assert_eq!(read(&oracle, 2, &old(2)), [], "it may not have happened yet");
    assert_eq!(read(&oracle, 2, &new), [], "or already");
    let mut torn = new.clone();
    torn[1000..].copy_from_slice(&old(2)[1000..]);
    assert_eq!(read(&oracle, 2, &torn), [], "or in part");
    let early = oracle.read();
    oracle.end(open, true);
    assert_eq!(read(&oracle, 2, &new), []);
    assert_eq!(read(&oracle, 2, &old(2)), [Class::Stale]);
    assert_eq!(classes(oracle.judge("t", early, 2, &old(2), PART)), [], "the reader began before");
    torn[1000] = new[1000] ^ 1;
    assert_ne!(read(&oracle, 2, &torn), [], "not a byte more");
    assert_eq!(read(&oracle, 1, &old(1)), [], "other parts are untouched");
}

#[test]
fn a_write_that_failed_buries_nothing_and_stays_possible() {
    let oracle = Oracle::new(7, 1);
    let (open, new) = oracle.write(0, Manner::Cached);
    oracle.end(open, false);
    assert_eq!((read(&oracle, 0, &old(0)), read(&oracle, 0, &new)), (vec![], vec![]));
    let (open, newer) = oracle.write(0, Manner::Cached);
    oracle.end(open, true);
    assert_eq!(read(&oracle, 0, &new), [Class::Stale], "but it can be buried");
    assert_eq!(read(&oracle, 0, &newer), []);
}

#[test]
fn zeroes_are_lost_data_unless_something_left_them() {
    let oracle = Oracle::new(7, 2);
    assert_eq!(read(&oracle, 0, &[0; PART]), [Class::Lost]);
    assert_eq!(read(&oracle, 0, &[POISON; PART]), [Class::Lost]);
    let open = oracle.punch(0);
    assert_eq!(read(&oracle, 0, &[0; PART]), []);
    oracle.end(open, true);
    assert_eq!(read(&oracle, 0, &[0; PART]), []);
    assert_eq!(read(&oracle, 0, &old(0)), [Class::Resurrected]);
    assert_eq!(read(&oracle, 0, &[POISON; PART]), [Class::Lost]);
}

#[test]
fn a_truncate_cuts_a_part_at_any_byte() {
    let oracle = Oracle::new(7, 4);
    let open = oracle.truncate(PART + 1000);
    oracle.end(open, true);
    let mut half = old(1);
    assert_eq!(read(&oracle, 1, &half), [Class::Resurrected], "behind the cut");
    half[1000..].fill(0);
    assert_eq!(read(&oracle, 1, &half), []);
    half[999] = 0;
    assert_eq!(read(&oracle, 1, &half), [Class::Lost], "before the cut");
    assert_eq!((read(&oracle, 0, &old(0)), read(&oracle, 3, &[0; PART])), (vec![], vec![]));
    let (open, new) = oracle.write(1, Manner::Cached);
    oracle.end(open, true);
    assert_eq!(read(&oracle, 1, &new), []);
    assert_eq!(read(&oracle, 1, &[0; PART]), [Class::Lost, Class::Stale], "there were zeroes once");
}

#[test]
fn a_short_count_is_legal_only_beside_a_truncate() {
    let oracle = Oracle::new(7, 2);
    let short = |reading| classes(oracle.judge("t", reading, 0, &old(0)[..100], PART));
    assert_eq!(short(oracle.read()), [Class::Short]);
    let before = oracle.read();
    let open = oracle.truncate(100);
    assert_eq!(short(oracle.read()), []);
    let during = oracle.read();
    oracle.end(open, true);
    assert_eq!(
        (short(before), short(during), short(oracle.read())),
        (vec![], vec![], vec![Class::Short])
    );
}

#[test]
fn stamps_of_elsewhere_are_foreign() {
    let oracle = Oracle::new(7, 4);
    assert_eq!(read(&oracle, 1, &old(2)), [Class::Foreign]);
    assert_eq!(read(&oracle, 0, &stamp::content(8, 1, 0, PART)), [Class::Foreign]);
    assert_eq!(read(&oracle, 0, &stamp::content(7, 99, 0, PART)), [Class::Foreign], "never begun");
}

#[test]
fn a_direct_write_beside_a_write_to_the_page_cache_buries_nothing() {
    for manner in [Manner::Cached, Manner::Mapped] {
        let oracle = Oracle::new(7, 8);
        let (store, stored) = oracle.write(5, manner);
        let (direct, new) = oracle.write(0, Manner::Direct);
        assert_eq!(oracle.may_collide(oracle.read()), manner == Manner::Mapped);
        oracle.end(direct, true);
        oracle.end(store, true);
        assert!(!oracle.may_collide(oracle.read()));
        assert_eq!((read(&oracle, 0, &old(0)), read(&oracle, 0, &new)), (vec![], vec![]));
        assert_eq!(read(&oracle, 5, &stored), []);
        assert_eq!(read(&oracle, 5, &old(5)), [Class::Stale], "the other buries");
        let (direct, newer) = oracle.write(0, Manner::Direct);
        oracle.end(direct, true);
        assert_eq!(read(&oracle, 0, &newer), [], "one that was alone does");
        assert_eq!(read(&oracle, 0, &new), [Class::Stale]);
    }
}

#[test]
fn what_is_buried_for_good_is_forgotten_and_still_known_as_stale() {
    let oracle = Oracle::new(7, 2);
    for _ in 0..100 {
        let (open, _) = oracle.write(0, Manner::Cached);
        oracle.end(open, true);
        oracle.quiet();
    }
    assert_eq!(lock(&oracle.parts[0]).len(), 1);
    assert_eq!(read(&oracle, 0, &stamp::content(7, 50, 0, PART)), [Class::Stale]);
    let open = oracle.truncate(100);
    oracle.end(open, true);
    oracle.quiet();
    assert_eq!(lock(&oracle.parts[0]).len(), 2, "a part of it is still to be seen");
}

#[test]
fn concurrent_writers_leave_either() {
    let oracle = Oracle::new(7, 1);
    let (first, one) = oracle.write(0, Manner::Cached);
    let (second, two) = oracle.write(0, Manner::Cached);
    oracle.end(second, true);
    assert_eq!(read(&oracle, 0, &old(0)), [Class::Stale], "one of them is over");
    oracle.end(first, true);
    assert_eq!((read(&oracle, 0, &one), read(&oracle, 0, &two)), (vec![], vec![]));
}
