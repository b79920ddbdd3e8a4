//! The timeline of a variant as SVG: four lanes (test, racer, gate, server) on one axis of time, each
//! request of the server a bar from its arrival to its answer, its stays at the gate hatched.

use std::fmt::Write;

use inflight::gate::{Outcome, Record};

use super::escape;
use crate::event::Actor;
use crate::worker::Played;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const LANE: f64 = 34.0;
const BAR: f64 = 14.0;

/// Draws it; nothing when nothing happened.
pub fn draw(played: &Played) -> String {
    let Some(axis) = Axis::of(played) else { return String::new() };
    let rows = played.records.iter().filter(|record| axis.shows(record)).count() as f64;
    let height = 3.0 * LANE + 24.0 + rows * (BAR + 4.0) + 24.0;
    let mut out = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="timeline"><rect class="bg" width="{WIDTH}" height="{height}"/>"#
    );
    lanes(&mut out, played, &axis);
    server(&mut out, played, &axis);
    axis.draw(&mut out, height);
    out.push_str("</svg>");
    out
}

struct Axis {
    from_ns: u64,
    to_ns: u64,
    start_ns: u64,
}

impl Axis {
    /// From the first to the last event: what the server did before and after is setting up.
    fn of(played: &Played) -> Option<Axis> {
        let from = played.events.iter().map(|event| event.at_ns).min()?;
        let to = played.events.iter().map(|event| event.at_ns).max()?;
        let margin = ((to - from) / 20).max(20_000);
        let start_ns = played.gate_start_ns;
        Some(Axis { from_ns: from.saturating_sub(margin), to_ns: to + margin, start_ns })
    }

    fn x(&self, at_ns: u64) -> f64 {
        let at = at_ns.clamp(self.from_ns, self.to_ns) - self.from_ns;
        LEFT + at as f64 / (self.to_ns - self.from_ns) as f64 * (WIDTH - LEFT - 10.0)
    }

    fn record_x(&self, at_ns: u64) -> f64 {
        self.x(at_ns + self.start_ns)
    }

    fn shows(&self, record: &Record) -> bool {
        let from = record.times.arrived + self.start_ns;
        let to = record.times.done.map_or(u64::MAX, |done| done + self.start_ns);
        to >= self.from_ns && from <= self.to_ns
    }

    fn draw(&self, out: &mut String, height: f64) {
        let span_us = (self.to_ns - self.from_ns) as f64 / 1000.0;
        for tick in 0..=4 {
            let at = f64::from(tick) / 4.0;
            let x = LEFT + at * (WIDTH - LEFT - 10.0);
            let y = height - 6.0;
            let _ = write!(
                out,
                r#"<text class="tick" x="{x:.1}" y="{y}" text-anchor="middle">{:.0} us</text>"#,
                at * span_us
            );
        }
    }
}

/// Dots for what the harness did, one lane for each actor.
fn lanes(out: &mut String, played: &Played, axis: &Axis) {
    let names = [(Actor::Test, "test"), (Actor::Racer, "racer"), (Actor::Gate, "gate")];
    for (number, (actor, name)) in names.into_iter().enumerate() {
        let y = number as f64 * LANE + 22.0;
        let end = WIDTH - 10.0;
        let _ = write!(
            out,
            r#"<text class="lane" x="4" y="{y}">{name}</text><line class="lane" x1="{LEFT}" x2="{end}" y1="{y}" y2="{y}"/>"#
        );
        let mut free_x = 0.0;
        for event in played.events.iter().filter(|event| event.actor == actor) {
            let x = axis.x(event.at_ns);
            let text = escape(&event.text);
            let _ = write!(
                out,
                r#"<circle class="{name}" cx="{x:.1}" cy="{y}" r="4"><title>{text}</title></circle>"#
            );
            // Text only where it does not run into the one before.
            if x >= free_x {
                let _ = write!(out, r#"<text x="{:.1}" y="{:.1}">{text}</text>"#, x - 3.0, y - 8.0);
                free_x = x + event.text.len() as f64 * 6.2;
            }
        }
    }
}

/// A bar for each request.
fn server(out: &mut String, played: &Played, axis: &Axis) {
    let top = 3.0 * LANE + 16.0;
    let _ = write!(out, r#"<text class="lane" x="4" y="{:.1}">server</text>"#, top + 11.0);
    let shown = played.records.iter().filter(|record| axis.shows(record));
    for (row, record) in shown.enumerate() {
        let y = top + row as f64 * (BAR + 4.0);
        let from = axis.record_x(record.times.arrived);
        let to = record.times.done.map_or(WIDTH - 10.0, |done| axis.record_x(done));
        let outcome = match record.outcome {
            Some(Outcome::Bytes(bytes)) => format!("{bytes}"),
            Some(Outcome::Errno(errno)) => format!("errno {errno}"),
            Some(Outcome::Dropped) => "dropped".to_owned(),
            None => "open".to_owned(),
        };
        let end = record.offset.saturating_add(record.len);
        let path = record.path.as_deref().unwrap_or("");
        let text = format!("{} {}..{end} -> {outcome} {path}", record.op, record.offset);
        let width = (to - from).max(2.0);
        let title = escape(&format!("request {} {text}", record.seq));
        let _ = write!(
            out,
            r#"<rect class="request" x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}"><title>{title}</title></rect>"#
        );
        for hold in &record.holds {
            let from = axis.record_x(hold.parked);
            let to = hold.released.map_or(WIDTH - 10.0, |at| axis.record_x(at));
            let width = (to - from).max(2.0);
            let _ = write!(
                out,
                r#"<rect class="hold" x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}"><title>parked at {}</title></rect>"#,
                hold.phase
            );
        }
        let _ = write!(
            out,
            r#"<text class="request" x="{:.1}" y="{:.1}">{}</text>"#,
            (from + 4.0).min(WIDTH - 260.0),
            y + 11.0,
            escape(&text)
        );
    }
}
