//! The gate from outside: a fake transport on one side, clients on its socket on the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use inflight_fuse::abi::Opcode;
use inflight_gate::{
    Action, Client, Decision, Gate, Outcome, Passage, Phase, ReleasedBy, Rule, Subject, Ticket,
};

/// Long enough for a busy machine; its end is a failure.
const BOUND: Duration = Duration::from_secs(10);

struct Bench {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    gate: Arc<Gate>,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("gate");
        let resolve = |path: &Path| (path == Path::new("/a")).then_some(5);
        let gate = Gate::listen(&socket, Box::new(resolve)).unwrap();
        Bench { _folder: folder, socket, gate }
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    /// Sends one READ through `received` and `applied`, as a transport would; gives its decisions.
    fn read(&self, ino: u64, offset: u64) -> Receiver<(Phase, Decision)> {
        let (sender, receiver) = channel();
        let subject = Subject {
            unique: 2,
            opcode: Opcode::READ,
            ino,
            offset,
            len: 4096,
            ..Subject::default()
        };
        Read { ticket: self.gate.arrive(subject), phase: Phase::Received, sender }.go();
        receiver
    }
}

/// A READ on its way through `received` and `applied`.
struct Read {
    ticket: Ticket,
    phase: Phase,
    sender: Sender<(Phase, Decision)>,
}

impl Read {
    fn go(self) {
        let phase = self.phase;
        if let Some((read, decision)) = Gate::pass(self, phase) {
            read.step(decision);
        }
    }

    fn step(mut self, decision: Decision) {
        self.sender.send((self.phase, decision)).unwrap();
        if self.phase == Phase::Received {
            self.phase = Phase::Applied;
            return self.go();
        }
        self.ticket.note_path("copy");
        self.ticket.done(if let Decision::Fail(errno) = decision { Err(errno) } else { Ok(4096) });
    }
}

impl Passage for Read {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn resume(self: Box<Self>, decision: Decision) {
        self.step(decision);
    }
}

/// A request whose work ends when the gate's socket is gone, and a while later.
struct Slow {
    ticket: Ticket,
    socket: PathBuf,
    done: Arc<AtomicBool>,
}

impl Passage for Slow {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn resume(self: Box<Self>, _: Decision) {
        while self.socket.exists() {
            std::thread::yield_now();
        }
        (0..1000).for_each(|_| std::thread::yield_now());
        self.done.store(true, Ordering::SeqCst);
        self.ticket.done(Ok(0));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.gate.shutdown();
    }
}

#[test]
fn a_request_that_no_rule_matches_is_not_held() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.park(Rule::at(Phase::Received).op("read").path("/a")).unwrap();
    let seen: Vec<_> = bench.read(6, 0).try_iter().collect();
    assert_eq!(seen, [(Phase::Received, Decision::Go), (Phase::Applied, Decision::Go)]);
}

#[test]
fn a_matching_request_is_parked_listed_and_released() {
    let bench = Bench::new();
    let mut client = bench.client();
    let rule = client.park(Rule::at(Phase::Applied).op("read").path("/a")).unwrap();
    let seen = bench.read(5, 8192);
    assert_eq!(seen.try_recv().unwrap(), (Phase::Received, Decision::Go));
    assert!(seen.try_recv().is_err(), "it must be held at applied");

    let wait = client.wait_parked(Some(rule), 1, BOUND).unwrap();
    assert!(wait.reached);
    let parked = &client.list().unwrap().parked[0];
    assert_eq!((parked.op.as_str(), parked.ino, parked.offset), ("read", 5, 8192));
    assert_eq!((parked.phase, parked.rule), (Phase::Applied, rule));

    assert_eq!(client.release(parked.id).unwrap(), 1);
    assert_eq!(seen.recv_timeout(BOUND).unwrap(), (Phase::Applied, Decision::Go));
    assert!(client.wait_done(parked.id, BOUND).unwrap().reached);
    let error = client.release(parked.id).unwrap_err().to_string();
    assert!(error.contains("is not parked"), "{error}");

    let record = client.log(0, 10, Duration::ZERO).unwrap().records.remove(0);
    assert_eq!(record.outcome, Some(Outcome::Bytes(4096)));
    assert_eq!(record.path.as_deref(), Some("copy"));
    assert_eq!(record.holds[0].by, Some(ReleasedBy::Client));
    assert!(record.holds[0].released > Some(record.holds[0].parked));
    assert!(record.times.phases[0].is_some() && record.times.phases[1].is_none());
    assert!(!record.voided());
}

#[test]
fn a_thousand_requests_are_parked_while_others_pass() {
    let bench = Bench::new();
    let mut client = bench.client();
    let rule = client.park(Rule::at(Phase::Received).path("/a")).unwrap();
    let held: Vec<_> = (0..1000).map(|n| bench.read(5, n * 4096)).collect();
    assert!(client.wait_parked(Some(rule), 1000, BOUND).unwrap().reached);
    assert_eq!(bench.read(6, 0).try_iter().count(), 2, "another file is not held up");
    assert_eq!(client.release_rule(rule).unwrap(), 1000);
    for seen in held {
        assert_eq!(seen.recv_timeout(BOUND).unwrap(), (Phase::Received, Decision::Go));
    }
}

#[test]
fn decisions_reach_the_request() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.park(Rule::at(Phase::Received).path("/a")).unwrap();
    for (decision, act) in [
        (Decision::Fail(5), (|c: &mut Client, id| c.fail(id, 5)) as fn(&mut Client, u64) -> _),
        (Decision::Short(100), |c, id| c.short(id, 100)),
    ] {
        let seen = bench.read(5, 0);
        let id = client.wait_parked(None, 1, BOUND).unwrap().parked[0].id;
        act(&mut client, id).unwrap();
        assert_eq!(seen.recv_timeout(BOUND).unwrap(), (Phase::Received, decision));
    }
}

#[test]
fn what_was_dropped_fails_when_somebody_releases_it_or_its_rule_ends() {
    let bench = Bench::new();
    let mut client = bench.client();
    let drops = Rule::at(Phase::Received).path("/a").action(Action::Drop);
    let ends = [
        (|c: &mut Client, id: u64, _: u64| c.release(id)) as fn(&mut Client, u64, u64) -> _,
        |c, _, _| c.release_all(),
        |c, _, rule| c.release_rule(rule),
        |c, _, rule| c.unpark(rule),
        |c, _, _| c.open(),
    ];
    for end in ends {
        let rule = client.park(drops.clone()).unwrap();
        let seen = bench.read(5, 0);
        let listing = client.list().unwrap();
        let found = (listing.parked.len(), listing.rules[0].parked);
        assert_eq!(found, (1, 0), "it is shown, and is not parked");
        let id = listing.parked[0].id;
        assert!(client.wait_done(id, BOUND).unwrap().reached, "its record is closed");
        assert_eq!(end(&mut client, id, rule).unwrap(), 1);
        assert_eq!(seen.recv_timeout(BOUND).unwrap().1, Decision::Fail(5));
        client.open().unwrap();
    }
    client.park(drops.clone().ttl_ms(50)).unwrap();
    assert_eq!(bench.read(5, 0).recv_timeout(BOUND).unwrap().1, Decision::Fail(5));
    // By hand, of a parked request, and at the end of the mount.
    client.park(Rule::at(Phase::Received).path("/a")).unwrap();
    let seen = bench.read(5, 0);
    let id = client.wait_parked(None, 1, BOUND).unwrap().parked[0].id;
    assert_eq!(client.discard(id).unwrap(), 1);
    assert_eq!(seen.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    bench.gate.shutdown();
    assert_eq!(seen.recv_timeout(BOUND).unwrap().1, Decision::Fail(5));
}

#[test]
fn a_pattern_means_what_has_the_name_when_the_request_comes() {
    let bench = Bench::new();
    let mut client = bench.client();
    let rule = Rule::at(Phase::Received).glob("*-journal").action(Action::Fail(28));
    client.park(rule.ttl_ms(inflight_gate::TTL_UNBOUNDED_MS)).unwrap();
    assert!(client.list().unwrap().rules[0].left_ms > 1 << 40, "for as long as wanted");
    bench.gate.learn(|names| names.entry(1, b"a.db", 5));
    assert!(bench.read(5, 0).recv_timeout(BOUND).unwrap().1 == Decision::Go);
    bench.gate.learn(|names| names.renamed((1, b"a.db"), (1, b"a.db-journal"), false));
    assert_eq!(bench.read(5, 0).recv_timeout(BOUND).unwrap().1, Decision::Fail(28));
}

#[test]
fn a_client_may_ask_the_server_itself() {
    let bench = Bench::new();
    let mut client = bench.client();
    let unknown = client.ask_server("time", BOUND).unwrap_err().to_string();
    assert_eq!(unknown, "this server does not know 'time'");
    bench.gate.answer_with(Box::new(|what| match what {
        "time" => Some(Ok("late".to_owned())),
        "no" => Some(Err("not now".to_owned())),
        _ => None,
    }));
    assert_eq!(client.ask_server("time", BOUND).unwrap(), "late");
    assert_eq!(client.ask_server("no", BOUND).unwrap_err().to_string(), "not now");
}

#[test]
fn actions_need_no_client_at_all() {
    let bench = Bench::new();
    let mut client = bench.client();
    let rule = |action| Rule::at(Phase::Received).path("/a").count(1).action(action);
    client.park(rule(Action::Fail(28))).unwrap();
    client.park(rule(Action::Short(1))).unwrap();
    client.park(rule(Action::Delay(30))).unwrap();
    assert_eq!(bench.read(5, 0).try_recv().unwrap().1, Decision::Fail(28));
    assert_eq!(bench.read(5, 0).try_recv().unwrap().1, Decision::Short(1));
    let (start, seen) = (Instant::now(), bench.read(5, 0));
    assert_eq!(seen.recv_timeout(BOUND).unwrap().1, Decision::Go);
    assert!(start.elapsed() >= Duration::from_millis(29), "{:?}", start.elapsed());
    assert_eq!(client.list().unwrap().watchdog_releases, 0, "a delay is not the watchdog");
}

#[test]
fn the_watchdog_releases_when_the_connection_closes() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.park(Rule::at(Phase::Received).path("/a").ttl_ms(600_000)).unwrap();
    let seen = bench.read(5, 0);
    drop(client);
    assert_eq!(seen.recv_timeout(BOUND).unwrap(), (Phase::Received, Decision::Go));
    let mut other = bench.client();
    let record = other.log(0, 1, BOUND).unwrap().records.remove(0);
    assert!(record.voided());
    let listing = other.list().unwrap();
    assert_eq!((listing.watchdog_releases, listing.rules.len()), (1, 0));
}

#[test]
fn the_watchdog_releases_when_the_connection_closes_in_a_wait() {
    let bench = Bench::new();
    let seen = {
        let mut client = bench.client();
        client.park(Rule::at(Phase::Received).path("/a").ttl_ms(600_000)).unwrap();
        let seen = bench.read(5, 0);
        // A client that dies while it waits for something that never comes.
        let raw = std::os::unix::net::UnixStream::connect(&bench.socket).unwrap();
        let rule = r#"{"cmd":"park","rule":{"ino":6,"phase":"received","ttl_ms":600000}}"#;
        let wait = r#"{"cmd":"wait","parked":9,"timeout_ms":600000}"#;
        std::io::Write::write_all(&mut &raw, format!("{rule}\n{wait}\n").as_bytes()).unwrap();
        while client.list().unwrap().rules.len() < 2 {}
        let held = bench.read(6, 0);
        drop(raw);
        assert_eq!(held.recv_timeout(BOUND).unwrap().1, Decision::Go);
        assert_eq!(seen.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        seen
    };
    assert_eq!(seen.recv_timeout(BOUND).unwrap().1, Decision::Go);
}

#[test]
fn the_watchdog_ends_a_detached_rule_when_its_time_is_up() {
    let bench = Bench::new();
    let rule = Rule::at(Phase::Received).path("/a").ttl_ms(200).detached();
    bench.client().park(rule).unwrap();
    let (start, seen) = (Instant::now(), bench.read(5, 0));
    assert_eq!(seen.recv_timeout(BOUND).unwrap().1, Decision::Go);
    assert!(start.elapsed() >= Duration::from_millis(100), "not at the end of the connection");
    let mut client = bench.client();
    assert!(client.log(0, 1, BOUND).unwrap().records[0].voided());
    assert_eq!(client.list().unwrap().rules, []);
}

#[test]
fn a_wait_ends_in_time_and_says_so() {
    let bench = Bench::new();
    let wait = bench.client().wait_parked(None, 1, Duration::from_millis(20)).unwrap();
    assert!(!wait.reached && wait.parked.is_empty());
}

#[test]
fn a_ticket_that_is_forgotten_is_logged_as_dropped() {
    let bench = Bench::new();
    drop(bench.gate.arrive(Subject::default()));
    let record = bench.client().log(0, 1, BOUND).unwrap().records.remove(0);
    assert_eq!(record.outcome, Some(Outcome::Dropped));
}

#[test]
fn shutdown_releases_everything_and_removes_the_socket() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.park(Rule::at(Phase::Received)).unwrap();
    let seen = bench.read(5, 0);
    bench.gate.shutdown();
    assert_eq!(seen.recv_timeout(BOUND).unwrap().1, Decision::Go);
    assert!(!bench.socket.exists());
    assert!(client.list().is_err());
}

#[test]
fn shutdown_ends_after_the_last_request_that_was_parked() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.park(Rule::at(Phase::Received)).unwrap();
    let ticket = bench.gate.arrive(Subject::default());
    let is_done = Arc::new(AtomicBool::new(false));
    let slow = Slow { ticket, socket: bench.socket.clone(), done: Arc::clone(&is_done) };
    assert!(Gate::pass(slow, Phase::Received).is_none(), "it is parked");
    bench.gate.shutdown();
    assert!(is_done.load(Ordering::SeqCst), "the image would be closed under a request");
}

#[test]
fn what_an_answer_causes_comes_after_it_in_the_log() {
    let bench = Bench::new();
    let ticket = bench.gate.arrive(Subject::default());
    ticket.answers();
    bench.gate.arrive(Subject::default()).done(Ok(0));
    ticket.done(Ok(0));
    let records = bench.client().log(0, 2, BOUND).unwrap().records;
    let (caused, answered) = (&records[0], &records[1]);
    assert!(answered.times.done.unwrap() <= caused.times.arrived, "{records:?}");
}

#[test]
fn after_an_abort_the_owner_of_a_parked_request_may_still_answer_it() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.park(Rule::at(Phase::Received)).unwrap();
    let seen = bench.read(5, 0);
    let gate = Arc::clone(&bench.gate);
    let end = std::thread::spawn(move || gate.shutdown());
    let id = client.list().unwrap().parked[0].id;
    client.fail(id, 5).unwrap();
    assert_eq!(seen.recv_timeout(BOUND).unwrap().1, Decision::Fail(5));
    end.join().unwrap();
    assert!(!bench.socket.exists());
}

#[test]
fn errors_name_the_object_and_the_remedy() {
    let bench = Bench::new();
    let folder = bench.socket.parent().unwrap().to_owned();
    let text = |path: &Path| Client::connect(path).unwrap_err().to_string();
    assert!(text(&folder.join("none")).contains("no such gate socket"));
    let stale = folder.join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(text(&stale).contains("nobody listens"));

    let listen = |path: &Path| Gate::listen(path, Box::new(|_| None)).map(|gate| gate.shutdown());
    assert!(listen(&stale).is_ok(), "a stale socket is replaced");
    assert!(listen(&bench.socket).unwrap_err().to_string().contains("another server listens"));
    let plain = folder.join("plain");
    std::fs::write(&plain, b"").unwrap();
    assert!(text(&plain).contains("is not a socket"));
    let file = folder.join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(listen(&file).unwrap_err().to_string().contains("not a socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(listen(&folder.join("x".repeat(120))).unwrap_err().to_string().contains("at most 100"));

    let mut client = bench.client();
    let refused = |rule: Rule, client: &mut Client| client.park(rule).unwrap_err().to_string();
    let text = refused(Rule::at(Phase::Received).op("raed"), &mut client);
    assert!(text.contains("unknown request 'raed'; nearest: read"), "{text}");
    let text = refused(Rule::at(Phase::Received).path("/b"), &mut client);
    assert!(text.contains("/b: no such file in the mount"), "{text}");
    assert!(client.unpark(77).unwrap_err().to_string().contains("rule 77 does not exist"));
}

#[test]
fn the_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let mode = std::fs::metadata(&bench.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_line_that_is_no_request_gets_an_error_and_the_connection_goes_on() {
    use std::io::{BufRead, BufReader, Write};
    let bench = Bench::new();
    let mut raw = std::os::unix::net::UnixStream::connect(&bench.socket).unwrap();
    let lines = "{\"cmd\":\"jump\"}\n{\"cmd\":\"hello\",\"version\":99}\n{\"cmd\":\"list\"}\n";
    raw.write_all(lines.as_bytes()).unwrap();
    let answers: Vec<_> = BufReader::new(raw).lines().take(3).map(Result::unwrap).collect();
    assert!(answers[0].contains("unknown variant `jump`"), "{}", answers[0]);
    assert!(
        answers[1].contains("server speaks gate protocol 1, this program 99"),
        "{}",
        answers[1]
    );
    assert!(answers[2].contains(r#""answer":"list""#), "{}", answers[2]);
}
