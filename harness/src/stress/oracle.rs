//! What a reader may see while others write, truncate and punch: the legality model of the stress run.
//!
//! **Ticks.** One counter is drawn from (fetch_add, SeqCst) before and after every operation. When the end of
//! A has a smaller tick than the begin of B, then A had returned before B was called: both draws are
//! read-modify-writes of one atomic, so the smaller one happens before the greater. Ticks compare nothing else:
//! operations whose ticks are interlocked are *concurrent*, and the kernel may have put them in any order.
//!
//! **Changes.** Whoever is about to change a part of the file first enters the change in the part's history
//! (under its lock), then draws its begin, then makes the system call, then draws its end and enters that. So
//! a reader that saw an effect of the call finds the change in the history when it looks after its own call.
//! Each write has a generation of its own; a truncate (down and up again) and a punch leave zeroes.
//!
//! **What is legal.** A reader whose ticks are `from` and `to` may see at each byte the content of any change C
//! of that byte that
//! 1. began before `to`, and
//! 2. is not *buried*: there is no other change D of that byte with C.end < D.begin and D.end < `from`.
//!
//! That is a regular register for each byte: no false alarm is possible on a filesystem that keeps to the order
//! of completed calls, for the value that the byte really has when it is read is that of a change which nothing
//! buried. It is not a linearizable one: two readers may see concurrent changes in different orders, and a
//! torn read is legal, as POSIX filesystems do not promise more to readers that race with writers.
//!
//! **What buries.** Only a change that certainly happened as a whole and stayed: a write that returned its full
//! count, a truncate, a punch. One that returned an error or less may have happened or not: its content is legal
//! from its begin on, and it buries nothing. Nor does a direct write that overlapped a write through the page cache or
//! a mapping, of whichever page of the file: they may share a folio, a dirty folio cannot be dropped, and then the
//! older bytes beside those that were stored hide the direct write and may overwrite it. open(2) warns of that
//! mixture, and the kernel says in its log that it failed ("Page cache invalidation failure on direct I/O").
//!
//! **Sizes.** Every truncate extends the file again before it ends. So a count that is too small is legal only
//! for a reader that is concurrent with a truncate.
//!
//! **Errors.** A direct call may return EIO beside a store through a mapping: blocks that were allocated late
//! appear between its flush and its look at the extents (iomap says "Direct I/O collision with buffered writes").
//! A page behind the end of the file cannot be mapped: EFAULT beside a truncate.
//!
//! **Names of what is illegal.** STALE: a content, be it zeroes, that a write buried. RESURRECTED: one that a truncate or punch
//! buried. LOST: zeroes or poison where neither may be. FOREIGN: stamps of another file or place, of a generation
//! that was never begun, and anything else. LEAK is not of this model: see [`crate::kit::fork::Task::Steady`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::lock;
use crate::kit::stamp::{self, Legal};
use crate::kit::strip::{Part, Seen, Strip};
use crate::kit::verdict::{Class, Fault};

/// Bytes of a part: what one operation reads or writes.
pub const PART: usize = 4096;

/// See the [module](self).
#[derive(Debug)]
pub struct Oracle {
    file: u64,
    ticks: AtomicU64,
    generations: AtomicU32,
    parts: Vec<Mutex<Vec<Change>>>,
    shrinks: Mutex<Vec<Span>>,
    /// Writes through the page cache and through mappings, of any part.
    cached: Mutex<Vec<(Span, Manner)>>,
}

/// From which tick to which; an end that is not known yet is later than all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    begin: u64,
    end: u64,
}

impl Span {
    fn is_before(self, other: Span) -> bool {
        self.end < other.begin
    }

    fn overlaps(self, other: Span) -> bool {
        !self.is_before(other) && !other.is_before(self)
    }
}

/// A change of a part, or of the end of it.
#[derive(Clone, Debug)]
struct Change {
    span: Span,
    content: Content,
    /// Bytes of the part.
    bytes: Range<usize>,
    manner: Manner,
    /// Whether it buries what ended before it.
    buries: bool,
}

/// What a change leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Stamps of this generation.
    Generation(u32),
    /// Zeroes.
    Zero,
}

/// How a change is made, as far as it matters for what it buries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By the filesystem itself: a truncate or a punch.
    Whole,
    /// By a write through the page cache.
    Cached,
    /// O_DIRECT.
    Direct,
    /// By stores to a mapping.
    Mapped,
}

/// A change that is under way; whoever has it must say how it ended.
#[derive(Debug)]
#[must_use = "a change that does not end stays legal for ever"]
pub struct Open {
    begin: u64,
    parts: Range<usize>,
    manner: Manner,
    /// The begin of its shrink.
    shrink: Option<u64>,
}

/// A read that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Reading(u64);

/// What was wrong with a read.
#[derive(Debug)]
pub struct Harm {
    /// In sentences.
    pub faults: Vec<Fault>,
    /// Block by block.
    pub strips: Vec<Strip>,
    /// The changes of the part that are remembered, oldest first.
    pub history: Vec<String>,
}

impl Oracle {
    /// For a file of that many parts, all of generation 1.
    pub fn new(file: u64, parts: usize) -> Oracle {
        let first = Change {
            span: Span { begin: 0, end: 0 },
            content: Content::Generation(1),
            bytes: 0..PART,
            manner: Manner::Whole,
            buries: true,
        };
        Oracle {
            file,
            ticks: AtomicU64::new(1),
            generations: AtomicU32::new(2),
            parts: (0..parts).map(|_| Mutex::new(vec![first.clone()])).collect(),
            shrinks: Mutex::default(),
            cached: Mutex::default(),
        }
    }

    /// How many parts the file has.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// A write of a whole part is about to begin; gives its bytes, which nobody wrote before.
    pub fn write(&self, part: usize, manner: Manner) -> (Open, Vec<u8>) {
        let generation = self.generations.fetch_add(1, Ordering::SeqCst);
        let open = self.enter(part..part + 1, 0, Content::Generation(generation), manner);
        (open, stamp::content(self.file, generation, (part * PART) as u64, PART))
    }

    /// A punch of a whole part is about to begin.
    pub fn punch(&self, part: usize) -> Open {
        self.enter(part..part + 1, 0, Content::Zero, Manner::Whole)
    }

    /// A truncate to `size` bytes and up again is about to begin.
    pub fn truncate(&self, size: usize) -> Open {
        let begin = self.tick();
        lock(&self.shrinks).push(Span { begin, end: u64::MAX });
        let parts = size / PART..self.parts();
        let open = self.enter(parts, size % PART, Content::Zero, Manner::Whole);
        Open { shrink: Some(begin), ..open }
    }

    fn enter(&self, parts: Range<usize>, skip: usize, content: Content, manner: Manner) -> Open {
        let begin = self.tick();
        let span = Span { begin, end: u64::MAX };
        for part in parts.clone() {
            let bytes = if part == parts.start { skip..PART } else { 0..PART };
            lock(&self.parts[part]).push(Change { span, content, bytes, manner, buries: false });
        }
        if matches!(manner, Manner::Cached | Manner::Mapped) {
            lock(&self.cached).push((span, manner));
        }
        Open { begin, parts, manner, shrink: None }
    }

    /// A change has ended; `whole` when it certainly happened as told.
    pub fn end(&self, open: Open, whole: bool) {
        let end = self.tick();
        let span = Span { begin: open.begin, end };
        // All that overlapped it had begun by now, and was entered before it began.
        let hidden = open.manner == Manner::Direct
            && lock(&self.cached).iter().any(|(cached, _)| cached.overlaps(span));
        for part in open.parts {
            let mut history = lock(&self.parts[part]);
            let found = history.iter_mut().find(|change| change.span.begin == open.begin);
            let change = found.expect("an open change is in the history");
            (change.span.end, change.buries) = (end, whole && !hidden);
        }
        for (span, _) in lock(&self.cached).iter_mut().filter(|(span, _)| span.begin == open.begin)
        {
            span.end = end;
        }
        for span in lock(&self.shrinks).iter_mut().filter(|span| Some(span.begin) == open.shrink) {
            span.end = end;
        }
    }

    /// A read is about to begin.
    pub fn read(&self) -> Reading {
        Reading(self.tick())
    }

    /// Whether a count that is too small may be right for a call that began then and has ended now.
    pub fn may_be_short(&self, reading: Reading) -> bool {
        let span = Span { begin: reading.0, end: self.tick() };
        lock(&self.shrinks).iter().any(|shrink| shrink.overlaps(span))
    }

    /// Whether EIO may be right for a direct call that began then and has ended now.
    pub fn may_collide(&self, reading: Reading) -> bool {
        let span = Span { begin: reading.0, end: self.tick() };
        let is_store =
            |(cached, manner): &(Span, Manner)| *manner == Manner::Mapped && cached.overlaps(span);
        lock(&self.cached).iter().any(is_store)
    }

    /// Judges a read of a part's first bytes that has ended, of which `wanted` were asked for.
    ///
    /// # Errors
    /// What was wrong with it.
    pub fn judge(
        &self,
        what: &str,
        reading: Reading,
        part: usize,
        bytes: &[u8],
        wanted: usize,
    ) -> Result<(), Box<Harm>> {
        let span = Span { begin: reading.0, end: self.tick() };
        let mut harm = Harm { faults: Vec::new(), strips: Vec::new(), history: Vec::new() };
        let short = bytes.len() < wanted;
        if bytes.len() > wanted
            || short && !lock(&self.shrinks).iter().any(|shrink| shrink.overlaps(span))
        {
            let text = format!(
                "{what} at byte {}: returned {}, must be {wanted}: no truncate was under way",
                part * PART,
                bytes.len()
            );
            harm.faults.push(Fault { class: Class::Short, text });
        }
        let history = lock(&self.parts[part]);
        for range in ranges(&history, bytes.len()) {
            let legal = self.legal(&history, span, &range);
            let at = (part * PART + range.start) as u64;
            let data = &bytes[range.clone()];
            if let Some(strip) = Strip::of(what, data, at, &legal) {
                let class = self.class(&history, span, &range, &strip, data);
                let texts = stamp::judge(what, data, at, &legal);
                let text = texts.first().map_or(String::new(), |fault| fault.text.clone());
                harm.faults.push(Fault { class, text });
                harm.strips.push(strip);
            }
        }
        if harm.faults.is_empty() {
            return Ok(());
        }
        harm.history = tell(&history, span);
        Err(Box::new(harm))
    }

    /// Contents that a range of a part may have for a reader.
    fn legal(&self, history: &[Change], reader: Span, range: &Range<usize>) -> Vec<Legal> {
        let of_range = || history.iter().filter(|change| change.bytes.contains(&range.start));
        let seen = of_range().filter(|change| {
            change.span.begin < reader.end && !of_range().any(|other| buries(other, change, reader))
        });
        let contents = seen.map(|change| match change.content {
            Content::Generation(generation) => Legal::Generation(self.file, generation),
            Content::Zero => Legal::Hole(self.file),
        });
        let mut legal: Vec<Legal> = Vec::new();
        for content in contents {
            if !legal.contains(&content) {
                legal.push(content);
            }
        }
        legal
    }

    /// The worst kind of harm in a strip.
    fn class(
        &self,
        history: &[Change],
        reader: Span,
        range: &Range<usize>,
        strip: &Strip,
        data: &[u8],
    ) -> Class {
        let bad = strip.parts.iter().filter(|part| part.bad > 0);
        let classes = bad.map(|part| self.class_of(history, reader, range, part, data));
        let order = [Class::Foreign, Class::Resurrected, Class::Stale, Class::Lost];
        classes
            .min_by_key(|class| order.iter().position(|other| other == class))
            .unwrap_or(Class::Foreign)
    }

    fn class_of(
        &self,
        history: &[Change],
        reader: Span,
        range: &Range<usize>,
        part: &Part,
        data: &[u8],
    ) -> Class {
        let generation = match &part.seen {
            Seen::Poison => return Class::Lost,
            Seen::Zero => {
                let left = |change: &Change| {
                    change.content == Content::Zero && change.bytes.contains(&range.start)
                };
                return if history.iter().any(left) { Class::Stale } else { Class::Lost };
            }
            &Seen::Stamp { file, generation, moved: 0 } if file == self.file => Some(generation),
            // The end of a block has no head that would say whose it is: it is compared.
            Seen::Unknown { .. } => self.recognise(history, range, part, data),
            _ => None,
        };
        let change = generation.and_then(|generation| {
            history.iter().find(|change| change.content == Content::Generation(generation))
        });
        let Some(change) = change else {
            // Changes are forgotten once they are buried for good: what was written before, and by whom, is not known then.
            let known = generation.is_some_and(|g| g < self.generations.load(Ordering::SeqCst));
            return if known { Class::Stale } else { Class::Foreign };
        };
        let buried_by_zero = history
            .iter()
            .filter(|other| other.content == Content::Zero && other.bytes.contains(&range.start))
            .any(|other| buries(other, change, reader));
        if buried_by_zero { Class::Resurrected } else { Class::Stale }
    }

    fn recognise(
        &self,
        history: &[Change],
        range: &Range<usize>,
        part: &Part,
        data: &[u8],
    ) -> Option<u32> {
        let first = part.from - (part.from / PART as u64) * PART as u64;
        let from = first as usize - range.start;
        let bytes = &data[from..from + (part.to - part.from) as usize];
        history.iter().find_map(|change| match change.content {
            Content::Generation(generation)
                if stamp::content(self.file, generation, part.from, bytes.len()) == bytes =>
            {
                Some(generation)
            }
            _ => None,
        })
    }

    /// Forgets what is buried for every reader to come. Nothing may be under way.
    pub fn quiet(&self) {
        lock(&self.shrinks).clear();
        lock(&self.cached).clear();
        let reader = Span { begin: self.tick(), end: u64::MAX };
        for part in &self.parts {
            let mut history = lock(part);
            let covers = |other: &Change, change: &Change| {
                other.bytes.start <= change.bytes.start && change.bytes.end <= other.bytes.end
            };
            let keep: Vec<bool> = history
                .iter()
                .map(|change| {
                    !history
                        .iter()
                        .any(|other| covers(other, change) && buries(other, change, reader))
                })
                .collect();
            let mut keep = keep.into_iter();
            history.retain(|_| keep.next().unwrap_or(true));
        }
    }
}

/// Whether `other` buries `change` for a reader.
fn buries(other: &Change, change: &Change, reader: Span) -> bool {
    other.buries && change.span.is_before(other.span) && other.span.is_before(reader)
}

/// Cuts a part where changes begin or end in it.
fn ranges(history: &[Change], len: usize) -> Vec<Range<usize>> {
    let edges = history.iter().flat_map(|change| [change.bytes.start, change.bytes.end]);
    let mut edges: BTreeSet<usize> = edges.filter(|&edge| edge < len).collect();
    edges.insert(0);
    let starts: Vec<usize> = edges.into_iter().collect();
    let ends = starts.iter().skip(1).copied().chain([len]);
    let ranges = starts.iter().copied().zip(ends).map(|(from, to)| from..to);
    ranges.filter(|range| !range.is_empty()).collect()
}

fn tell(history: &[Change], reader: Span) -> Vec<String> {
    const MOST: usize = 12;
    let text = |change: &Change| {
        let content = match change.content {
            Content::Generation(generation) => format!("generation {generation}"),
            Content::Zero => format!("zeroes from byte {} on", change.bytes.start),
        };
        let end = match change.span.end {
            u64::MAX => "open".to_owned(),
            end => end.to_string(),
        };
        let sure = if change.buries { "" } else { ", perhaps" };
        format!("ticks {} to {end}: {content}, {:?}{sure}", change.span.begin, change.manner)
    };
    let from = history.len().saturating_sub(MOST);
    let reader = format!("ticks {} to {}: the reader", reader.begin, reader.end);
    history[from..].iter().map(text).chain([reader]).collect()
}

#[cfg(test)]
#[path = "oracle/tests.rs"]
mod tests;
