//! The timeline of a variant: lanes for the test, the racer, the gate and the server on one axis of time, with the
//! window shaded, and beside each mark its line in a list of what happened when.

mod axis;
mod moment;

use std::fmt::Write;

use axis::{Axis, LEFT, RIGHT, WIDTH};
use moment::{Moment, Source};

use super::article::time;
use super::escape;
use crate::kit::event::Actor;
use crate::run::worker::Played;

/// Height of a lane of marks, and of one request of the server.
const LANE: f64 = 38.0;
const ROW: f64 = 19.0;
/// Where the lanes begin: above them the window has its name.
const TOP: f64 = 22.0;
/// Width of a letter, at most.
const LETTER: f64 = 6.7;

/// Lanes of the harness, from the top.
const LANES: [(Actor, &str); 3] =
    [(Actor::Test, "test"), (Actor::Racer, "racer"), (Actor::Gate, "gate")];

/// Draws it; nothing when nothing happened.
pub fn draw(out: &mut String, played: &Played) {
    let Some(axis) = Axis::of(played) else { return };
    let (moments, more) = moment::all(played, &axis);
    out.push_str("<h3>What happened</h3>\n");
    sentence(out, &axis, &moments);
    picture(out, played, &axis, &moments);
    list(out, &axis, &moments, more);
}

/// How long something was parked, in ns; `None` when nothing ever was.
pub fn window_ns(played: &Played) -> Option<u64> {
    let windows = axis::windows(played);
    (!windows.is_empty()).then(|| windows.iter().map(|window| window.1 - window.0).sum())
}

fn sentence(out: &mut String, axis: &Axis, moments: &[Moment<'_>]) {
    if axis.windows.is_empty() {
        out.push_str("<p class=\"sentence\">No request was parked.</p>\n");
        return;
    }
    let open: u64 = axis.windows.iter().map(|window| window.1 - window.0).sum();
    let is_racer = |moment: &&Moment<'_>| moment.lane() == "racer" && moment.in_window;
    let fell: Vec<String> = moments.iter().filter(is_racer).map(|moment| moment.text()).collect();
    let fell = match fell.len() {
        0 => "Nothing of the racer fell into it.".to_owned(),
        _ => format!("Into it fell: {}.", escape(&fell.join(", "))),
    };
    let _ = writeln!(
        out,
        "<p class=\"sentence\"><i class=\"band\"></i>The window was open for {}. {fell}</p>",
        time(open as f64)
    );
}

fn picture(out: &mut String, played: &Played, axis: &Axis, moments: &[Moment<'_>]) {
    let rows = moments.iter().filter(|moment| moment.record().is_some()).count();
    let bottom = TOP + 3.0 * LANE + 8.0 + rows as f64 * ROW;
    let height = bottom + 24.0;
    let _ = write!(
        out,
        "<div class=\"scroll\"><svg class=\"timeline\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"timeline; the list below says the same in words\">"
    );
    bands(out, axis, bottom);
    axis.ticks(out, bottom);
    for (number, (actor, name)) in LANES.into_iter().enumerate() {
        let y = TOP + number as f64 * LANE;
        let base = y + LANE - 8.0;
        let _ = write!(
            out,
            "<text class=\"lane\" x=\"2\" y=\"{:.1}\">{name}</text>\
             <line class=\"lane\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{base}\" y2=\"{base}\"/>",
            base - 4.0
        );
        match actor {
            Actor::Test => flights(out, played, axis, base),
            Actor::Gate => stays(out, played, axis, base),
            Actor::Racer => {}
        }
        marks(out, axis, moments, name, y + 10.0, base);
    }
    server(out, axis, moments, TOP + 3.0 * LANE + 8.0);
    out.push_str("<line class=\"cursor\" y1=\"16\" y2=\"0\" hidden=\"\"/></svg></div>\n");
}

/// The window, behind everything.
fn bands(out: &mut String, axis: &Axis, bottom: f64) {
    let mut labelled = f64::MIN;
    for &(from, to) in &axis.windows {
        let (left, right) = (axis.x(from), axis.x(to));
        let width = (right - left).max(1.5);
        let _ = write!(
            out,
            "<rect class=\"band\" x=\"{left:.1}\" y=\"16\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            bottom - 16.0
        );
        let text = format!("window {}", time((to - from) as f64));
        let room = text.chars().count() as f64 * LETTER;
        let x = left.min(RIGHT - room).max(LEFT);
        if x > labelled {
            let _ = write!(out, "<text class=\"band\" x=\"{x:.1}\" y=\"11\">{text}</text>");
            labelled = x + room;
        }
    }
}

/// Bars from the start of an I/O to its return, where it is certain which return is whose.
fn flights(out: &mut String, played: &Played, axis: &Axis, base: f64) {
    for (from, to, _) in in_flight(played) {
        bar(out, "flight", axis, from, to, base - 3.0, 6.0, "in flight");
    }
}

/// When each I/O of the test started and returned, and what it was, where it is certain which return is whose.
pub fn in_flight(played: &Played) -> Vec<(u64, u64, &str)> {
    let (mut open, mut found) = (Vec::new(), Vec::new());
    for event in played.events.iter().filter(|event| event.actor == Actor::Test) {
        if !event.text.starts_with("returned") {
            open.push(event);
        } else if let [start] = open[..] {
            found.push((start.at_ns, event.at_ns, &*start.text));
            open.clear();
        } else {
            open.pop();
        }
    }
    found
}

/// When something was parked, in order, apart from each other.
pub fn windows(played: &Played) -> Vec<(u64, u64)> {
    axis::windows(played)
}

/// Bars for the stays of requests at the gate.
fn stays(out: &mut String, played: &Played, axis: &Axis, base: f64) {
    for record in &played.records {
        for hold in &record.holds {
            let from = hold.parked + played.gate_start_ns;
            let to = hold.released.map_or(axis.to_ns, |at| at + played.gate_start_ns);
            let title = format!("{} parked at {}", record.op, hold.phase);
            bar(out, "stay", axis, from, to, base - 3.0, 6.0, &title);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "a rectangle has that many")]
fn bar(
    out: &mut String,
    class: &str,
    axis: &Axis,
    from: u64,
    to: u64,
    y: f64,
    height: f64,
    title: &str,
) {
    let left = axis.x(from);
    let width = (axis.x(to) - left).max(2.0);
    let _ = write!(
        out,
        "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" \
         rx=\"2\"><title>{}</title></rect>",
        escape(title)
    );
}

/// Numbered marks of one lane, side by side where they would cover each other, each with a line to its time.
fn marks(out: &mut String, axis: &Axis, moments: &[Moment<'_>], lane: &str, y: f64, base: f64) {
    let here: Vec<(usize, &Moment<'_>)> =
        moments.iter().enumerate().filter(|(_, moment)| moment.lane() == lane).collect();
    let times: Vec<f64> = here.iter().map(|(_, moment)| axis.x(moment.at_ns)).collect();
    for ((number, moment), (x, place)) in here.into_iter().zip(times.iter().zip(apart(&times))) {
        let inside = if moment.in_window { " inside" } else { "" };
        let number = number + 1;
        let title = escape(&format!("{} {}", axis.text(moment.at_ns), moment.text()));
        let _ = write!(
            out,
            "<g class=\"mark {lane}{inside}\" data-mark=\"{number}\"><title>{title}</title>\
             <path d=\"M{x:.1} {base}L{place:.1} {y}\"/><circle class=\"dot\" cx=\"{x:.1}\" cy=\"{base}\" r=\"2.5\"/>\
             <circle cx=\"{place:.1}\" cy=\"{y}\" r=\"8\"/>\
             <text x=\"{place:.1}\" y=\"{:.1}\">{number}</text></g>",
            y + 3.5
        );
    }
}

/// Moves places apart so that marks of that many px do not overlap, and keeps all of them in the picture.
fn apart(times: &[f64]) -> Vec<f64> {
    const WIDE: f64 = 18.0;
    let mut places = times.to_vec();
    for at in 1..places.len() {
        places[at] = places[at].max(places[at - 1] + WIDE);
    }
    let mut limit = RIGHT - WIDE / 2.0;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - WIDE;
    }
    places
}

/// A row for each request: a bar from its arrival to its answer, its stays hatched, its range and outcome.
fn server(out: &mut String, axis: &Axis, moments: &[Moment<'_>], top: f64) {
    let requests: Vec<(usize, &Moment<'_>)> =
        moments.iter().enumerate().filter(|(_, moment)| moment.record().is_some()).collect();
    if requests.is_empty() {
        return;
    }
    let _ = write!(out, "<text class=\"lane\" x=\"2\" y=\"{:.1}\">server</text>", top + 11.0);
    for (row, (number, moment)) in requests.into_iter().enumerate() {
        let Source::Request(record, start_ns) = moment.source else { continue };
        let y = top + row as f64 * ROW;
        let to = record.times.done.map_or(axis.to_ns, |done| done + start_ns);
        let inside = if moment.in_window { " inside" } else { "" };
        let _ = write!(out, "<g class=\"request{inside}\" data-mark=\"{}\">", number + 1);
        let title = format!("{} {}", axis.text(moment.at_ns), moment.text());
        bar(out, "request", axis, moment.at_ns, to, y, 13.0, &title);
        for hold in &record.holds {
            let till = hold.released.map_or(axis.to_ns, |at| at + start_ns);
            let title = format!("parked at {}", hold.phase);
            bar(out, "stay", axis, hold.parked + start_ns, till, y, 13.0, &title);
        }
        label(out, axis.x(moment.at_ns), axis.x(to), y + 10.5, number + 1, &moment.brief());
        out.push_str("</g>");
    }
}

/// A request's text behind its bar, before it, or in it: wherever there is room.
fn label(out: &mut String, left: f64, right: f64, y: f64, number: usize, text: &str) {
    let text = format!("{number}  {text}");
    let room = text.chars().count() as f64 * LETTER;
    let (x, anchor, class) = if right + 6.0 + room <= RIGHT {
        (right + 5.0, "start", "beside")
    } else if left - 6.0 - room >= LEFT {
        (left - 5.0, "end", "beside")
    } else {
        (left + 5.0, "start", "within")
    };
    let _ = write!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(&text)
    );
}

/// The same in words.
fn list(out: &mut String, axis: &Axis, moments: &[Moment<'_>], more: usize) {
    out.push_str("<ol class=\"moments\">");
    for (number, moment) in moments.iter().enumerate() {
        let number = number + 1;
        let (lane, inside) = (moment.lane(), if moment.in_window { " inside" } else { "" });
        let _ = write!(
            out,
            "<li class=\"{lane}{inside}\" data-mark=\"{number}\" data-x=\"{:.1}\" tabindex=\"0\"><b>{number}</b>\
             <time>{}</time><i>{lane}</i><span>{}</span></li>",
            axis.x(moment.at_ns),
            axis.text(moment.at_ns),
            escape(&moment.text())
        );
    }
    out.push_str("</ol>\n");
    if more > 0 {
        let _ = writeln!(out, "<p class=\"sentence\">{more} more requests are in the JSON.</p>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_keep_their_order_and_stay_in_the_picture() {
        let places = apart(&[LEFT, LEFT + 1.0, LEFT + 2.0, RIGHT - 3.0, RIGHT]);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 17.9), "{places:?}");
        assert!(places.iter().all(|place| (LEFT..=RIGHT).contains(place)), "{places:?}");
        assert_eq!(places[0], LEFT);
    }
}
