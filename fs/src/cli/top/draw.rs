//! A frame on a screen: space and rates, requests in flight, operations, processes.

use super::sample::Frame;
use crate::cli::stat::{size, time};
use crate::image::BLOCK;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};
use serde_json::Value;

/// Lines of the overview.
const OVERVIEW: u16 = 6;

/// Draws it.
pub fn draw(screen: &mut ratatui::Frame<'_>, frame: &Frame) {
    let (flying, operations) = (requests(frame), operations(frame));
    // A title, a heading and an empty line; what is short leaves its room to the others.
    let wanted = |rows: usize| Constraint::Max(rows.max(1) as u16 + 3);
    let [top, first, second, third] = Layout::vertical([
        Constraint::Length(OVERVIEW),
        wanted(flying.len()),
        wanted(operations.len()),
        Constraint::Min(3),
    ])
    .areas(screen.area());
    screen.render_widget(Paragraph::new(overview(frame)), top);
    let heads = ["AGE", "PHASE", "OPERATION", "INODE", "RANGE", "PROCESS"];
    let widths = [10, 18, 18, 12, 28, 24];
    table(screen, first, ("Requests in flight", heads), widths, flying);
    let heads = ["OPERATION", "EACH SECOND", "MEAN NOW", "TIMES", "MEDIAN", "99%", "LONGEST"];
    let widths = [24, 12, 12, 12, 12, 12, 12];
    table(screen, second, ("Operations", heads), widths, operations);
    let heads = ["PID", "COMMAND", "IN FLIGHT", "EACH SECOND", "BYTES A SECOND", "REQUESTS"];
    let widths = [10, 18, 10, 12, 16, 12];
    table(screen, third, ("Processes", heads), widths, processes(frame));
}

fn table<const N: usize>(
    screen: &mut ratatui::Frame<'_>,
    area: Rect,
    (title, heads): (&str, [&'static str; N]),
    widths: [u16; N],
    rows: Vec<[String; N]>,
) {
    let [above, below] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let more = rows.len().saturating_sub(usize::from(below.height.saturating_sub(1)));
    let hidden = if more > 0 { format!(" ({more} more)") } else { String::new() };
    screen.render_widget(Line::from(format!("{title}{hidden}")).bold(), above);
    let body = rows.into_iter().map(Row::new);
    let head = Row::new(heads).style(Style::new().dim());
    screen.render_widget(Table::new(body, widths.map(Constraint::Length)).header(head), below);
}

fn overview(frame: &Frame) -> Vec<Line<'static>> {
    let report = &frame.report;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let space = &report["space"];
    let blocks = |key: &str| size(number(&space[key]) * BLOCK);
    let [free, total, waiting] = ["free", "total", "waiting"].map(blocks);
    let pool = &report["pool"];
    let [bytes, used] = ["bytes", "in_use"].map(|key| size(number(&pool[key])));
    let (read, written) = frame.throughput;
    let [read, written] = [read, written].map(|rate| size(rate as u64));
    // The sum of nothing is -0.
    let requests = frame.operations.iter().fold(0.0, |sum, operation| sum + operation.rate);
    let (flying, pins) = (number(&report["in_flight"]), number(&report["pins"]));
    let (inodes, commits) = (&report["inodes_cached"], &report["commits"]);
    let line = |title: &str, what: String| Line::from(format!("{title:<11} {what}"));
    vec![
        line("image", format!("{} (server {})", text(&report["image"]), report["pid"])),
        line("transport", text(&report["transport"])),
        line("now", format!("{requests:.0} requests, {read} read, {written} written a second")),
        line(
            "in flight",
            format!("{flying} requests; {pins} reads hold blocks; {used} of {bytes} of buffers"),
        ),
        line(
            "space",
            format!(
                "{free} free of {total}; {waiting} wait; {inodes} inodes cached; {commits} commits"
            ),
        ),
    ]
}

fn requests(frame: &Frame) -> Vec<[String; 6]> {
    let all = frame.report["requests"].as_array().into_iter().flatten();
    all.map(|request| {
        let number = |key: &str| request[key].as_u64().unwrap_or(0);
        let phase = request["phase"].as_str().unwrap_or("-");
        let parked = if request["parked"] == true { ", parked" } else { "" };
        let (offset, len, pid) = (number("offset"), number("len"), number("pid"));
        let range = match (offset, len) {
            (0, 0) => String::new(),
            _ => format!("{offset}..{}", offset.saturating_add(len)),
        };
        let asks = frame.processes.iter().find(|process| process.pid == pid);
        [
            time(number("age_us") as f64),
            format!("{phase}{parked}"),
            request["operation"].as_str().unwrap_or("?").to_owned(),
            number("ino").to_string(),
            range,
            format!("{pid} {}", asks.map_or("", |process| &process.name)),
        ]
    })
    .collect()
}

fn operations(frame: &Frame) -> Vec<[String; 7]> {
    let all = frame.operations.iter();
    all.map(|operation| {
        [
            operation.name.clone(),
            rate(operation.rate),
            operation.mean_us.map_or_else(|| "-".to_owned(), time),
            operation.count.to_string(),
            time(operation.p50_us),
            time(operation.p99_us),
            time(operation.max_us),
        ]
    })
    .collect()
}

fn processes(frame: &Frame) -> Vec<[String; 6]> {
    let all = frame.processes.iter();
    all.map(|process| {
        [
            process.pid.to_string(),
            process.name.clone(),
            process.in_flight.to_string(),
            rate(process.rate),
            size(process.bytes as u64),
            process.requests.to_string(),
        ]
    })
    .collect()
}

fn rate(each_second: f64) -> String {
    if each_second == 0.0 { "-".to_owned() } else { format!("{each_second:.1}") }
}
