//! What a run says while it goes on: a line for each variant with a bar on a terminal, or JSON, one object a
//! line, for programs.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::run::Order;
use crate::run::ktap;
use crate::run::plan::Item;
use crate::run::results::{Entry, Run};

/// Faults of one variant that are printed; all of them are in its result.
const FAULTS_SHOWN: usize = 6;

/// See the [module](self).
#[derive(Debug)]
pub struct Console {
    bar: ProgressBar,
    start: Instant,
    total: usize,
    done: usize,
    bad: Vec<String>,
    last_case: String,
    tour: BTreeMap<String, String>,
    how: How,
}

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Plain,
    /// Only what is unexpected.
    Quiet,
    /// With what each case is about.
    Tour,
    Json,
    /// As the kernel's own tests do.
    Ktap,
    /// Nothing: somebody else prints.
    Silent,
}

impl Console {
    /// A console for an order.
    ///
    /// # Errors
    /// None in practice: the bar's template is wrong.
    pub fn new(order: &Order) -> anyhow::Result<Console> {
        let how = match order {
            Order { relay: true, .. } | Order { silent: true, .. } => How::Silent,
            Order { json: true, .. } => How::Json,
            Order { ktap: true, .. } => How::Ktap,
            Order { tour, .. } if !tour.is_empty() => How::Tour,
            Order { quiet: true, .. } => How::Quiet,
            _ => How::Plain,
        };
        let total = order.items.len();
        let bar = if how != How::Silent && std::io::stderr().is_terminal() {
            let template = "{bar:30} {pos}/{len} {elapsed} (left: {eta}) {prefix}{wide_msg}";
            ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(template)?)
        } else {
            ProgressBar::hidden()
        };
        let (start, bad, last_case) = (Instant::now(), Vec::new(), String::new());
        Ok(Console { bar, start, total, done: 0, bad, last_case, tour: order.tour.clone(), how })
    }

    fn say(&self, text: &str) {
        if self.how == How::Silent {
            return;
        }
        // A closed pipe (`| head`) must not end the run in the middle.
        self.bar.suspend(|| writeln!(std::io::stdout(), "{text}").ok());
    }

    fn tell(&self, event: &str, mut value: Value) {
        value["event"] = json!(event);
        self.say(&value.to_string());
    }

    /// Something about the whole run.
    pub fn remark(&self, text: &str) {
        match self.how {
            How::Json => self.tell("remark", json!({"text": text})),
            How::Ktap => self.say(&format!("# {text}")),
            _ => self.say(text),
        }
    }

    /// The head of a run.
    pub fn head(&self, run: &Run) {
        let (kernel, target) = (&run.kernel, run.target.name());
        if self.how == How::Json {
            let (options, seed) = (&run.options, run.seed);
            return self.tell(
                "start",
                json!({"kernel": kernel, "target": target, "options": options, "seed": seed,
                       "variants": self.total}),
            );
        }
        if self.how == How::Ktap {
            return self.say(&ktap::head(run, self.total));
        }
        self.say(&format!("kernel   {} {}", kernel.release, kernel.build));
        self.say(format!("target   {target} {}", run.options).trim_end());
        self.say(&format!("seed     {}", run.seed));
        self.say(&format!("variants {}", self.total));
    }

    /// A variant is begun.
    pub fn begin(&self, item: &Item) {
        self.bar.set_message(format!("{} {}", item.case, item.variant));
        if self.how == How::Json {
            let value = json!({"case": item.case, "variant": item.variant, "number": self.done + 1,
                "of": self.total});
            self.tell("begin", value);
        }
    }

    /// A variant is settled.
    pub fn settled(&mut self, entry: &Entry, path: &Path) {
        self.done += 1;
        self.bar.inc(1);
        let (verdict, played) = (&entry.verdict, &entry.played);
        let (word, detail) = (verdict.word(), verdict.detail());
        if verdict.is_unexpected() {
            self.bad.push(format!("{word:<10} {} {}", entry.case, entry.variant));
            self.bar.set_prefix(format!("{} unexpected ", self.bad.len()));
        }
        let seconds = played.control_seconds + played.seconds;
        if self.how == How::Json {
            let value = json!({"case": entry.case, "variant": entry.variant, "number": self.done,
                "of": self.total, "verdict": word, "detail": detail, "seconds": seconds,
                "elapsed": self.start.elapsed().as_secs_f64(), "faults": played.faults,
                "notes": played.notes, "result": path, "repro": entry.repro});
            return self.tell("variant", value);
        }
        if self.how == How::Ktap {
            return self.say(&ktap::result(self.done, entry));
        }
        if self.how == How::Tour {
            self.guide(entry);
        }
        self.last_case.clone_from(&entry.case);
        if self.how == How::Quiet && !verdict.is_unexpected() {
            return;
        }
        let width = self.total.to_string().len();
        let count = format!("{:>width$}/{}", self.done, self.total);
        let name = format!("{} {}", entry.case, entry.variant);
        let line = format!("{count} {name:<46} {word:<10} {seconds:>8.4} s  {detail}");
        self.say(line.trim_end());
        self.details(entry, path);
    }

    fn details(&self, entry: &Entry, path: &Path) {
        let unexpected = entry.verdict.is_unexpected();
        let faults = &entry.played.faults;
        if unexpected {
            for fault in faults.iter().take(FAULTS_SHOWN) {
                self.say(&format!("    {:<11} {}", fault.class.name(), fault.text));
            }
            if faults.len() > FAULTS_SHOWN {
                self.say(&format!("    and {} more", faults.len() - FAULTS_SHOWN));
            }
        }
        if unexpected || self.how == How::Tour {
            for note in &entry.played.notes {
                self.say(&format!("    note        {note}"));
            }
        }
        if unexpected {
            self.say(&format!("    result      {}", path.display()));
            self.say(&format!("    repro       {}", entry.repro));
        }
    }

    /// Says what the case is about when it comes up for the first time.
    fn guide(&self, entry: &Entry) {
        if self.last_case == entry.case {
            return;
        }
        if let Some(text) = self.tour.get(&entry.case) {
            self.say(&format!("\n{text}\n"));
        }
    }

    /// The end of a run, with what was not played.
    pub fn end(&self, run: &Run, results: &Path, left: usize, code: i32) {
        self.bar.finish_and_clear();
        let seconds = self.start.elapsed().as_secs_f64();
        if self.how == How::Json {
            let counts = run.counts().into_iter();
            let counts: Value =
                counts.map(|(word, count)| (word.to_owned(), json!(count))).collect();
            let value = json!({"counts": counts, "seconds": seconds, "left": left,
                "exit_code": code, "results": results});
            return self.tell("end", value);
        }
        if self.how == How::Ktap {
            return self.say(&format!("# {}; results in {}", run.summary(), results.display()));
        }
        // Where the lines between were many, what matters is said again.
        if self.how == How::Plain && self.done > 20 {
            self.bad.iter().for_each(|text| self.say(text));
        }
        self.say(&format!("{} in {seconds:.1} s", run.summary()));
        self.say(&format!("results in {}", results.display()));
        if left > 0 {
            self.say(&format!("interrupted; {left} variants were not played"));
        }
    }
}
