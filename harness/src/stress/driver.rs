//! The driver: starts the lanes of a stress run, starts burst after burst, looks at the quiet file between them,
//! and tells what came of it.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::actions;
use super::board::{Board, Found};
use super::hand::{Hand, look};
use super::lane::{Action, Way, Workload};
use super::oracle::{Oracle, PART};
use super::readers::Reader;
use super::tally::{Span, Tally, Who};
use crate::fixture::{Aside, Fixture, Open, Stamped, forget_pages};
use crate::kit::bounds::bound;
use crate::kit::event::{Actor, Event, now_ns};
use crate::kit::verdict::{Stop, no_proof, not_run, reason_not_run};

/// Parts of the file.
pub const PARTS: usize = 64;
/// Operations of a lane in a burst, and the time after which it ends anyway.
const CALLS: usize = 12;
const BURST: Duration = Duration::from_millis(250);
/// Bounds a stress run by count, whatever time it has.
const BURSTS_MAX: u64 = 1_000_000;
/// Calls of the control, one after the other.
const CONTROL_CALLS: usize = 300;

/// Plays a stress run: with the race all lanes at once, without it one call after the other.
///
/// # Errors
/// NOTRUN, NOPROOF, HANG, or what failed.
pub fn play(fixture: &mut Fixture<'_>, workload: Workload) -> anyhow::Result<()> {
    let file = fixture.file((PARTS * PART) as u64)?;
    let board = Arc::new(
        Board::new(
            Oracle::new(file.id, PARTS),
            if fixture.race() { workload.ways.len() + workload.actions.len() } else { 0 },
        )
        .knowing(fixture.known.clone()),
    );
    let found = if fixture.race() {
        together(fixture, &file, workload, &board)?
    } else {
        in_turn(fixture, &file, workload, &board)?
    };
    if let Some((found, spans)) = found {
        tell(fixture, found, &spans);
    }
    Ok(())
}

type Ending = Option<(Found, Vec<Span>)>;

/// A lane that ended: why it was left out, if it was.
type Lane = Aside<anyhow::Result<Option<String>>>;

fn together(
    fixture: &mut Fixture<'_>,
    file: &Stamped,
    workload: Workload,
    board: &Arc<Board>,
) -> anyhow::Result<Ending> {
    let seed = fixture.seed();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    fixture.note(format!("seed {seed}, {:?}", fixture.time));
    let lanes = start(fixture, file, workload, board)?;
    let mut verifier = Verifier::open(fixture, file)?;
    let handle = fixture.open(file, Open::Buffered)?;
    let (mut tally, mut bursts, mut left) = (Tally::default(), 0, 0);
    let mut met = None;
    let end = Instant::now() + fixture.time;
    let mut last = Vec::new();
    let mut found = None;
    while let Some(spans) = board.bursts.quiesce(bound()) {
        tally.add(&spans);
        board.learn(&spans);
        last = spans;
        found = board.found();
        if found.is_none() && bursts > 0 {
            found = verifier.look(board)?;
        }
        if board.has_met() {
            // What a known bug left in the page cache would be met again by every reader.
            forget_pages(&handle)?;
            met.get_or_insert_with(|| last.clone());
        }
        board.oracle.quiet();
        if found.is_some()
            || board.bursts.is_stopped()
            || Instant::now() >= end
            || bursts == BURSTS_MAX
        {
            left = 0;
            break;
        }
        left = 1;
        bursts += 1;
        board.choose(&mut rng);
        board.bursts.start();
    }
    board.bursts.stop();
    board.bursts.end();
    if left > 0 {
        return Err(Stop::Hang(format!(
            "a lane of the stress run did not come back in {:?}",
            bound()
        ))
        .into());
    }
    for lane in lanes {
        if let Some(reason) = lane.join()?? {
            fixture.note(reason);
        }
    }
    fixture.events.clear();
    let known = board.met();
    conclude(fixture, &tally, bursts, found.is_some() || known.is_some())?;
    if let Some((_, times)) = &known {
        fixture.note(format!("a known bug was seen {times} times, and the run went on"));
    }
    let known = known.map(|(found, _)| (found, met.unwrap_or_default()));
    Ok(found.map(|found| (found, last)).or(known))
}

fn conclude(
    fixture: &mut Fixture<'_>,
    tally: &Tally,
    bursts: u64,
    harmed: bool,
) -> anyhow::Result<()> {
    let (ios, actions) = tally.calls();
    let overlaps = tally.overlaps();
    fixture.note(format!("{bursts} bursts, {ios} I/Os, {actions} actions, {overlaps} overlaps"));
    fixture.note(tally.table());
    let never: Vec<_> = tally
        .never()
        .into_iter()
        .map(|(io, action)| format!("{} with {}", io.name(), action.name()))
        .collect();
    if !never.is_empty() {
        fixture.note(format!("never met: {}", never.join(", ")));
    }
    if overlaps == 0 && !harmed {
        return Err(no_proof(format!("none of {ios} I/Os overlapped any of {actions} actions")));
    }
    Ok(())
}

/// Starts every lane in a thread of its own.
fn start(
    fixture: &mut Fixture<'_>,
    file: &Stamped,
    workload: Workload,
    board: &Arc<Board>,
) -> anyhow::Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    let mut seeds = ChaCha8Rng::seed_from_u64(fixture.seed() ^ 0x5107);
    for &way in workload.ways {
        let how = if way.is_direct() { Open::Direct } else { Open::Buffered };
        let handle = fixture.open(file, how);
        let (board, rng) = (Arc::clone(board), ChaCha8Rng::seed_from_u64(seeds.random()));
        lanes.push(fixture.aside(way.name(), move || {
            let played = handle.and_then(|handle| io_lane(&board, way, handle, rng));
            leave(&board, way.name(), played)
        })?);
    }
    for &action in workload.actions {
        let handle = fixture.open(file, Open::Buffered)?;
        let (board, rng) = (Arc::clone(board), ChaCha8Rng::seed_from_u64(seeds.random()));
        lanes.push(fixture.aside(action.name(), move || {
            let played = action_lane(&board, action, &handle, rng);
            leave(&board, action.name(), played)
        })?);
    }
    Ok(lanes)
}

/// A lane that the machine cannot have is left out; one that fails ends the stress run.
fn leave(board: &Board, name: &str, played: anyhow::Result<()>) -> anyhow::Result<Option<String>> {
    let Err(error) = played else { return Ok(None) };
    let left_out = reason_not_run(&error).map(|reason| format!("without {name}: {reason}"));
    if left_out.is_none() {
        board.bursts.stop();
    }
    board.bursts.leave();
    match left_out {
        Some(reason) => Ok(Some(reason)),
        None => Err(error.context(name.to_owned())),
    }
}

fn io_lane(board: &Board, way: Way, file: File, mut rng: ChaCha8Rng) -> anyhow::Result<()> {
    let mut hand = Hand::new(way, file)?;
    if let Hand::Reader(reader) = &hand
        && way.is_direct()
        && way != Way::SpliceDirect
    {
        board.watch(reader.spot());
    }
    board.join(way);
    let mut spans = Vec::new();
    while board.bursts.arrive(std::mem::take(&mut spans)) {
        let end = Instant::now() + BURST;
        for _ in 0..CALLS {
            if board.bursts.is_stopped() || !board.plays(way) || Instant::now() >= end {
                break;
            }
            let part = board.begin(way, &mut rng);
            let from_ns = now_ns();
            let text = hand.play(board, way, part, &mut rng)?;
            let (who, parts) = (Who::Io(way), part..part + 1);
            spans.push(Span { who, parts, from_ns, to_ns: now_ns(), aim: None, text });
        }
    }
    Ok(())
}

fn action_lane(
    board: &Board,
    action: Action,
    file: &File,
    mut rng: ChaCha8Rng,
) -> anyhow::Result<()> {
    let mut spans = Vec::new();
    while board.bursts.arrive(std::mem::take(&mut spans)) {
        let end = Instant::now() + BURST;
        for _ in 0..CALLS {
            if board.bursts.is_stopped() || Instant::now() >= end {
                break;
            }
            let (aim, part) = board.aim(action, &mut rng);
            let from_ns = now_ns();
            let (text, parts) = actions::act(action, board, file, part, &mut rng)?;
            let who = Who::Action(action);
            spans.push(Span { who, parts, from_ns, to_ns: now_ns(), aim, text });
        }
    }
    Ok(())
}

/// Reads the whole file when nothing is under way: then only what nothing buried is legal.
struct Verifier(Vec<(Way, Reader)>);

impl Verifier {
    fn open(fixture: &Fixture<'_>, file: &Stamped) -> anyhow::Result<Verifier> {
        let mut verifier = Vec::new();
        for way in [Way::Buffered, Way::Mapped, Way::Direct] {
            let how = if way.is_direct() { Open::Direct } else { Open::Buffered };
            match fixture.open(file, how).and_then(|file| Reader::new(way, file, PARTS * PART)) {
                Ok(reader) => verifier.push((way, reader)),
                // A mount that has no direct I/O, or no mappings.
                Err(_) if way != Way::Buffered => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Verifier(verifier))
    }

    fn look(&mut self, board: &Board) -> anyhow::Result<Option<Found>> {
        for (way, reader) in &mut self.0 {
            for part in 0..PARTS {
                let reading = board.oracle.read();
                let got = reader.read(part, PART)?;
                look(board, *way, part, reading, got, PART);
            }
        }
        let found = board.found();
        Ok(found.map(|found| Found { who: format!("{}, when all was quiet", found.who), ..found }))
    }
}

/// The control: every kind of call, one after the other, where each order is known.
fn in_turn(
    fixture: &mut Fixture<'_>,
    file: &Stamped,
    workload: Workload,
    board: &Arc<Board>,
) -> anyhow::Result<Ending> {
    let mut rng = ChaCha8Rng::seed_from_u64(fixture.seed());
    let mut hands = Vec::new();
    for &way in workload.ways {
        let how = if way.is_direct() { Open::Direct } else { Open::Buffered };
        match fixture.open(file, how).and_then(|file| Ok((way, Hand::new(way, file)?))) {
            Ok(hand) => hands.push(hand),
            Err(error) if reason_not_run(&error).is_some() => {}
            Err(error) => return Err(error),
        }
    }
    if hands.is_empty() {
        return Err(not_run("none of the ways of I/O can be had here"));
    }
    let handle = fixture.open(file, Open::Buffered)?;
    board.choose(&mut rng);
    let mut spans = Vec::new();
    for _ in 0..CONTROL_CALLS {
        let part = board.part(&mut rng);
        let from_ns = now_ns();
        let number = rng.random_range(0..hands.len() + workload.actions.len());
        let (who, text, parts) = match hands.get_mut(number) {
            Some((way, hand)) => match hand.play(board, *way, part, &mut rng) {
                Ok(text) => (Who::Io(*way), text, part..part + 1),
                Err(error) if reason_not_run(&error).is_some() => {
                    continue;
                }
                Err(error) => return Err(error).context(way.name()),
            },
            None => {
                let action = workload.actions[number - hands.len()];
                match actions::act(action, board, &handle, part, &mut rng) {
                    Ok((text, parts)) => (Who::Action(action), text, parts),
                    Err(error) if reason_not_run(&error).is_some() => {
                        continue;
                    }
                    Err(error) => return Err(error).context(action.name()),
                }
            }
        };
        spans.push(Span { who, parts, from_ns, to_ns: now_ns(), aim: None, text });
        if let Some(found) = board.found() {
            return Ok(Some((found, spans)));
        }
        board.oracle.quiet();
    }
    let found = Verifier::open(fixture, file)?.look(board)?;
    Ok(found.map(|found| (found, spans)))
}

/// The fault, its strip, what the oracle knew, and what happened to the part before, as a timeline.
fn tell(fixture: &mut Fixture<'_>, found: Found, spans: &[Span]) {
    const MOST: usize = 24;
    let Found { who, part, harm } = found;
    fixture.note(format!("seen by {who}, in part {part} (byte {})", part * PART));
    if !harm.history.is_empty() {
        fixture.note(format!("what the oracle knows of it:\n  {}", harm.history.join("\n  ")));
    }
    fixture.faults.extend(harm.faults);
    fixture.strips.extend(harm.strips);
    let mut near: Vec<&Span> = spans
        .iter()
        .filter(|span| span.parts.contains(&part) || span.who == Who::Action(Action::Fork))
        .collect();
    near.sort_by_key(|span| span.to_ns);
    let from = near.len().saturating_sub(MOST);
    for span in &near[from..] {
        let actor = match span.who {
            Who::Io(_) => Actor::Test,
            Who::Action(_) => Actor::Racer,
        };
        let us = (span.to_ns - span.from_ns) as f64 / 1000.0;
        let text = format!("{} (took {us:.1} µs)", span.text);
        fixture.events.push(Event { at_ns: span.from_ns, actor, text });
    }
    fixture.events.sort_by_key(|event| event.at_ns);
}
