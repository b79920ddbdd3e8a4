//! Reports: runs merged into one JSON, JUnit or HTML file, or into a trace.

mod article;
mod html;
mod junit;
mod matrix;
mod perfetto;
mod strips;
mod subject;
mod timeline;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::run::results::{self, Run};

/// What to write; nothing is the summary on standard output.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Outputs {
    /// One self-contained page: matrix of verdicts and a timeline for each variant.
    #[arg(long)]
    html: Option<PathBuf>,
    /// JUnit XML, for continuous integration.
    #[arg(long)]
    junit: Option<PathBuf>,
    /// A trace that ui.perfetto.dev opens: of each variant the test's threads, the racer, the gate, and the server's requests.
    #[arg(long)]
    perfetto: Option<PathBuf>,
    /// All runs in one file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Reads runs: shards of one, or several targets and kernels.
///
/// # Errors
/// Results are missing or of another version.
pub fn read(folders: &[PathBuf]) -> anyhow::Result<Vec<Run>> {
    ensure!(!folders.is_empty(), "no results given");
    folders.iter().map(|path| results::read_run(path)).collect()
}

/// Writes what is wanted of runs; gives the exit code that a single run with all their verdicts would have had.
///
/// # Errors
/// An output cannot be written.
pub fn report(runs: Vec<Run>, outputs: &Outputs) -> anyhow::Result<i32> {
    let runs = merge(runs);
    if let Some(path) = &outputs.html {
        write(path, &html::page(&runs))?;
    }
    if let Some(path) = &outputs.junit {
        write(path, &junit::suites(&runs)?)?;
    }
    if let Some(path) = &outputs.perfetto {
        write(path, &serde_json::to_string(&perfetto::trace(&runs))?)?;
    }
    if let Some(path) = &outputs.json {
        write(path, &serde_json::to_string_pretty(&runs)?)?;
    }
    for run in &runs {
        println!("{}", run.summary());
    }
    let verdicts = runs.iter().flat_map(|run| &run.variants).map(|entry| &entry.verdict);
    Ok(crate::kit::verdict::exit_code(verdicts))
}

/// Joins runs of the same target, options and kernel: shards of one plan.
fn merge(runs: Vec<Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        let same = |other: &&mut Run| {
            (&other.kernel, &other.target, &other.options)
                == (&run.kernel, &run.target, &run.options)
        };
        match merged.iter_mut().find(same) {
            Some(other) => other.variants.extend(run.variants),
            None => merged.push(run),
        }
    }
    merged
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Text for HTML and XML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter if letter.is_control() && letter != '\n' => escaped.push('\u{FFFD}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
pub(crate) mod tests {
    use inflight_gate::{Hold, Outcome, Phase, Record, ReleasedBy, Times};

    use super::*;
    use crate::kit::event::{Actor, Event};
    use crate::kit::kernel::Kernel;
    use crate::kit::verdict::{Class, Fault, Verdict};
    use crate::run::Order;
    use crate::run::results::Entry;
    use crate::run::worker::Played;
    use crate::target::Target;

    /// A READ that was parked, in ns of the gate.
    pub fn record(seq: u64, parked: u64, released: u64) -> Record {
        let by = Some(ReleasedBy::Client);
        let phase = Phase::Received;
        let hold = Hold { rule: 1, phase, parked, released: Some(released), by };
        let times = Times { arrived: parked, done: Some(released), ..Times::default() };
        Record {
            seq,
            unique: seq,
            opcode: 15,
            op: "read".to_owned(),
            ino: 2,
            offset: 0,
            len: 4096,
            size: None,
            pid: 1,
            uid: 0,
            path: None,
            outcome: Some(Outcome::Bytes(4096)),
            times,
            holds: vec![hold],
        }
    }

    /// Something that the racer did.
    pub fn event(at_ns: u64, text: &str) -> Event {
        Event { at_ns, actor: Actor::Racer, text: text.to_owned() }
    }

    pub fn run(target: Target, verdicts: &[Verdict]) -> Run {
        let kernel = Kernel { build: "#1 <&>".to_owned(), ..Kernel::of("6.18.44") };
        let entry = |verdict: &Verdict| {
            let mut played = Played::default();
            let text = "byte 0: \"bad\" <script>".to_owned();
            played.faults.push(Fault { class: Class::Lost, text });
            played
                .events
                .push(crate::kit::event::Event::now(crate::kit::event::Actor::Racer, "fork"));
            Entry {
                case: "FK1".to_owned(),
                name: "fork-touch".to_owned(),
                claim: "a < b".to_owned(),
                variant: format!("v{}", verdict.word()),
                verdict: verdict.clone(),
                repro: "inflight-race run 'FK1:x'".to_owned(),
                played,
            }
        };
        let variants = verdicts.iter().map(entry).collect();
        Run { variants, started: 0, ..Run::new(&Order::empty(target), kernel) }
    }

    pub fn fail() -> Verdict {
        Verdict::Fail { classes: vec![Class::Lost] }
    }

    #[test]
    fn shards_are_merged_and_targets_are_not() {
        let runs = [Target::Inflight, Target::Ext4, Target::Inflight];
        let merged = merge(runs.map(|target| run(target, &[Verdict::Pass])).into());
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].summary(), "inflight on 6.18.44: 2 PASS");
    }

    #[test]
    fn pages_escape_what_they_quote_and_hold_every_variant() {
        let notrun = Verdict::Notrun { reason: "no <root>".to_owned() };
        let runs = [run(Target::Inflight, &[Verdict::Pass, fail(), notrun])];
        let page = html::page(&runs);
        assert_eq!(page.matches("<script>").count(), 1, "one script, ours");
        assert!(page.contains("&lt;script&gt;") && page.contains("no &lt;root&gt;"));
        assert_eq!(page.matches("<article").count(), 3);
        assert_eq!(page.matches("<svg").count(), 3, "a timeline each");
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "the page is self-contained: {outside}");
        }
        let suites = junit::suites(&runs).unwrap();
        assert!(suites.contains(r#"tests="3" skipped="1" errors="0" failures="1""#), "{suites}");
    }

    #[test]
    fn the_exit_code_is_that_of_all_runs_together() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        results::write_run(&at("a"), &run(Target::Inflight, &[Verdict::Pass])).unwrap();
        results::write_run(&at("b"), &run(Target::Ext4, &[fail()])).unwrap();
        let outputs = Outputs {
            html: Some(at("page")),
            junit: Some(at("xml")),
            perfetto: Some(at("trace")),
            json: Some(at("json")),
        };
        assert_eq!(report(read(&[at("a"), at("b")]).unwrap(), &outputs).unwrap(), 1);
        assert_eq!(report(read(&[at("a")]).unwrap(), &Outputs::default()).unwrap(), 0);
        for name in ["page", "xml", "trace", "json"] {
            assert!(at(name).metadata().unwrap().len() > 100);
        }
    }
}
