//! The guided tour: splice without ITER_PIPE and what goes wrong with it, pins and fork here and under an old
//! kernel, the zero page, the bugs that are live, and a table of it all.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;

use crate::cli::mutants;
use crate::run::guest::Guest;
use crate::run::plan::{self, Item, Wanted};
use crate::run::results::{self, RUN_FILE, Run};
use crate::run::{self, INTERRUPTED, Order};
use crate::target::Target;
use crate::vm;
use crate::vm::machine::Accel;

/// A stop of the tour.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// In which part of the tour.
    pub part: Part,
    /// Short name of the case.
    pub case: &'static str,
    /// Variants that are shown, as a pattern.
    pub variants: &'static str,
    /// What to look for.
    pub text: &'static str,
}

/// Parts of the tour, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Splice, and truncates under it.
    Splice,
    /// Fork beside direct I/O, and the zero page.
    Pins,
    /// Bugs that this kernel may have.
    Bugs,
}

/// Variants that a pipe-backed iterator fails, on a server built with one.
const PIPE_BACKED: &str = "SP5:eof-4097|truncate-4097/received";
/// Exit code of a part that cannot be shown here.
const NOTHING: i32 = 4;
/// The old kernel, and what it loses.
const OLD: &str = "debian:6.1";
const OLD_LOSES: &str = "FK1:store/uring/anon|no-store*";

/// The tour, in order.
pub const STOPS: [Stop; 9] = [
    Stop {
        part: Part::Splice,
        case: "SP2",
        variants: "*",
        text: "Splice without ITER_PIPE. A file is spliced into a pipe, then overwritten, then the pipe is read.\n\
               Buffered, the pipe holds the page cache's own pages and shows the new bytes; with O_DIRECT it holds\n\
               pages that were allocated before the read, and shows the old ones. The flag decides at each call.",
    },
    Stop {
        part: Part::Splice,
        case: "SP5",
        variants: "short-4097/direct_io|eof-4097|truncate-4097/received|truncate-4097/applied",
        text: "Short reads and truncates under a splice. The pages were allocated for 64 KiB; what was not read must\n\
               be trimmed. The old way, an iterator over the pipe that was reverted, is where the bug was.",
    },
    Stop {
        part: Part::Splice,
        case: "TR1",
        variants: "read/pread/*|fault/*",
        text: "Truncate against a read. The server holds the READ; the file is cut to nothing and extended again;\n\
               then the READ is answered, late, with bytes that are no longer in the file.",
    },
    Stop {
        part: Part::Pins,
        case: "FK1",
        variants: "store/uring/anon|store/uring/thp|no-store*|spawn*",
        text: "Fork against a direct read. While the READ is held the process forks and stores to the other half of\n\
               the page. A pinned page (FOLL_PIN) is copied for the child at once, so both have a page of their own;\n\
               a page that is only referenced is copied for whoever stores first, and the data goes to the other.\n\
               Before Linux 6.9 this lost the data on FUSE, before 6.5 on ext4 and xfs.",
    },
    Stop {
        part: Part::Pins,
        case: "FK2",
        variants: "child-exited/*",
        text: "The same with no store at all: two reads into one page, a fork between them.",
    },
    Stop {
        part: Part::Pins,
        case: "ZP1",
        variants: "*",
        text: "The zero page. A direct write from memory that nobody stored to would pin one page that the whole\n\
               machine shares; it is neither pinned nor counted, and must stay zero whatever is stored meanwhile.",
    },
    Stop {
        part: Part::Bugs,
        case: "SP1",
        variants: "*",
        text: "A bug that this kernel may have: splice of a file that is served without cache. read(2) returns what\n\
               the server has now; splice returns what it once had.",
    },
    Stop {
        part: Part::Bugs,
        case: "IV1",
        variants: "*",
        text: "A buffered read fills the page cache while an asynchronous direct write is held. When the write is\n\
               over, the cache must not go on serving what was there before.",
    },
    Stop {
        part: Part::Bugs,
        case: "TR2",
        variants: "async/*",
        text: "Another one: a truncate that overtakes an asynchronous write. The server has the data, and fstat\n\
               says that the file is empty.",
    },
];

/// Plays a part of the tour below a folder of its name; gives the exit code that counts for it.
type Play = fn(&Tour<'_>, &str) -> anyhow::Result<i32>;

/// The parts by their folders, in order.
const PARTS: [(&str, Play); 5] = [
    ("1-splice", |tour, name| tour.part(Part::Splice, name)),
    ("2-pipe-backed", |tour, name| tour.broken(name)),
    ("3-pins", |tour, name| tour.part(Part::Pins, name)),
    ("4-linux-6.1", |tour, name| tour.old(name)),
    ("5-bugs", |tour, name| tour.part(Part::Bugs, name)),
];

/// What each case of the tour is about, by its short name.
fn texts() -> BTreeMap<String, String> {
    STOPS.iter().map(|stop| (stop.case.to_owned(), stop.text.to_owned())).collect()
}

/// Takes the tour on a target; gives the worst exit code of its parts. A broken server that is not caught is a
/// failure; a part that cannot be shown here counts only if none can.
///
/// # Errors
/// A run could not be started, or left no results.
pub fn tour(target: &Target, folder: &Path, scratch: &Path) -> anyhow::Result<i32> {
    let tour = Tour { target, folder, scratch };
    let mut codes = Vec::new();
    for (name, play) in PARTS {
        tour.forget(name)?;
        match play(&tour, name)? {
            INTERRUPTED => return Ok(INTERRUPTED),
            code => codes.push(code),
        }
    }
    tour.table();
    Ok(worst(&codes))
}

/// One exit code for all parts: of those that name something to look at, the lower is the worse.
fn worst(codes: &[i32]) -> i32 {
    let bad = codes.iter().copied().filter(|&code| code != 0 && code != NOTHING).min();
    bad.unwrap_or(if codes.contains(&0) { 0 } else { NOTHING })
}

/// What a run with a broken server counts for: it must fail, with exit code 1.
fn caught(code: i32) -> (i32, Option<&'static str>) {
    match code {
        1 => (0, None),
        0 => (1, Some("The broken server was not caught: that is an error of the races.")),
        INTERRUPTED => (INTERRUPTED, None),
        code => (code, Some("The broken server was not raced as it should have been.")),
    }
}

struct Tour<'a> {
    target: &'a Target,
    folder: &'a Path,
    scratch: &'a Path,
}

impl Tour<'_> {
    fn order(&self, items: Vec<Item>, name: &str) -> Order {
        Order {
            items,
            seed: 1,
            results: self.folder.join(name),
            scratch: self.scratch.to_owned(),
            tour: texts(),
            ..Order::empty(self.target.clone())
        }
    }

    /// The stops of a part, here.
    fn part(&self, part: Part, name: &str) -> anyhow::Result<i32> {
        run::run(self.order(items(part)?, name))
    }

    /// What a pipe-backed iterator does wrong, shown by a server that was built with one.
    fn broken(&self, name: &str) -> anyhow::Result<i32> {
        println!(
            "\nThe same with an iterator that writes into a pipe and is reverted after a short read, as the kernel's was.\n\
             It is a build of the server that exists for this; every FAIL below is right.\n"
        );
        let server = match mutants::server() {
            Ok(server) => server,
            Err(reason) => {
                println!("not shown: {reason}");
                return Ok(NOTHING);
            }
        };
        let order = Order {
            options: "read=pipe-backed".to_owned(),
            target: Target::Inflight,
            server: Some(server),
            tour: BTreeMap::new(),
            ..self.order(of(PIPE_BACKED)?, name)
        };
        let (code, complaint) = caught(run::run(order)?);
        if let Some(complaint) = complaint {
            println!("{complaint}");
        }
        Ok(code)
    }

    /// Fork beside a direct read under a kernel that took references.
    fn old(&self, name: &str) -> anyhow::Result<i32> {
        println!(
            "\nThe same fork under Linux 6.1, which took references and no pins, in a virtual machine.\n"
        );
        let order = Order { tour: BTreeMap::new(), ..self.order(of(OLD_LOSES)?, name) };
        let options = vm::Options { guest: Guest::of(OLD), accel: Accel::Auto };
        vm::run(&options, order)
    }

    /// Removes the results that an earlier tour left of a part: this one may not get as far.
    fn forget(&self, name: &str) -> anyhow::Result<()> {
        let file = self.folder.join(name).join(RUN_FILE);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Every case of every part that was shown: how its variants ended.
    fn table(&self) {
        println!("\n{:<16} {:<5} {:<22} verdicts", "part", "case", "");
        for (name, _) in PARTS {
            // A part that could not be shown has said so.
            let Ok(run) = results::read_run(&self.folder.join(name)) else { continue };
            rows(&run).iter().for_each(|row| println!("{name:<16} {row}"));
        }
    }
}

/// One row for each case of a run.
fn rows(run: &Run) -> Vec<String> {
    let mut cases: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for entry in &run.variants {
        let verdict = match entry.verdict.word() {
            word @ ("FAIL" | "XFAIL") => {
                let detail = entry.verdict.detail();
                format!("{word} {}", detail.split(' ').next().unwrap_or(""))
            }
            word => word.to_owned(),
        };
        match cases.last_mut().filter(|(case, ..)| *case == entry.case) {
            Some((_, _, verdicts)) => verdicts.push(verdict),
            None => cases.push((&entry.case, &entry.name, vec![verdict])),
        }
    }
    let row = |(case, name, mut verdicts): (&str, &str, Vec<String>)| {
        verdicts.sort();
        let count = |chunk: &[String]| format!("{} {}", chunk.len(), chunk[0]);
        let counts: Vec<_> = verdicts.chunk_by(|a, b| a == b).map(count).collect();
        format!("{case:<5} {name:<22} {}", counts.join(", "))
    };
    cases.into_iter().map(row).collect()
}

/// The variants of a case, named as for `run`.
fn of(case: &str) -> anyhow::Result<Vec<Item>> {
    plan::plan(&Wanted { cases: vec![case.to_owned()], ..Wanted::default() })
}

/// The variants of a part, in its order.
///
/// # Errors
/// A stop names a variant that does not exist.
pub fn items(part: Part) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for stop in STOPS.iter().filter(|stop| stop.part == part) {
        items.extend(of(&format!("{}:{}", stop.case, stop.variants))?);
    }
    for (number, item) in items.iter_mut().enumerate() {
        item.number = number as u64;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stop_has_variants() {
        for stop in &STOPS {
            let items = items(stop.part).unwrap();
            assert!(items.iter().any(|item| item.case == stop.case), "{}", stop.case);
        }
        for cases in [PIPE_BACKED, OLD_LOSES] {
            assert!(!of(cases).unwrap().is_empty());
        }
    }

    #[test]
    fn a_broken_server_must_be_caught() {
        assert_eq!(caught(1), (0, None));
        for (code, counts) in [(0, 1), (3, 3), (4, 4), (6, 6)] {
            let (code, complaint) = caught(code);
            assert!(code == counts && complaint.is_some(), "{code} {counts}");
        }
        assert_eq!(caught(INTERRUPTED), (INTERRUPTED, None));
    }

    #[test]
    fn the_worst_part_counts_and_one_that_cannot_be_shown_does_not() {
        assert_eq!(worst(&[0, 4, 0, 4, 0]), 0);
        assert_eq!(worst(&[4, 4]), 4);
        assert_eq!(worst(&[0, 6, 4, 3]), 3);
        assert_eq!(worst(&[3, 1, 0]), 1);
    }

    #[test]
    fn an_earlier_tour_is_forgotten() {
        let (folder, scratch) = (tempfile::tempdir().unwrap(), Path::new("/nowhere"));
        let tour = Tour { target: &Target::Inflight, folder: folder.path(), scratch };
        let file = folder.path().join("3-pins").join(RUN_FILE);
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "{}").unwrap();
        tour.forget("3-pins").unwrap();
        assert!(!file.exists());
        tour.forget("3-pins").unwrap();
    }
}
