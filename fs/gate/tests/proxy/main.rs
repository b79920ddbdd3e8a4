//! The proxy between a kernel that the test plays and a filesystem in memory: no mount.

#[allow(dead_code, reason = "it is shared with tests that use more of it")]
#[path = "../../../fuse/tests/mounts/memfs.rs"]
mod memfs;

mod bench;

use std::time::Duration;

use bench::{BOUND, Bench, create, read, request, write};
use inflight_fuse::abi::{InitFlags, InitOut, Opcode, OutHeader};
use inflight_fuse::{Operation, Setattr};
use inflight_gate::proxy::Ended;
use inflight_gate::{Action, GateError, Outcome, Phase, ReleasedBy, Rule};
use nix::errno::Errno;
use zerocopy::FromBytes as _;

#[test]
fn a_read_is_parked_by_its_files_name_while_the_rest_goes_on() {
    let mut bench = Bench::new();
    let file = bench.file("f", b"some data");
    let other = bench.file("g", b"other data");
    let rule = bench.gate.park(Rule::at(Phase::Received).op("read").path("/f")).unwrap();
    let unique = bench.send(request(file, read(0, 100)));
    let wait = bench.gate.wait_parked(Some(rule), 1, BOUND).unwrap();
    assert!(wait.reached);
    assert_eq!((wait.parked[0].unique, wait.parked[0].len), (unique, 100));
    assert_eq!(bench.ask(request(other, read(0, 100))).unwrap(), b"other data");
    bench.gate.release(wait.parked[0].id).unwrap();
    assert_eq!(bench.answer(unique).unwrap(), b"some data");
    assert!(bench.gate.wait_done(wait.parked[0].id, BOUND).unwrap().reached);
    let page = bench.gate.log(0, 100, Duration::ZERO).unwrap();
    let record = page.records.iter().find(|record| record.unique == unique).unwrap();
    assert_eq!(record.outcome, Some(Outcome::Bytes(9)));
    assert_eq!(record.holds[0].by, Some(ReleasedBy::Client));
    let (received, replied) = (record.times.phases[0].unwrap(), record.times.replied.unwrap());
    assert!(received <= replied && replied <= record.times.done.unwrap());
}

#[test]
fn at_replied_the_server_has_done_it_and_the_kernel_does_not_know() {
    let mut bench = Bench::new();
    let file = bench.file("f", b"some data");
    let rule = Rule::at(Phase::Replied).op("setattr").ino(file);
    let rule = bench.gate.park(rule).unwrap();
    let cut = Operation::Setattr(Setattr { size: Some(4), ..Setattr::default() });
    let unique = bench.send(request(file, cut));
    assert!(bench.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached);
    assert_eq!(bench.ask(request(file, read(0, 100))).unwrap(), b"some");
    bench.gate.unpark(rule).unwrap();
    assert!(bench.answer(unique).is_ok());
}

#[test]
fn rules_fail_cut_and_delay() {
    let mut bench = Bench::new();
    let file = bench.file("f", b"some data");
    let act = |bench: &mut Bench, phase, op: &str, action| {
        bench.gate.open().unwrap();
        bench.gate.park(Rule::at(phase).op(op).action(action)).unwrap();
    };
    act(&mut bench, Phase::Received, "write", Action::Fail(Errno::ENOSPC as i32));
    assert_eq!(bench.ask(request(file, write(0, b"XXXX"))), Err(Errno::ENOSPC));
    act(&mut bench, Phase::Replied, "write", Action::Fail(Errno::EIO as i32));
    assert_eq!(bench.ask(request(file, write(0, b"Y"))), Err(Errno::EIO));
    assert_eq!(bench.ask(request(file, read(0, 4))).unwrap(), b"Yome", "the first did nothing");
    act(&mut bench, Phase::Received, "write", Action::Short(2));
    assert_eq!(bench.ask(request(file, write(5, b"1234"))).unwrap()[..4], 2u32.to_ne_bytes());
    act(&mut bench, Phase::Received, "read", Action::Short(7));
    assert_eq!(bench.ask(request(file, read(0, 100))).unwrap(), b"Yome 12");
    act(&mut bench, Phase::Replied, "read", Action::Short(3));
    assert_eq!(bench.ask(request(file, read(0, 100))).unwrap(), b"Yom");
    act(&mut bench, Phase::Replied, "read", Action::Delay(1));
    assert_eq!(bench.ask(request(file, read(0, 100))).unwrap(), b"Yome 12ta");
    let last = bench.gate.list().unwrap().last_seq;
    assert!(bench.gate.wait_done(last, BOUND).unwrap().reached);
    let page = bench.gate.log(0, 100, Duration::ZERO).unwrap();
    assert_eq!(page.records.last().unwrap().holds[0].by, Some(ReleasedBy::Delay));
}

#[test]
fn an_interrupt_follows_the_request_that_was_parked() {
    let mut bench = Bench::new();
    let file = bench.file(memfs::PARKED, b"");
    let rule = bench.gate.park(Rule::at(Phase::Received).op("read")).unwrap();
    let unique = bench.send(request(file, read(0, 100)));
    assert!(bench.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached);
    bench.send_as(unique | 1, request(0, Operation::Interrupt { unique }));
    // What comes behind it is answered, so that it was looked at, and the server knows nothing.
    bench.ask(request(file, Operation::Getattr { fh: None })).unwrap();
    assert!(!bench.fs.was_interrupted(unique, Duration::ZERO));
    bench.gate.unpark(rule).unwrap();
    assert!(bench.fs.was_interrupted(unique, BOUND));
    let (parked, ticket) = bench.fs.take_parked(BOUND).unwrap();
    assert_eq!(parked.header.unique, unique);
    ticket.reply(inflight_fuse::Reply::Error(Errno::EINTR)).unwrap();
    assert_eq!(bench.answer(unique), Err(Errno::EINTR));
}

#[test]
fn an_interrupt_of_what_the_server_has_passes_at_once() {
    let mut bench = Bench::new();
    let file = bench.file(memfs::PARKED, b"");
    let unique = bench.send(request(file, read(0, 100)));
    let (_, ticket) = bench.fs.take_parked(BOUND).unwrap();
    bench.send_as(unique | 1, request(0, Operation::Interrupt { unique }));
    assert!(bench.fs.was_interrupted(unique, BOUND));
    ticket.reply(inflight_fuse::Reply::Error(Errno::EINTR)).unwrap();
    assert_eq!(bench.answer(unique), Err(Errno::EINTR));
}

#[test]
fn init_offers_what_the_proxy_has_and_requests_fit_its_sockets() {
    let bench = Bench::new();
    let out = InitOut::read_from_bytes(&bench.agreed).unwrap();
    assert_eq!(out.max_write, bench::MAX_WRITE);
    assert_eq!(u32::from(out.max_pages) * 4096, bench::MAX_WRITE);
    let seen = bench.server_flags;
    assert!(!seen.intersects(InitFlags::OVER_IO_URING | InitFlags::PASSTHROUGH), "{seen:?}");
    assert!(seen.contains(InitFlags::ASYNC_READ));
    let agreement = bench.agreement.as_ref().unwrap();
    assert_eq!(agreement.masked, ["fuse-over-io_uring", "passthrough"]);
    assert_eq!(agreement.max_write, (1 << 20, bench::MAX_WRITE));
}

#[test]
fn a_path_that_no_answer_told_is_asked_of_the_server() {
    let mut bench = Bench::new();
    let file = bench.file("f", b"some data");
    bench.send(request(file, Operation::Forget { nlookup: 1 }));
    // Answered behind it, so that it was taken.
    bench.ask(request(1, Operation::Getattr { fh: None })).unwrap();
    let rule = bench.gate.park(Rule::at(Phase::Received).op("read").path("/f")).unwrap();
    let info = bench.gate.list().unwrap().rules.remove(0);
    assert_eq!((info.id, info.ino), (rule, Some(file)));
    let error = bench.gate.park(Rule::at(Phase::Received).path("/nowhere")).unwrap_err();
    assert!(error.to_string().contains("/nowhere: no such file"), "{error}");
}

#[test]
fn phases_that_only_a_server_with_the_gate_built_in_has_are_refused() {
    let mut bench = Bench::new();
    let error = bench.gate.park(Rule::at(Phase::Applied)).unwrap_err();
    assert!(matches!(error, GateError::Refused(_)));
    assert!(error.to_string().contains("no phase 'applied'; it has received, replied"), "{error}");
}

#[test]
fn a_notification_passes_beside_a_parked_request() {
    let mut bench = Bench::new();
    let file = bench.file("f", b"some data");
    bench.gate.park(Rule::at(Phase::Replied).op("read")).unwrap();
    bench.send(request(file, read(0, 4)));
    bench.gate.wait_parked(None, 1, BOUND).unwrap();
    let notice = inflight_fuse::Notification::InvalInode { nodeid: file, offset: 0, len: 0 };
    bench.server.notify(&notice).unwrap();
    let OutHeader { unique, error, .. } = bench.receive().header();
    assert_eq!((unique, error), (0, 2), "FUSE_NOTIFY_INVAL_INODE");
}

#[test]
fn without_the_server_the_proxy_ends_and_what_is_parked_is_dropped() {
    let mut bench = Bench::new();
    let file = bench.file("f", b"some data");
    bench.gate.park(Rule::at(Phase::Received).op("read")).unwrap();
    bench.send(request(file, read(0, 4)));
    assert!(bench.gate.wait_parked(None, 1, BOUND).unwrap().reached);
    bench.hang_up_server();
    assert_eq!(bench.proxy.wait(BOUND), Some(Ended::ServerGone));
    bench.end();
}

#[test]
fn when_the_kernel_closes_the_server_sees_the_end() {
    let bench = Bench::new();
    bench.kernel.close();
    assert_eq!(bench.proxy.wait(BOUND), Some(Ended::Closed));
    bench.end().recv_timeout(BOUND).expect("the server ends with its connection");
}

#[test]
fn a_created_file_is_known_by_name_until_it_is_renamed() {
    let mut bench = Bench::new();
    let entry = bench.ask(request(1, create("a"))).unwrap();
    let node = u64::from_ne_bytes(entry[..8].try_into().unwrap());
    let rename = Operation::Rename(inflight_fuse::Rename {
        name: inflight_fuse::Name::new("a"),
        new_parent: 1,
        new_name: inflight_fuse::Name::new("b"),
        flags: 0,
    });
    assert_eq!(rename.opcode(), Opcode::RENAME);
    bench.ask(request(1, rename)).unwrap();
    bench.gate.park(Rule::at(Phase::Received).op("read").path("/b")).unwrap();
    assert_eq!(bench.gate.list().unwrap().rules[0].ino, Some(node));
    assert!(bench.gate.park(Rule::at(Phase::Received).path("/a")).is_err());
}
