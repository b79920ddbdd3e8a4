//! The weather: starts the lanes of a storm, lets gust after gust blow, looks at the quiet file between them,
//! and tells what came of it.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::actions;
use super::lane::{Action, Cast, Way};
use super::oracle::{Oracle, PART, Reading};
use super::readers::{Got, Reader};
use super::sky::{Found, Sky};
use super::tally::{Span, Tally, Who};
use super::writers::Writer;
use crate::engine::Done;
use crate::event::{Actor, Event, now_ns};
use crate::scene::{Aside, BOUND, Open, Scene, Stamped};
use crate::verdict::{Class, Fault, Stop, no_proof, not_run};

/// Parts of the file.
pub const PARTS: usize = 64;
/// Operations of a lane in a gust, and the time after which it ends anyway.
const CALLS: usize = 12;
const GUST: Duration = Duration::from_millis(250);
/// Bounds a storm by count, whatever time it has.
const GUSTS_MAX: u64 = 1_000_000;
/// Calls of the control, one after the other.
const CALM_CALLS: usize = 300;

/// Plays a storm: with the race all lanes at once, without it one call after the other.
///
/// # Errors
/// NOTRUN, NOPROOF, HANG, or what failed.
pub fn play(scene: &mut Scene<'_>, cast: Cast) -> anyhow::Result<()> {
    let file = scene.file((PARTS * PART) as u64)?;
    let sky = Arc::new(Sky::new(
        Oracle::new(file.id, PARTS),
        if scene.race() { cast.ways.len() + cast.actions.len() } else { 0 },
    ));
    let found = if scene.race() {
        storm(scene, &file, cast, &sky)?
    } else {
        calm(scene, &file, cast, &sky)?
    };
    if let Some((found, spans)) = found {
        tell(scene, found, &spans);
    }
    Ok(())
}

type Ending = Option<(Found, Vec<Span>)>;

/// A lane that ended: why it was left out, if it was.
type Lane = Aside<anyhow::Result<Option<String>>>;

fn storm(
    scene: &mut Scene<'_>,
    file: &Stamped,
    cast: Cast,
    sky: &Arc<Sky>,
) -> anyhow::Result<Ending> {
    let seed = scene.seed();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    scene.note(format!("seed {seed}, {:?}", scene.time));
    let lanes = start(scene, file, cast, sky)?;
    let mut eyes = Eyes::open(scene, file)?;
    let (mut tally, mut gusts, mut left) = (Tally::default(), 0, 0);
    let end = Instant::now() + scene.time;
    let mut last = Vec::new();
    let mut found = None;
    while let Some(spans) = sky.gusts.calm(BOUND) {
        tally.add(&spans);
        sky.learn(&spans);
        last = spans;
        found = sky.found();
        if found.is_none() && gusts > 0 {
            found = eyes.look(sky)?;
        }
        sky.oracle.quiet();
        if found.is_some() || sky.gusts.is_stopped() || Instant::now() >= end || gusts == GUSTS_MAX
        {
            left = 0;
            break;
        }
        left = 1;
        gusts += 1;
        sky.heat(&mut rng);
        sky.gusts.blow();
    }
    sky.gusts.stop();
    sky.gusts.end();
    if left > 0 {
        return Err(
            Stop::Hang(format!("a lane of the storm did not come back in {BOUND:?}")).into()
        );
    }
    for lane in lanes {
        if let Some(reason) = lane.join()?? {
            scene.note(reason);
        }
    }
    scene.events.clear();
    conclude(scene, &tally, gusts, found.is_some())?;
    Ok(found.map(|found| (found, last)))
}

fn conclude(scene: &mut Scene<'_>, tally: &Tally, gusts: u64, harmed: bool) -> anyhow::Result<()> {
    let (ios, actions) = tally.calls();
    let overlaps = tally.overlaps();
    scene.note(format!("{gusts} gusts, {ios} I/Os, {actions} actions, {overlaps} overlaps"));
    scene.note(tally.table());
    let never: Vec<_> = tally
        .never()
        .into_iter()
        .map(|(io, action)| format!("{} with {}", io.name(), action.name()))
        .collect();
    if !never.is_empty() {
        scene.note(format!("never met: {}", never.join(", ")));
    }
    if overlaps == 0 && !harmed {
        return Err(no_proof(format!("none of {ios} I/Os overlapped any of {actions} actions")));
    }
    Ok(())
}

/// Starts every lane in a thread of its own.
fn start(
    scene: &mut Scene<'_>,
    file: &Stamped,
    cast: Cast,
    sky: &Arc<Sky>,
) -> anyhow::Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    let mut seeds = ChaCha8Rng::seed_from_u64(scene.seed() ^ 0x5107);
    for &way in cast.ways {
        let how = if way.is_direct() { Open::Direct } else { Open::Buffered };
        let handle = scene.open(file, how);
        let (sky, rng) = (Arc::clone(sky), ChaCha8Rng::seed_from_u64(seeds.random()));
        lanes.push(scene.aside(way.name(), move || {
            let played = handle.and_then(|handle| io_lane(&sky, way, handle, rng));
            leave(&sky, way.name(), played)
        })?);
    }
    for &action in cast.actions {
        let handle = scene.open(file, Open::Buffered)?;
        let (sky, rng) = (Arc::clone(sky), ChaCha8Rng::seed_from_u64(seeds.random()));
        lanes.push(scene.aside(action.name(), move || {
            let played = action_lane(&sky, action, &handle, rng);
            leave(&sky, action.name(), played)
        })?);
    }
    Ok(lanes)
}

/// A lane that the machine cannot have is left out; one that fails ends the storm.
fn leave(sky: &Sky, name: &str, played: anyhow::Result<()>) -> anyhow::Result<Option<String>> {
    let Err(error) = played else { return Ok(None) };
    let left_out = match error.downcast_ref() {
        Some(Stop::NotRun(reason)) => Some(format!("without {name}: {reason}")),
        _ => None,
    };
    if left_out.is_none() {
        sky.gusts.stop();
    }
    sky.gusts.leave();
    match left_out {
        Some(reason) => Ok(Some(reason)),
        None => Err(error.context(name.to_owned())),
    }
}

/// An I/O lane or what a control has of it.
enum Hand {
    Reader(Reader),
    Writer(Writer),
}

impl Hand {
    fn new(way: Way, file: File) -> anyhow::Result<Hand> {
        let len = PARTS * PART;
        Ok(if way.writes() {
            Hand::Writer(Writer::new(way, file, len)?)
        } else {
            Hand::Reader(Reader::new(way, file, len)?)
        })
    }

    /// One call, judged; gives what it was for people.
    fn play(
        &mut self,
        sky: &Sky,
        way: Way,
        part: usize,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<String> {
        let at = part * PART;
        match self {
            Hand::Writer(writer) => {
                let reading = sky.oracle.read();
                let (open, bytes) = sky.oracle.write(part, way.manner());
                let done = writer.write(part, &bytes);
                sky.oracle.end(open, matches!(done, Ok(Ok(PART))));
                let done = done?;
                if let Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) = done {
                    return Err(not_run(format!("the target is full: {errno}")));
                }
                let excused = is_excused(sky, way, reading, &done);
                if let Some(fault) = wrong(way, at, &done).filter(|_| !excused) {
                    sky.report(Found::fault(way.name(), part, fault));
                }
                Ok(format!("{} {at}+{PART} -> {}", way.name(), count(&done)))
            }
            Hand::Reader(reader) => {
                let half = matches!(way, Way::Uring | Way::Aio) && rng.random_bool(0.5);
                let len = if half { PART / 2 } else { PART };
                let reading = sky.oracle.read();
                let got = reader.read(part, len)?;
                let done = got.as_ref().map(Vec::len).map_err(|errno| *errno);
                look(sky, way, part, reading, got, len);
                Ok(format!("{} {at}+{len} -> {}", way.name(), count(&done)))
            }
        }
    }
}

fn count(done: &Done) -> String {
    done.map_or_else(|errno| format!("{errno:?}"), |count| count.to_string())
}

/// What is wrong with the count of a write, if anything is.
fn wrong(way: Way, at: usize, done: &Done) -> Option<Fault> {
    let what = way.name();
    let (class, returned) = match done {
        Ok(PART) => return None,
        Ok(count) => (Class::Short, count.to_string()),
        Err(errno) => (Class::Errno, errno.to_string()),
    };
    let text = format!("{what} at byte {at}: returned {returned}, must be {PART}");
    Some(Fault { class, text })
}

/// Whether what a call returned is no harm: see the [oracle](super::oracle).
fn is_excused(sky: &Sky, way: Way, reading: Reading, done: &Done) -> bool {
    match done {
        Err(Errno::EIO) if way.is_direct() => sky.oracle.may_collide(reading),
        Err(Errno::EFAULT) | Ok(_) if way == Way::MappedWrite => sky.oracle.may_be_short(reading),
        _ => false,
    }
}

/// Judges a read.
fn look(sky: &Sky, way: Way, part: usize, reading: Reading, got: Got, len: usize) {
    let what = way.name();
    match got {
        Ok(bytes) => {
            if let Err(harm) = sky.oracle.judge(what, reading, part, &bytes, len) {
                sky.report(Found { who: what.to_owned(), part, harm });
            }
        }
        Err(errno) if is_excused(sky, way, reading, &Err(errno)) => {}
        Err(errno) => {
            let text = format!("{what} at byte {}: {errno}, must return {len}", part * PART);
            sky.report(Found::fault(what, part, Fault { class: Class::Errno, text }));
        }
    }
}

fn io_lane(sky: &Sky, way: Way, file: File, mut rng: ChaCha8Rng) -> anyhow::Result<()> {
    let mut hand = Hand::new(way, file)?;
    if let Hand::Reader(reader) = &hand
        && way.is_direct()
        && way != Way::SpliceDirect
    {
        sky.watch(reader.spot());
    }
    sky.join(way);
    let mut spans = Vec::new();
    while sky.gusts.arrive(std::mem::take(&mut spans)) {
        let end = Instant::now() + GUST;
        for _ in 0..CALLS {
            if sky.gusts.is_stopped() || !sky.plays(way) || Instant::now() >= end {
                break;
            }
            let part = sky.begin(way, &mut rng);
            let from_ns = now_ns();
            let text = hand.play(sky, way, part, &mut rng)?;
            let (who, parts) = (Who::Io(way), part..part + 1);
            spans.push(Span { who, parts, from_ns, to_ns: now_ns(), aim: None, text });
        }
    }
    Ok(())
}

fn action_lane(sky: &Sky, action: Action, file: &File, mut rng: ChaCha8Rng) -> anyhow::Result<()> {
    let mut spans = Vec::new();
    while sky.gusts.arrive(std::mem::take(&mut spans)) {
        let end = Instant::now() + GUST;
        for _ in 0..CALLS {
            if sky.gusts.is_stopped() || Instant::now() >= end {
                break;
            }
            let (aim, part) = sky.aim(action, &mut rng);
            let from_ns = now_ns();
            let (text, parts) = actions::act(action, sky, file, part, &mut rng)?;
            let who = Who::Action(action);
            spans.push(Span { who, parts, from_ns, to_ns: now_ns(), aim, text });
        }
    }
    Ok(())
}

/// Reads the whole file when nothing is under way: then only what nothing buried is legal.
struct Eyes(Vec<(Way, Reader)>);

impl Eyes {
    fn open(scene: &Scene<'_>, file: &Stamped) -> anyhow::Result<Eyes> {
        let mut eyes = Vec::new();
        for way in [Way::Buffered, Way::Mapped, Way::Direct] {
            let how = if way.is_direct() { Open::Direct } else { Open::Buffered };
            match scene.open(file, how).and_then(|file| Reader::new(way, file, PARTS * PART)) {
                Ok(reader) => eyes.push((way, reader)),
                // A mount that has no direct I/O, or no mappings.
                Err(_) if way != Way::Buffered => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Eyes(eyes))
    }

    fn look(&mut self, sky: &Sky) -> anyhow::Result<Option<Found>> {
        for (way, reader) in &mut self.0 {
            for part in 0..PARTS {
                let reading = sky.oracle.read();
                let got = reader.read(part, PART)?;
                look(sky, *way, part, reading, got, PART);
            }
        }
        let found = sky.found();
        Ok(found.map(|found| Found { who: format!("{}, when all was quiet", found.who), ..found }))
    }
}

/// The control: every kind of call, one after the other, where each order is known.
fn calm(
    scene: &mut Scene<'_>,
    file: &Stamped,
    cast: Cast,
    sky: &Arc<Sky>,
) -> anyhow::Result<Ending> {
    let mut rng = ChaCha8Rng::seed_from_u64(scene.seed());
    let mut hands = Vec::new();
    for &way in cast.ways {
        let how = if way.is_direct() { Open::Direct } else { Open::Buffered };
        match scene.open(file, how).and_then(|file| Ok((way, Hand::new(way, file)?))) {
            Ok(hand) => hands.push(hand),
            Err(error)
                if error
                    .downcast_ref::<Stop>()
                    .is_some_and(|stop| matches!(stop, Stop::NotRun(_))) => {}
            Err(error) => return Err(error),
        }
    }
    if hands.is_empty() {
        return Err(not_run("none of the ways of I/O can be had here"));
    }
    let handle = scene.open(file, Open::Buffered)?;
    sky.heat(&mut rng);
    let mut spans = Vec::new();
    for _ in 0..CALM_CALLS {
        let part = sky.part(&mut rng);
        let from_ns = now_ns();
        let number = rng.random_range(0..hands.len() + cast.actions.len());
        let (who, text, parts) = match hands.get_mut(number) {
            Some((way, hand)) => match hand.play(sky, *way, part, &mut rng) {
                Ok(text) => (Who::Io(*way), text, part..part + 1),
                Err(error)
                    if error
                        .downcast_ref::<Stop>()
                        .is_some_and(|stop| matches!(stop, Stop::NotRun(_))) =>
                {
                    continue;
                }
                Err(error) => return Err(error).context(way.name()),
            },
            None => {
                let action = cast.actions[number - hands.len()];
                match actions::act(action, sky, &handle, part, &mut rng) {
                    Ok((text, parts)) => (Who::Action(action), text, parts),
                    Err(error)
                        if error
                            .downcast_ref::<Stop>()
                            .is_some_and(|stop| matches!(stop, Stop::NotRun(_))) =>
                    {
                        continue;
                    }
                    Err(error) => return Err(error).context(action.name()),
                }
            }
        };
        spans.push(Span { who, parts, from_ns, to_ns: now_ns(), aim: None, text });
        if let Some(found) = sky.found() {
            return Ok(Some((found, spans)));
        }
        sky.oracle.quiet();
    }
    let found = Eyes::open(scene, file)?.look(sky)?;
    Ok(found.map(|found| (found, spans)))
}

/// The fault, its strip, what the oracle knew, and what happened to the part before, as a timeline.
fn tell(scene: &mut Scene<'_>, found: Found, spans: &[Span]) {
    const MOST: usize = 24;
    let Found { who, part, harm } = found;
    scene.note(format!("seen by {who}, in part {part} (byte {})", part * PART));
    if !harm.history.is_empty() {
        scene.note(format!("what the oracle knows of it:\n  {}", harm.history.join("\n  ")));
    }
    scene.faults.extend(harm.faults);
    scene.strips.extend(harm.strips);
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
        scene.events.push(Event { at_ns: span.from_ns, actor, text });
    }
    scene.events.sort_by_key(|event| event.at_ns);
}
