//! The table of expected failures that a run is judged by: the rows beside each case, and rows of one's own in TOML.
//!
//! A row of one's own is what one knows of one's kernel or server, under `[[expected]]`: `case` and `reference` must be there,
//! `class` or `stack` says what is seen. It is a signature like the others: whatever else is seen is FAIL.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::plan;
use super::worker::{Played, Stopped};
use crate::cases::case::Case;
use crate::cases::expect::{self, Applies, EVER, Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::kit::kernel::{Kernel, Version};
use crate::kit::nearest::nearest;
use crate::kit::verdict::{Class, Fault, Verdict};
use crate::target::Target;

/// A row of one's own. Patterns have `*`, and `|` between alternatives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Short name of the case.
    case: String,
    /// Targets, as a pattern; a server is `server`.
    #[serde(default = "any")]
    on: String,
    /// Variants, as a pattern.
    #[serde(default = "any")]
    variant: String,
    /// A mount option that must be in force.
    #[serde(default)]
    option: String,
    /// The class of the harm.
    #[serde(default)]
    class: Option<Class>,
    /// Its words, as a pattern.
    #[serde(default = "any")]
    words: String,
    /// Instead of both: kernel functions in which threads hang.
    #[serde(default)]
    stack: Vec<String>,
    /// First kernel that fails: `6.12` or `6.12.3`.
    #[serde(default)]
    since: Option<String>,
    /// First kernel that does not.
    #[serde(default)]
    until: Option<String>,
    /// Whether a pass is unexpected there.
    #[serde(default)]
    must: bool,
    /// Where it is described.
    reference: String,
}

fn any() -> String {
    "*".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    expected: Vec<Row>,
}

/// Reads a file of rows.
///
/// # Errors
/// It cannot be read, is not TOML, names a case that is not there, or a row does not say what is seen.
pub fn read(path: &Path) -> anyhow::Result<Vec<Row>> {
    let of = || format!("{}", path.display());
    let text = std::fs::read_to_string(path).with_context(of)?;
    let document: Document = toml::from_str(&text).with_context(of)?;
    document.expected.iter().try_for_each(Row::check).with_context(of)?;
    Ok(document.expected)
}

fn version(text: &str) -> anyhow::Result<Version> {
    let is_number = text.split('.').all(|part| part.parse::<u32>().is_ok());
    ensure!(is_number, "'{text}' is no version; it looks like 6.12 or 6.12.3");
    Ok(Version::parse(text))
}

impl Row {
    fn check(&self) -> anyhow::Result<()> {
        let ids: Vec<_> = plan::cases().iter().map(|case| case.id).collect();
        let is_there = ids.contains(&&*self.case);
        ensure!(is_there, "unknown case '{}'; nearest: {}", self.case, nearest(&self.case, ids));
        let (has_class, has_stack) = (self.class.is_some(), !self.stack.is_empty());
        ensure!(has_class != has_stack, "a row for {}: give `class` or `stack`", self.case);
        self.since.iter().chain(&self.until).try_for_each(|text| version(text).map(drop))
    }

    /// As the rows beside the cases are. Its words stay for as long as the program runs, as theirs do.
    fn expected(&self) -> Expected {
        let keep = |text: &String| -> &'static str { text.clone().leak() };
        let seen = match self.class {
            Some(class) => Seen::Words(class, keep(&self.words)),
            None => Seen::Stack(self.stack.iter().map(keep).collect::<Vec<_>>().leak()),
        };
        Expected {
            on: keep(&self.on),
            variant: keep(&self.variant),
            option: keep(&self.option),
            seen: vec![seen].leak(),
            since: self.since.as_deref().map_or(EVER, Version::parse),
            until: self.until.as_deref().map(Version::parse),
            must: if self.must { Must::All } else { Must::Series(&[]) },
            fixed_in: &[],
            reference: keep(&self.reference),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Table {
    is_raw: bool,
    own: Vec<(String, Expected)>,
}

impl Table {
    /// The rows beside the cases, unless it is `raw`, and these. To be made once in a process.
    pub fn new(raw: bool, own: &[Row]) -> Table {
        let own = own.iter().map(|row| (row.case.clone(), row.expected())).collect();
        Table { is_raw: raw, own }
    }

    /// The rows of a case that speak of a variant on a target, mounted with the run's options and its own, under a kernel.
    pub fn rows(
        &self,
        case: &Case,
        variant: &Variant,
        target: &Target,
        options: &str,
        kernel: &Kernel,
    ) -> Vec<(Expected, Applies)> {
        let (on, name) = (target.subject(), variant.name());
        let options = variant.options(options);
        let beside: &[Expected] = if self.is_raw { &[] } else { case.expected };
        let own = self.own.iter().filter(|(id, _)| id == case.id).map(|(_, row)| row);
        let applies = |row: &Expected| (*row, row.applies(&on, &name, &options, kernel));
        let all = own.chain(beside).map(applies);
        all.filter(|(_, applies)| *applies != Applies::No).collect()
    }
}

/// What a variant of a case came to on a target, by those rows of the table of expected failures.
pub fn verdict(
    case: &Case,
    target: &Target,
    rows: &[(Expected, Applies)],
    played: &Played,
) -> Verdict {
    // Not every server takes the way on which the kernel fails.
    let may_pass = case.is_in("stress") || matches!(target, Target::Server(_));
    let settle = |faults: &[Fault]| expect::settle(faults, &played.notes, rows);
    match &played.stop {
        // Harm that was seen counts, whatever came after it.
        _ if !played.faults.is_empty() => settle(&played.faults),
        Some(Stopped::Broken(reason)) => Verdict::Broken { reason: reason.clone() },
        Some(Stopped::NotRun(reason)) => Verdict::Notrun { reason: reason.clone() },
        Some(Stopped::NoProof(reason)) => Verdict::Noproof { reason: reason.clone() },
        Some(Stopped::Serialised(reason)) => Verdict::Serialised { reason: reason.clone() },
        // A stress run may miss what a parked request cannot: that it saw nothing is no XPASS.
        None if may_pass => Verdict::Pass,
        None => settle(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> anyhow::Result<Vec<Row>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        read(file.path())
    }

    #[test]
    fn a_row_of_ones_own_is_a_signature_like_the_others() {
        let text = "[[expected]]\ncase = 'TR1'\non = 'server'\nclass = 'KERNEL-LOG'\nwords = '*refcount*'\n\
                    since = '6.12'\nuntil = '7.0'\nreference = 'bug 12'\n";
        let table = Table::new(true, &rows(text).unwrap());
        let case = plan::cases().iter().find(|case| case.id == "TR1").unwrap();
        let variant = &(case.variants)()[0];
        let server = Target::Server(crate::target::Served::new("/bin/a-server {}", false).unwrap());
        let speak = |release, on| table.rows(case, variant, on, "", &Kernel::of(release));
        assert!(speak("6.11.0", &server).is_empty() && speak("7.0.0", &server).is_empty());
        assert!(speak("6.12.0", &Target::Inflight).is_empty(), "raw, and of another target");
        let rows = speak("6.12.0", &server);
        let fault = |text: &str| Fault { class: Class::KernelLog, text: text.to_owned() };
        let of = |text| {
            verdict(
                case,
                &server,
                &rows,
                &Played { faults: vec![fault(text)], ..Played::default() },
            )
        };
        assert_eq!((of("a refcount went bad").word(), of("a BUG").word()), ("XFAIL", "FAIL"));
    }

    #[test]
    fn what_a_row_lacks_or_misspells_is_said() {
        for (text, wanted) in [
            ("[[expected]]\ncase = 'TR1'\nreference = 'x'\n", "give `class` or `stack`"),
            (
                "[[expected]]\ncase = 'TR99'\nclass = 'LOST'\nreference = 'x'\n",
                "unknown case 'TR99'",
            ),
            ("[[expected]]\ncase = 'TR1'\nclass = 'LOUD'\nreference = 'x'\n", "LOUD"),
            (
                "[[expected]]\ncase = 'TR1'\nclass = 'LOST'\nsince = 'new'\nreference = 'x'\n",
                "'new' is no version",
            ),
            ("[[expected]]\ncase = 'TR1'\nclas = 'LOST'\nreference = 'x'\n", "clas"),
        ] {
            let error = format!("{:#}", rows(text).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }
}
