use super::*;
use crate::armed::Armed;
use crate::names::Names;
use crate::{Subject, kind};
use inflight_fuse::abi::Opcode;

fn armed(rule: Rule) -> Armed {
    rule.arm().unwrap()
}

/// As [`Armed::take`], where no names are known.
impl Armed {
    fn takes(&mut self, subject: &Subject, phase: Phase) -> bool {
        self.take(subject, phase, &Names::default())
    }
}

fn read(offset: u64, len: u64) -> Subject {
    Subject { opcode: Opcode::READ, ino: 5, offset, len, ..Subject::default() }
}

#[test]
fn a_range_matches_what_overlaps_it_and_nothing_else() {
    let mut rule = armed(Rule::at(Phase::Received).op("read").range(4096, 4096));
    assert!(!rule.takes(&read(0, 4096), Phase::Received), "ends where the range starts");
    assert!(rule.takes(&read(0, 4097), Phase::Received));
    assert!(rule.takes(&read(8191, 1), Phase::Received));
    assert!(!rule.takes(&read(8192, 1), Phase::Received));
    assert!(!rule.takes(&read(4096, 1), Phase::Applied), "another phase");
}

#[test]
fn an_open_range_reaches_to_the_end() {
    let mut rule = Rule::at(Phase::Received);
    rule.offset = Some(8192);
    let mut rule = armed(rule);
    assert!(rule.takes(&read(u64::MAX - 1, 4096), Phase::Received));
    assert!(!rule.takes(&read(0, 8192), Phase::Received));
}

#[test]
fn setattr_matches_a_range_by_its_new_size() {
    let mut rule = armed(Rule::at(Phase::Received).range(0, 4096));
    let mut truncate = Subject { opcode: Opcode::SETATTR, ..Subject::default() };
    assert!(!rule.takes(&truncate, Phase::Received), "a chmod has no size");
    truncate.size = Some(100);
    assert!(rule.takes(&truncate, Phase::Received));
    truncate.size = Some(4096);
    assert!(!rule.takes(&truncate, Phase::Received));
}

#[test]
fn a_copy_is_meant_however_the_kernel_sends_it() {
    let mut rule = armed(Rule::at(Phase::Received).op("copy_file_range"));
    for opcode in [Opcode::COPY_FILE_RANGE, Opcode::COPY_FILE_RANGE_64] {
        assert!(rule.takes(&Subject { opcode, ..read(0, 1) }, Phase::Received));
    }
    let mut new = armed(Rule::at(Phase::Received).op("copy_file_range_64"));
    let old = Subject { opcode: Opcode::COPY_FILE_RANGE, ..read(0, 1) };
    assert!(!new.takes(&old, Phase::Received));
}

#[test]
fn nth_and_count_select_a_window_of_matches() {
    let mut rule = armed(Rule::at(Phase::Received).nth(2).count(2));
    let taken: Vec<_> = (0..5).map(|_| rule.takes(&read(0, 1), Phase::Received)).collect();
    assert_eq!(taken, [false, true, true, false, false]);
}

#[test]
fn rules_that_cannot_be_meant_are_refused() {
    let base = || Rule::at(Phase::Received);
    for (rule, text) in [
        (base().ttl_ms(0), "ttl_ms is 0"),
        (base().ttl_ms(TTL_MAX_MS + 1), "ttl_ms is 600001"),
        (base().nth(0), "start at 1"),
        (base().range(0, 0), "0 bytes"),
        (base().op("lookup").range(0, 1), "'lookup' requests have no byte range"),
        (base().ino(1).path("/a"), "not two"),
        (base().path("/a").glob("b"), "not two"),
        (base().glob("a["), "a["),
        (base().action(Action::Drop).ttl_ms(TTL_UNBOUNDED_MS), "ttl_ms is"),
        (Rule { millionths: Some(5), ..base() }, "needs a seed"),
        (Rule { every: Some(0), ..base() }, "start at 1"),
        (base().action(Action::Fail(0)), "errno is 0"),
        (base().action(Action::Delay(0)), "delay is 0"),
        (base().op("reed"), "nearest: read"),
        (base().op("fsync").action(Action::Torn(512)), "of these: write"),
        (base().op("lookup").action(Action::Bandwidth(1)), "of these: read,write"),
        (Rule::at(Phase::Applied).action(Action::Corrupt(1)), "at received, not at applied"),
        (base().action(Action::Corrupt(0)), "0 bits"),
        (base().action(Action::Bandwidth(0)), "drop does that"),
    ] {
        let error = rule.arm().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_bandwidth_is_shared_by_what_comes_one_after_the_other() {
    let mut rule = armed(Rule::at(Phase::Received).action(Action::Bandwidth(1_000)));
    assert_eq!(rule.slot(1_000, 500, 10), 500_000_010);
    assert_eq!(rule.slot(1_000, 500, 10), 1_000_000_010, "behind the first");
    assert_eq!(rule.slot(1_000, 1, 5_000_000_000), 5_001_000_000, "what was not used is gone");
    let far = rule.slot(1, u64::MAX, 0);
    assert_eq!(far, TTL_MAX_MS * 1_000_000, "nobody waits for longer than a rule may hold");
    assert!(!rule.takes(&Subject { opcode: Opcode::FSYNC, ..Subject::default() }, Phase::Received));
}

#[test]
fn an_unknown_name_gets_the_nearest() {
    let text = kind::list("raed").unwrap_err().to_string();
    assert!(text.starts_with("unknown request 'raed'; nearest: read,"), "{text}");
    assert_eq!(kind::list("FUSE_READ").unwrap()[0].opcode, Opcode::READ);
    assert_eq!(kind::list("Copy-File-Range").unwrap()[0].opcode, Opcode::COPY_FILE_RANGE);
}

#[test]
fn every_counts_from_the_nth_match() {
    let taken = |rule: Rule| -> Vec<u64> {
        let mut rule = armed(rule);
        (1..=9).filter(|_| rule.takes(&read(0, 1), Phase::Received)).collect()
    };
    let every = |nth| Rule { every: Some(3), nth, ..Rule::at(Phase::Received) };
    assert_eq!(taken(every(None)), [3, 6, 9]);
    assert_eq!(taken(every(Some(1))), [1, 4, 7]);
    assert_eq!(taken(every(Some(2)).count(2)), [2, 5]);
}

#[test]
fn the_same_seed_chooses_the_same_matches() {
    let chosen = |seed| -> Vec<u32> {
        let rule =
            Rule { millionths: Some(250_000), seed: Some(seed), ..Rule::at(Phase::Received) };
        let mut rule = armed(rule);
        (0..400).filter(|_| rule.takes(&read(0, 1), Phase::Received)).collect()
    };
    assert_eq!(chosen(7), chosen(7));
    assert_ne!(chosen(7), chosen(8));
    // 100 expected, sigma 8.7.
    assert!((50..150).contains(&chosen(7).len()), "{}", chosen(7).len());
}

#[test]
fn fdatasync_is_apart_from_fsync() {
    let sync = |data_only| Subject { opcode: Opcode::FSYNC, data_only, ..Subject::default() };
    for (ops, full, data) in
        [("fsync", true, false), ("fdatasync", false, true), ("read,fsync, fdatasync", true, true)]
    {
        let mut rule = armed(Rule::at(Phase::Received).op(ops));
        assert_eq!(rule.takes(&sync(false), Phase::Received), full, "{ops}");
        assert_eq!(rule.takes(&sync(true), Phase::Received), data, "{ops}");
    }
}

#[test]
fn who_asks_is_compared() {
    let us = std::process::id();
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    let subject = Subject { pid: us, uid: 7, ..read(0, 1) };
    let of = |rule: Rule| armed(rule).takes(&subject, Phase::Received);
    let base = || Rule::at(Phase::Received);
    assert!(of(Rule { pid: Some(us), uid: Some(7), ..base() }));
    assert!(of(Rule { comm: Some(comm.trim_end().to_owned()), ..base() }));
    assert!(!of(Rule { pid: Some(us + 1), ..base() }));
    assert!(!of(Rule { uid: Some(8), ..base() }));
    assert!(!of(Rule { comm: Some("nobody".to_owned()), ..base() }));
}

#[test]
fn a_thread_is_of_its_process() {
    let rule = Rule { pid: Some(std::process::id()), ..Rule::at(Phase::Received) };
    // It is asked about while it lives.
    let (held, hold) = std::sync::mpsc::channel::<()>();
    let (told, tell) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = told.send(nix::unistd::gettid().as_raw() as u32);
        let _ = hold.recv();
    });
    let subject = Subject { pid: tell.recv().unwrap(), ..read(0, 1) };
    assert!(armed(rule).takes(&subject, Phase::Received));
    drop(held);
    let _ = thread.join();
}

#[test]
fn json_names_errnos() {
    let rule: Rule = serde_json::from_str(r#"{"op":"write","action":{"fail":"ENOSPC"}}"#).unwrap();
    assert_eq!(rule.action, Action::Fail(28));
    let rule: Rule = serde_json::from_str(r#"{"action":{"fail":5}}"#).unwrap();
    assert_eq!((rule.action, rule.phase), (Action::Fail(5), Phase::Received));
    let wrong = serde_json::from_str::<Rule>(r#"{"action":{"fail":"EWRONG"}}"#).unwrap_err();
    assert!(wrong.to_string().contains("EWRONG"), "{wrong}");
}
