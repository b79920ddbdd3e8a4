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
const OVERVIEW: u16 = 7;

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
    table(screen, first, ("Requests in flight", heads), (widths, &[3, 4]), flying);
    let heads = ["OPERATION", "EACH SECOND", "MEAN NOW", "TIMES", "MEDIAN", "99%", "LONGEST"];
    let widths = [24, 12, 12, 12, 12, 12, 12];
    table(screen, second, ("Operations", heads), (widths, &[6, 3, 4]), operations);
    let heads = ["PID", "COMMAND", "IN FLIGHT", "EACH SECOND", "BYTES A SECOND", "REQUESTS"];
    let widths = [10, 18, 10, 12, 16, 12];
    table(screen, third, ("Processes", heads), (widths, &[5, 4]), processes(frame));
}

/// Columns that fit into so many cells, and their widths: as wide as they are meant to be, or else as wide as what is in
/// them, without those of `spare`, in this order.
fn columns<const N: usize>(
    width: u16,
    heads: &[&str; N],
    (meant, spare): ([u16; N], &[usize]),
    rows: &[[String; N]],
) -> Vec<(usize, u16)> {
    let needed = |widths: &[(usize, u16)]| {
        widths.iter().map(|(_, width)| width + 1).sum::<u16>().saturating_sub(1)
    };
    let all: Vec<(usize, u16)> = meant.into_iter().enumerate().collect();
    if needed(&all) <= width {
        return all;
    }
    let longest = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0) as u16
    };
    let mut fitted: Vec<(usize, u16)> = (0..N).map(|column| (column, longest(column))).collect();
    for left_out in spare {
        if needed(&fitted) <= width {
            break;
        }
        fitted.retain(|(column, _)| column != left_out);
    }
    fitted
}

fn table<const N: usize>(
    screen: &mut ratatui::Frame<'_>,
    area: Rect,
    (title, heads): (&str, [&'static str; N]),
    widths: ([u16; N], &[usize]),
    rows: Vec<[String; N]>,
) {
    let [above, below] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let more = rows.len().saturating_sub(usize::from(below.height.saturating_sub(1)));
    let hidden = if more > 0 { format!(" ({more} more)") } else { String::new() };
    screen.render_widget(Line::from(format!("{title}{hidden}")).bold(), above);
    let columns = columns(below.width, &heads, widths, &rows);
    let cells = |row: [String; N]| {
        Row::new(columns.iter().map(|(at, _)| row[*at].clone()).collect::<Vec<_>>())
    };
    let head = Row::new(columns.iter().map(|(at, _)| heads[*at]).collect::<Vec<_>>());
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let table = Table::new(rows.into_iter().map(cells), widths);
    screen.render_widget(table.header(head.style(Style::new().dim())), below);
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
        line("ways", ways(report)),
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

/// Which ways reads and writes took since the mount, and how many each: the busiest first.
fn ways(report: &Value) -> String {
    let of = |kind: &str| {
        let all = report[kind].as_object().into_iter().flatten();
        let all = all.map(|(way, count)| (count["requests"].as_u64().unwrap_or(0), way));
        let mut used: Vec<_> = all.filter(|(requests, _)| *requests > 0).collect();
        used.sort_by(|a, b| b.cmp(a));
        let told: Vec<String> = used.iter().map(|(n, way)| format!("{way} {n}")).collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    };
    format!("reads: {}; writes: {}", of("reads"), of("writes"))
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
            if process.pid == 0 { "-".to_owned() } else { process.pid.to_string() },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_window_has_fewer_columns_and_none_that_is_cut() {
        let heads = ["AGE", "PHASE", "OPERATION", "INODE"];
        let rows = [["1.5s", "received, parked", "read", "2"].map(str::to_owned)];
        let at = |width| columns(width, &heads, ([10, 18, 18, 12], &[3, 2]), &rows);
        let meant = vec![(0, 10), (1, 18), (2, 18), (3, 12)];
        assert_eq!(at(61), meant);
        assert_eq!(at(60), [(0, 4), (1, 16), (2, 9), (3, 5)]);
        assert_eq!(at(36), [(0, 4), (1, 16), (2, 9)]);
        assert_eq!(at(30), [(0, 4), (1, 16)]);
    }
}
