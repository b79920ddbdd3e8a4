//! Results: one file for each variant and one for the run, with everything that is needed to judge it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::fixture::STRESS;
use crate::kit::kernel::Kernel;
use crate::kit::verdict::Verdict;
use crate::run::Order;
use crate::run::guest::Guest;
use crate::run::worker::Played;
use crate::target::Target;

/// Version of the format. Results of another one are refused.
pub const VERSION: u32 = 1;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Version of the format.
    pub version: u32,
    /// Kernel that it ran on.
    pub kernel: Kernel,
    /// The machine of its own that it ran in, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Guest>,
    /// How long a stress run might last.
    #[serde(default = "stress")]
    pub time: Duration,
    /// Target.
    pub target: Target,
    /// Mount options of the whole run.
    pub options: String,
    /// Seed. It narrows a scenario and does not fix the kernel's schedule.
    pub seed: u64,
    /// Seconds since 1970 at its start.
    pub started: u64,
    /// Every variant.
    pub variants: Vec<Entry>,
}

impl Run {
    /// The beginning of a run of an order, now, on a kernel.
    pub fn new(order: &Order, kernel: Kernel) -> Run {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Run {
            version: VERSION,
            kernel,
            vm: order.vm.clone(),
            time: order.time,
            target: order.target.clone(),
            options: order.options.clone(),
            seed: order.seed,
            started: since.map_or(0, |since| since.as_secs()),
            variants: Vec::new(),
        }
    }

    /// How many of each verdict; none that is not there.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        let count =
            |word| self.variants.iter().filter(|entry| entry.verdict.word() == word).count();
        let counts = Verdict::WORDS.into_iter().map(|word| (word, count(word)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// One line: target, kernel, counts.
    pub fn summary(&self) -> String {
        let counts: Vec<_> =
            self.counts().into_iter().map(|(word, count)| format!("{count} {word}")).collect();
        let target = format!("{} {}", self.target.name(), self.options);
        format!("{} on {}: {}", target.trim(), self.kernel.release, counts.join(", "))
    }
}

/// A variant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The case's short name.
    pub case: String,
    /// The case's long name.
    pub name: String,
    /// What was to hold.
    pub claim: String,
    /// The variant's name.
    pub variant: String,
    /// What it came to.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// A command that plays it again.
    pub repro: String,
    /// Everything that was seen.
    pub played: Played,
}

/// A file that holds one variant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Single {
    /// Version of the format.
    pub version: u32,
    /// Kernel that it ran on.
    pub kernel: Kernel,
    /// The machine of its own that it ran in, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Guest>,
    /// How long a stress run might last.
    #[serde(default = "stress")]
    pub time: Duration,
    /// Target.
    pub target: Target,
    /// Mount options of the whole run.
    pub options: String,
    /// Seed.
    pub seed: u64,
    /// The variant.
    pub entry: Entry,
}

impl Single {
    /// A run of this variant alone.
    fn into_run(self) -> Run {
        let Single { version, kernel, vm, time, target, options, seed, entry } = self;
        Run { version, kernel, vm, time, target, options, seed, started: 0, variants: vec![entry] }
    }
}

fn stress() -> Duration {
    STRESS
}

/// Name of the file of a run.
pub const RUN_FILE: &str = "results.json";

/// Below this are the results of runs for which nobody named a folder.
pub const DEFAULT: &str = "race-results";

/// A folder of its own for a run that begins now, named by the time of day in UTC.
pub fn named(now: Duration) -> PathBuf {
    let time = inflight_gate::utc::utc(now.as_secs() as i64, 0);
    let time = time.split('.').next().unwrap_or(&time).replace(':', "-");
    let folder = Path::new(DEFAULT).join(&time);
    match folder.exists() {
        true => Path::new(DEFAULT).join(format!("{time}-{}", std::process::id())),
        false => folder,
    }
}

/// A folder that somebody named, if no run has its results there: two runs in one folder are neither.
///
/// # Errors
/// It has results.
pub fn unused(folder: PathBuf) -> anyhow::Result<PathBuf> {
    let is_case = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|at| at.path().is_dir());
    let cases = fs::read_dir(&folder).into_iter().flatten().any(is_case);
    ensure!(
        !(cases || folder.join(RUN_FILE).exists()),
        "{} has the results of an earlier run: name another folder, or remove it",
        folder.display()
    );
    Ok(folder)
}

/// Points `latest` at a folder for which nobody named another.
pub(crate) fn point_latest(folder: &Path) {
    let Some((parent, name)) = folder.parent().zip(folder.file_name()) else { return };
    if parent != Path::new(DEFAULT) {
        return;
    }
    // A link cannot be replaced, but renamed over. Who cannot write here will hear of it when results are written.
    let fresh = parent.join(format!(".latest-{}", std::process::id()));
    let made = fs::create_dir_all(parent).and_then(|()| std::os::unix::fs::symlink(name, &fresh));
    let _ = made.and_then(|()| fs::rename(&fresh, parent.join("latest")));
}

/// Where a variant's file lies below the results folder.
pub fn path_of(entry: &Entry) -> PathBuf {
    Path::new(&entry.case)
        .join(format!("{}.json", entry.variant.replace('/', "_").replace('=', "-")))
}

/// Writes one variant as soon as it is known.
///
/// # Errors
/// The folder cannot be written.
pub fn write_entry(folder: &Path, run: &Run, entry: &Entry) -> anyhow::Result<()> {
    let path = folder.join(path_of(entry));
    let single = Single {
        version: VERSION,
        kernel: run.kernel.clone(),
        vm: run.vm.clone(),
        time: run.time,
        target: run.target.clone(),
        options: run.options.clone(),
        seed: run.seed,
        entry: entry.clone(),
    };
    write(&path, &single)
}

/// Writes the whole run.
///
/// # Errors
/// The folder cannot be written.
pub fn write_run(folder: &Path, run: &Run) -> anyhow::Result<()> {
    write(&folder.join(RUN_FILE), run)
}

fn write(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let what = || path.display().to_string();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(what)?;
    }
    fs::write(path, serde_json::to_vec_pretty(value)?).with_context(what)
}

/// Reads a run: its folder or its file. The file of one variant is a run of that one.
///
/// # Errors
/// Not there, not results, or of another version.
pub fn read_run(path: &Path) -> anyhow::Result<Run> {
    if path.is_dir() {
        let whole = path.join(RUN_FILE);
        return match whole.exists() {
            true => read(&whole),
            false => read_parts(path),
        };
    }
    read(path).or_else(|error| read_entry(path).map(Single::into_run).map_err(|_| error))
}

/// What a run that was killed has left: the variants that were played.
fn read_parts(folder: &Path) -> anyhow::Result<Run> {
    let inside = |at: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(at).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let cases = inside(folder).into_iter().filter(|path| path.is_dir());
    let files = cases.flat_map(|case| inside(&case));
    let singles = files.filter(|file| file.extension().is_some_and(|end| end == "json"));
    let mut run: Option<Run> = None;
    for single in singles {
        let part = read_entry(&single)?.into_run();
        match &mut run {
            Some(run) => run.variants.extend(part.variants),
            None => run = Some(part),
        }
    }
    run.with_context(|| {
        format!("{}: no results in it; name a folder of --results", folder.display())
    })
}

/// Reads the file of one variant.
///
/// # Errors
/// As [`read_run`].
pub fn read_entry(path: &Path) -> anyhow::Result<Single> {
    read(path)
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> anyhow::Result<T> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let what = || format!("{}: not a result of inflight-race", path.display());
    let head: Head = serde_json::from_slice(&text).with_context(what)?;
    ensure!(
        head.version == VERSION,
        "{}: results of version {}, this program reads version {VERSION}; run it again",
        path.display(),
        head.version
    );
    serde_json::from_slice(&text).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_another_version_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RUN_FILE);
        fs::write(&path, r#"{"version":99}"#).unwrap();
        let text = read_run(folder.path()).unwrap_err().to_string();
        assert!(text.contains("version 99, this program reads version 1"), "{text}");
        fs::write(&path, "[]").unwrap();
        assert!(read_run(&path).unwrap_err().to_string().contains("not a result"));
    }

    #[test]
    fn a_run_that_was_killed_has_what_it_played() {
        let folder = tempfile::tempdir().unwrap();
        let text = read_run(folder.path()).unwrap_err().to_string();
        assert!(text.contains("no results in it"), "{text}");
        let verdicts = [Verdict::Pass, crate::report::tests::fail()];
        let run = crate::report::tests::run(Target::Ext4, &verdicts);
        run.variants.iter().for_each(|entry| write_entry(folder.path(), &run, entry).unwrap());
        let found = read_run(folder.path()).unwrap();
        assert_eq!(found.summary(), "ext4 on 6.18.44: 1 PASS, 1 FAIL");
    }
}
