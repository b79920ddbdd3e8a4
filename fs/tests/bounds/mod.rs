//! Bounds of what a request costs, from `counts.txt` beside the tests.
//!
//! A count above its bound fails the test, one that has no bound too. What else happens on the machine can only add to a count
//! (caches that others drop, a wake-up that is late), so the best of several rounds is judged.
#![allow(dead_code)] // every test binary uses a part of it

use std::collections::BTreeMap;

/// What was counted, by name, for each operation of a workload.
pub type Counts = BTreeMap<String, f64>;

/// Rounds until a count that is too high is believed.
const ROUNDS: usize = 8;
/// Part of an operation by which a count may exceed its bound: what happens once in a workload, not once an operation.
const SLACK: f64 = 0.1;

/// The bounds of one kind of count for one workload: names and figures.
fn bounds(kind: &str, workload: &str) -> Counts {
    let lines = include_str!("../counts.txt").lines();
    let lines = lines.map(|line| line.split('#').next().unwrap_or_default());
    let rows = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| !row.is_empty()).map(|row| match row[..] {
        [kind, workload, name, bound] => (kind, workload, name, bound),
        _ => panic!("counts.txt: {row:?} is not a kind, a workload, a name and a bound"),
    });
    let own = rows.filter(|row| (row.0, row.1) == (kind, workload));
    own.map(|(_, _, name, bound)| (name.to_owned(), bound.parse().expect("a number"))).collect()
}

fn is_above(found: f64, bound: Option<&f64>) -> bool {
    found > bound.copied().unwrap_or(0.0) + SLACK
}

/// Measures until nothing is above its bound. What still is after some rounds, as lines for `counts.txt`.
#[must_use]
pub fn excess(kind: &str, workload: &str, mut measure: impl FnMut() -> Counts) -> Vec<String> {
    let bounds = bounds(kind, workload);
    let mut wrong = Vec::new();
    for _ in 0..ROUNDS {
        let found = measure();
        let above = found.iter().filter(|(name, count)| is_above(**count, bounds.get(*name)));
        wrong = above
            .map(|(name, count)| {
                let bound = bounds.get(name).copied().unwrap_or(0.0);
                format!("{kind} {workload} {name} {count:.2} # above {bound}")
            })
            .collect();
        if wrong.is_empty() {
            note_low(kind, workload, &bounds, &found);
            break;
        }
    }
    wrong
}

/// Fails with what [`excess`] gave.
#[track_caller]
pub fn judge(excess: &[String]) {
    assert!(excess.is_empty(), "above the bounds of counts.txt:\n{}", excess.join("\n"));
}

/// Says which bounds could be lowered.
fn note_low(kind: &str, workload: &str, bounds: &Counts, found: &Counts) {
    for (name, bound) in bounds {
        let count = found.get(name).copied().unwrap_or(0.0);
        if count < bound * 2.0 / 3.0 {
            println!("{kind} {workload} {name} is {count:.2}: its bound of {bound} can be lowered");
        }
    }
}
