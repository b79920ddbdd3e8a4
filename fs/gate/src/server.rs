//! The control server: a thread that accepts, a thread for each connection.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket;

use super::wire::{Answer, LINE_MAX, LOG_MAX, Request, VERSION, WAIT_MAX_MS};
use super::{Decision, Gate, GateError, Notified, ReleasedBy};

/// Longest path of a Unix socket: `sun_path` less its terminator and our temporary suffix.
const PATH_MAX: usize = 100;

/// How often a waiting connection looks whether its client is still there.
const WAIT_SLICE: Duration = Duration::from_millis(100);

/// Makes the socket. It appears under its name with its mode already set, by a rename.
pub(super) fn bind(socket: &Path) -> Result<UnixListener, GateError> {
    if socket.as_os_str().len() > PATH_MAX {
        return Err(GateError::PathTooLong { path: socket.to_owned(), max: PATH_MAX });
    }
    let what = |verb: &str| format!("{verb} gate socket {}", socket.display());
    if let Ok(found) = std::fs::symlink_metadata(socket) {
        if !found.file_type().is_socket() {
            return Err(GateError::NotASocket(socket.to_owned()));
        }
        if UnixStream::connect(socket).is_ok() {
            return Err(GateError::InUse(socket.to_owned()));
        }
    }
    let mut temporary = socket.as_os_str().to_owned();
    temporary.push(".new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(GateError::io(what("replace"), error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(|e| GateError::io(what("create"), e))?;
    std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o600))
        .and_then(|()| std::fs::rename(&temporary, socket))
        .map_err(|error| GateError::io(what("create"), error))?;
    Ok(listener)
}

/// Starts the thread that accepts. It ends when the listener is stopped.
pub(super) fn start(gate: &Arc<Gate>) -> Result<(), GateError> {
    let gate = Arc::clone(gate);
    std::thread::Builder::new()
        .name("gate-accept".to_owned())
        .spawn(move || accept(&gate))
        .map(drop)
        .map_err(|error| GateError::io("start the gate's control server", error))
}

/// Makes `accept` return, now and for ever.
pub(super) fn stop(listener: &UnixListener) {
    let _ = socket::shutdown(listener.as_raw_fd(), socket::Shutdown::Both);
}

fn accept(gate: &Arc<Gate>) {
    loop {
        match gate.listener().accept() {
            Ok((stream, _)) => {
                let gate = Arc::clone(gate);
                let serve = move || serve(&gate, stream);
                // Without a thread the stream is closed, and the client says that it was.
                let _ = std::thread::Builder::new().name("gate-client".to_owned()).spawn(serve);
            }
            Err(_) if gate.is_closed() => return,
            // Out of descriptors: the only error that passes. A pause keeps it from spinning.
            Err(_) => std::thread::sleep(WAIT_SLICE),
        }
    }
}

fn serve(gate: &Gate, stream: UnixStream) {
    let Some(connection) = stream.try_clone().ok().and_then(|copy| gate.connect(copy)) else {
        return;
    };
    converse(gate, connection, &stream);
    gate.disconnect(connection);
}

/// Answers line by line until the client is gone or says what is no protocol.
fn converse(gate: &Gate, connection: u64, stream: &UnixStream) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line) {
            Ok(count) if count > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => answer(gate, connection, stream, request)
                .unwrap_or_else(|error| Answer::Error { message: error.to_string() }),
            Err(error) => Answer::Error { message: format!("gate protocol: {error}") },
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else { return };
        text.push(b'\n');
        let mut writer = stream;
        if writer.write_all(&text).is_err() {
            return;
        }
    }
}

fn answer(
    gate: &Gate,
    connection: u64,
    stream: &UnixStream,
    request: Request,
) -> Result<Answer, GateError> {
    let released = |count| Ok(Answer::Released { count });
    match request {
        Request::Hello { version: VERSION } => {
            let start_ns = gate.start_ns();
            Ok(Answer::Hello { version: VERSION, pid: std::process::id(), start_ns })
        }
        Request::Hello { version } => Err(GateError::Version { server: VERSION, client: version }),
        Request::Park { rule } => Ok(Answer::Rule { rule: gate.arm(*rule, connection)? }),
        Request::List => Ok(Answer::List {
            rules: gate.rules(),
            parked: gate.parked(None),
            watchdog_releases: gate.watchdog_releases(),
            last_seq: gate.last_seq(),
        }),
        Request::Wait { rule, parked, done, timeout_ms } => {
            wait(gate, stream, rule, parked, done, timeout_ms)
        }
        Request::Release { id, rule, all } => match (id, rule, all) {
            (Some(id), None, false) => released(gate.decide(id, Decision::Go)?),
            (None, Some(rule), false) => released(gate.release_rule(rule)?),
            (None, None, true) => released(gate.release_parked()),
            _ => Err(GateError::Protocol("release takes one of id, rule, all".to_owned())),
        },
        Request::Fail { id, errno } if (1..4096).contains(&errno) => {
            released(gate.decide(id, Decision::Fail(errno))?)
        }
        Request::Fail { errno, .. } => {
            Err(GateError::Protocol(format!("errno is {errno}, must be 1 to 4095")))
        }
        Request::Short { id, bytes } => released(gate.decide(id, Decision::Short(bytes))?),
        Request::Drop { id } => released(gate.decide(id, Decision::Drop)?),
        Request::Unpark { rule } => released(gate.unpark(rule)?),
        Request::Open => {
            let count = gate.parked(None).len() as u64;
            gate.open_all(ReleasedBy::Client);
            released(count)
        }
        Request::Ask { what } => Ok(Answer::Told { text: gate.ask(&what)? }),
        Request::Notify { notice, timeout_ms } => {
            let bound = Duration::from_millis(timeout_ms.min(WAIT_MAX_MS));
            let (Notified { is_over, errno }, number) = gate.notify(notice, bound)?;
            Ok(Answer::Notified { is_over, errno, number })
        }
        Request::Retrieved { number, timeout_ms } => {
            let bound = Duration::from_millis(timeout_ms.min(WAIT_MAX_MS));
            wait_until(gate, stream, bound, |state| state.retrieved.is_there(number));
            Ok(Answer::Retrieved { data: gate.take_retrieved(number) })
        }
        Request::Node { path } => Ok(Answer::Node { ino: gate.node(&path)? }),
        Request::Log { since, max, follow_ms } => {
            let bound = Duration::from_millis(follow_ms.min(WAIT_MAX_MS));
            wait_until(gate, stream, bound, |state| state.finished_total() > since);
            let (records, lost, next, open) = gate.log(since, max.min(LOG_MAX));
            Ok(Answer::Log { records, open, lost, next })
        }
    }
}

fn wait(
    gate: &Gate,
    stream: &UnixStream,
    rule: Option<u64>,
    parked: Option<u64>,
    done: Option<u64>,
    timeout_ms: u64,
) -> Result<Answer, GateError> {
    if parked.is_none() && done.is_none() {
        return Err(GateError::Protocol("wait takes parked, done, or both".to_owned()));
    }
    let bound = Duration::from_millis(timeout_ms.min(WAIT_MAX_MS));
    let reached = wait_until(gate, stream, bound, |state| {
        parked.is_none_or(|wanted| state.parked_count(rule) >= wanted)
            && done.is_none_or(|seq| state.is_finished(seq))
    });
    Ok(Answer::Waited { reached, parked: gate.parked(rule) })
}

/// Waits for `ready` within `bound`, and gives up when the client hangs up.
fn wait_until(
    gate: &Gate,
    stream: &UnixStream,
    bound: Duration,
    ready: impl Fn(&super::state::State) -> bool,
) -> bool {
    let end = Instant::now() + bound;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if gate.wait_for(left.min(WAIT_SLICE), &ready) {
            return true;
        }
        if Instant::now() >= end || gate.is_closed() || hung_up(stream) {
            return false;
        }
    }
}

fn hung_up(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|seen| seen.intersects(gone))
}
