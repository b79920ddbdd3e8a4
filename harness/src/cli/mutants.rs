//! The proof of the harness: servers with one defect each, and the variants that must find it.
//!
//! A defect that no variant finds is a hole in the cases. The same variants must pass on the same server
//! without a defect, so that it is the defect that they find.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::ensure;
use inflight_splice::mutant::Mutant;

use crate::kit::verdict::{Class, Verdict};
use crate::run::results::Entry;
use crate::run::{self, Order};
use crate::target::Target;

/// That a variant finds a defect, as harm of this class.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// The defect.
    pub mutant: Mutant,
    /// Case and variant, as on the command line.
    pub variant: &'static str,
    /// The class that must be among those of the verdict.
    pub class: Class,
}

const fn proof(mutant: Mutant, variant: &'static str, class: Class) -> Proof {
    Proof { mutant, variant, class }
}

/// Every defect that a race shows is here at least once.
pub const PROOFS: &[Proof] = &[
    proof(Mutant::SkipBlockPin, "BK1:truncate/prepared", Class::Foreign),
    proof(Mutant::SkipBlockPin, "BK1:punch/prepared", Class::Foreign),
    proof(Mutant::SkipBlockPin, "BK1:truncate/piped/read=buffered,write=buffered", Class::Foreign),
    proof(Mutant::ForgetPinRelease, "PN1:truncate/prepared", Class::Pins),
    proof(Mutant::KeepPinnedBlocks, "PN1:truncate/applied", Class::Pins),
    proof(Mutant::ForgetBufferRelease, "PN1:truncate/piped", Class::Pins),
    proof(Mutant::ReplyBeforeApply, "WR1:write/pread", Class::Stale),
    proof(Mutant::ReplyBeforeApply, "WR1:write/uring", Class::Stale),
    proof(Mutant::ReplyBeforeApply, "WR1:truncate", Class::Resurrected),
    proof(Mutant::DropQueuedWrite, "WR1:beside/received", Class::Stale),
    proof(Mutant::DropQueuedWrite, "WR1:beside/prepared", Class::Stale),
    proof(Mutant::DropQueuedWrite, "OW1:second/aio/received", Class::Stale),
    proof(Mutant::DropQueuedWrite, "OW1:second/uring/prepared", Class::Stale),
    proof(Mutant::ReplyBeforeApply, "SG1:write-eintr/received/direct_io", Class::Errno),
    proof(Mutant::ReplyBeforeApply, "RN1:write/received", Class::Stale),
    proof(Mutant::ResurrectTruncated, "RN1:truncate/received", Class::Resurrected),
    proof(Mutant::StaleSize, "TR1:read/pread/received", Class::Short),
    proof(Mutant::ResurrectTruncated, "TR1:read/uring/applied", Class::Resurrected),
    proof(Mutant::ResurrectTruncated, "BK1:truncate/piped", Class::Resurrected),
    proof(Mutant::ServeForeignBlock, "BK1:truncate/received", Class::Foreign),
    proof(Mutant::TruncateWaits, "TR1:read/pread/applied", Class::Hang),
    proof(Mutant::SkipTailZero, "TR7:truncate/applied", Class::Resurrected),
    proof(Mutant::SkipTailZero, "TR7:write/applied", Class::Resurrected),
    proof(Mutant::SkipTailZero, "TR7:fallocate/applied", Class::Resurrected),
    proof(Mutant::SkipEdgeZero, "BK1:edge", Class::Foreign),
    proof(Mutant::SkipHoleZero, "BK1:truncate/received/read=copy", Class::Foreign),
    proof(Mutant::DeleteOpenFile, "UN1:unlink/uring/received", Class::Errno),
    proof(Mutant::LoseTailTrim, "SP5:eof-1", Class::Short),
    proof(Mutant::LoseTailTrim, "SP5:eof-4097/read=direct", Class::Short),
    proof(Mutant::ReuseDirtyPipe, "SP9:cut/piped/read=direct", Class::Errno),
    proof(Mutant::ReuseDirtyPipe, "SP9:fail/piped/read=buffered", Class::Errno),
    proof(Mutant::EditAfterVmsplice, "SP9:hold/piped/read=direct", Class::Foreign),
];

/// What a row of the table came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Found,
    NotRun,
    Broken,
    Survived,
}

/// Plays every proof, each defect on a server of its own, and prints a table.
///
/// The exit code is 0 when every defect was found and the server without one passed, 1 when one was not or
/// it did not, 3 when a setup failed or a row of the table could not be played, 4 when none could: there is
/// no server that has the defects, or nothing can be mounted. The last line of 3 and 4 has the first reason.
///
/// # Errors
/// A run could not be started, or left no results.
pub fn prove(scratch: &Path) -> anyhow::Result<i32> {
    let start = Instant::now();
    let server = match server() {
        Ok(server) => server,
        Err(reason) => {
            println!("NOTRUN {reason}");
            return Ok(4);
        }
    };
    let mut lab = Lab { server, scratch, played: 0, not_run: None };
    println!("server {}", lab.server.display());
    let mut worst = lab.honest()?;
    for mutant in Mutant::RACES {
        worst = worst.max(lab.mutant(*mutant)?);
    }
    println!("{} mutants in {:.1} s", Mutant::RACES.len(), start.elapsed().as_secs_f64());
    if let Some(reason) = &lab.not_run {
        println!("NOTRUN {reason}");
    }
    Ok(code(worst, lab.played))
}

/// The exit code, if so many variants were played.
fn code(worst: Outcome, played: usize) -> i32 {
    match worst {
        Outcome::Found => 0,
        Outcome::Survived => 1,
        Outcome::NotRun if played == 0 => 4,
        Outcome::NotRun | Outcome::Broken => 3,
    }
}

/// The server that has the defects: `$INFLIGHT_MUTANTS`, or `mutants/inflight` in the target folder that
/// this program was built into.
///
/// # Errors
/// There is none, or it was built without them.
pub(crate) fn server() -> Result<PathBuf, String> {
    let server = place()?;
    // Nothing can be mounted there; what is wrong with the options is said first.
    let option = format!("mutant={}", Mutant::RACES[0].name());
    let mut command = Command::new(&server);
    let output = command.args(["mount", "-o", &option, "/dev/null", "/dev/null"]).output();
    let output = output.map_err(|error| format!("{}: {error}", server.display()))?;
    if String::from_utf8_lossy(&output.stderr).contains("unknown mount option 'mutant") {
        let server = server.display();
        return Err(format!("{server} was built without --features inflight/mutants; {BRINGS}"));
    }
    Ok(server)
}

/// What to do about it.
const BRINGS: &str = "`scripts/test mutants` builds it into target/mutants/inflight";

fn place() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("INFLIGHT_MUTANTS") {
        let path = PathBuf::from(path);
        let missing = format!("$INFLIGHT_MUTANTS: {} is not there", path.display());
        return if path.is_file() { Ok(path) } else { Err(missing) };
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let above = own.ancestors().skip(2).take(2);
    let found = above.map(|folder| folder.join("mutants/inflight")).find(|file| file.is_file());
    found.ok_or_else(|| format!("no server that has defects: {BRINGS}, or set $INFLIGHT_MUTANTS"))
}

struct Lab<'a> {
    server: PathBuf,
    scratch: &'a Path,
    /// Variants that were played.
    played: usize,
    /// Why the first that was not could not be.
    not_run: Option<String>,
}

impl Lab<'_> {
    /// The variants of all proofs must pass where there is no defect.
    fn honest(&mut self) -> anyhow::Result<Outcome> {
        let mut variants: Vec<&str> = PROOFS.iter().map(|proof| proof.variant).collect();
        variants.sort_unstable();
        variants.dedup();
        let mut worst = Outcome::Found;
        for entry in self.play("none", "", &variants)? {
            let outcome = match &entry.verdict {
                Verdict::Pass => continue,
                Verdict::Notrun { .. } => Outcome::NotRun,
                Verdict::Broken { .. } => Outcome::Broken,
                _ => Outcome::Survived,
            };
            row("(none)", &entry, "must pass", outcome);
            worst = worst.max(outcome);
        }
        println!(
            "{:<22} {} variants played on the server as it should be",
            "(none)",
            variants.len()
        );
        Ok(worst)
    }

    fn mutant(&mut self, mutant: Mutant) -> anyhow::Result<Outcome> {
        let proofs: Vec<_> = PROOFS.iter().filter(|proof| proof.mutant == mutant).collect();
        let mut worst = if proofs.is_empty() { Outcome::Survived } else { Outcome::Found };
        // Each on a fresh server: some defects leave it in no state to go on.
        for proof in proofs {
            let options = format!("mutant={}", mutant.name());
            for entry in self.play(mutant.name(), &options, &[proof.variant])? {
                let outcome = judge(&entry.verdict, proof.class);
                row(mutant.name(), &entry, proof.class.name(), outcome);
                worst = worst.max(outcome);
            }
        }
        Ok(worst)
    }

    fn play(&mut self, name: &str, options: &str, variants: &[&str]) -> anyhow::Result<Vec<Entry>> {
        let variants = variants.iter().map(|&variant| variant.to_owned()).collect();
        let order = Order {
            options: options.to_owned(),
            scratch: self.scratch.to_owned(),
            server: Some(self.server.clone()),
            ..Order::of(Target::Inflight, variants)?
        };
        let wanted = order.items.len();
        let run = run::silently(order)?;
        ensure!(run.variants.len() == wanted, "{name}: {} variants", run.variants.len());
        for entry in &run.variants {
            match &entry.verdict {
                Verdict::Notrun { reason } => {
                    let name = format!("{}:{}", entry.case, entry.variant);
                    self.not_run.get_or_insert_with(|| format!("{name}: {reason}"));
                }
                _ => self.played += 1,
            }
        }
        Ok(run.variants)
    }
}

/// Whether a verdict shows that a defect was found as what it is.
fn judge(verdict: &Verdict, class: Class) -> Outcome {
    match verdict {
        Verdict::Fail { classes } if classes.contains(&class) => Outcome::Found,
        Verdict::Notrun { .. } => Outcome::NotRun,
        Verdict::Broken { .. } => Outcome::Broken,
        _ => Outcome::Survived,
    }
}

fn row(mutant: &str, entry: &Entry, wanted: &str, outcome: Outcome) {
    let name = format!("{}:{}", entry.case, entry.variant);
    let verdict = format!("{} {}", entry.verdict.word(), entry.verdict.detail());
    let note = match outcome {
        Outcome::Found => String::new(),
        _ => format!("  <- {wanted} was wanted"),
    };
    println!("{mutant:<22} {name:<50} {}{note}", verdict.trim());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::plan::{Wanted, plan};

    #[test]
    fn every_mutant_has_a_proof_and_every_proof_is_one_variant() {
        for mutant in Mutant::RACES {
            assert!(PROOFS.iter().any(|proof| proof.mutant == *mutant), "{}", mutant.name());
        }
        for proof in PROOFS {
            let cases = vec![proof.variant.to_owned()];
            let items = plan(&Wanted { cases, ..Wanted::default() }).unwrap();
            assert_eq!(items.len(), 1, "{}", proof.variant);
        }
    }

    #[test]
    fn a_row_that_could_not_be_played_is_no_proof() {
        assert_eq!(code(Outcome::Found, 9), 0);
        assert_eq!(code(Outcome::NotRun, 9), 3);
        assert_eq!(code(Outcome::NotRun, 0), 4);
        assert_eq!(code(Outcome::Broken, 9), 3);
        assert_eq!(code(Outcome::Survived, 9), 1);
    }

    #[test]
    fn only_a_failure_of_the_right_class_is_a_proof() {
        let fail = Verdict::Fail { classes: vec![Class::Short, Class::Lost] };
        assert_eq!(judge(&fail, Class::Lost), Outcome::Found);
        assert_eq!(judge(&fail, Class::Stale), Outcome::Survived);
        assert_eq!(judge(&Verdict::Pass, Class::Lost), Outcome::Survived);
        let broken = Verdict::Broken { reason: "x".to_owned() };
        assert_eq!(judge(&broken, Class::Lost), Outcome::Broken);
        let noproof = Verdict::Noproof { reason: "x".to_owned() };
        assert_eq!(judge(&noproof, Class::Lost), Outcome::Survived);
    }
}
