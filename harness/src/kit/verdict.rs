//! Verdicts: what a variant ends in, and what a run's exit code says.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | every variant passed, failed as expected (XFAIL), or was not run for a stated reason |
//! | 1 | at least one FAIL |
//! | 2 | usage: unknown case, group, target or option |
//! | 3 | no FAIL, and at least one BROKEN: the setup, not the subject, is at fault |
//! | 4 | nothing was run: every variant selected is NOTRUN, or none was selected |
//! | 5 | none of these, and at least one NOPROOF: a window never overlapped; or nothing but SERIALISED: no race was run |
//! | 6 | none of 1, 3 and 4, and at least one XPASS: the table of expected failures is out of date |
//! | 130 | interrupted |

use serde::{Deserialize, Serialize};

/// The kinds of harm that a case can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Class {
    /// Data that a system call said to have moved is not there.
    Lost,
    /// A process sees data that was never meant for it.
    Leak,
    /// Data older than what was completed before.
    Stale,
    /// Data of another file, or of another place in the file.
    Foreign,
    /// Data that a truncate or punch had removed.
    Resurrected,
    /// A count that does not agree with what moved, or a size that does not agree with the data.
    Short,
    /// A wrong errno.
    Errno,
    /// Page pins that did not come back.
    Pins,
    /// Something did not return within its bound after everything was released.
    Hang,
    /// The kernel complained.
    KernelLog,
    /// A fact of the machine is not what it is known to be under such a kernel.
    Differs,
}

impl Class {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Lost => "LOST",
            Class::Leak => "LEAK",
            Class::Stale => "STALE",
            Class::Foreign => "FOREIGN",
            Class::Resurrected => "RESURRECTED",
            Class::Short => "SHORT",
            Class::Errno => "ERRNO",
            Class::Pins => "PINS",
            Class::Hang => "HANG",
            Class::KernelLog => "KERNEL-LOG",
            Class::Differs => "DIFFERS",
        }
    }
}

/// One harm that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its kind.
    pub class: Class,
    /// What was seen where, for people.
    pub text: String,
}

/// What a variant ends in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "UPPERCASE")]
pub enum Verdict {
    /// The race was run, and nothing was harmed.
    Pass,
    /// Something was harmed that should not have been on this kernel.
    Fail {
        /// Kinds of harm, each once.
        classes: Vec<Class>,
    },
    /// It failed as the table says it must.
    Xfail {
        /// Kinds of harm, each once.
        classes: Vec<Class>,
        /// Where the failure is described.
        reference: String,
    },
    /// It passed where the table says it must fail.
    Xpass {
        /// Where the failure is described.
        reference: String,
    },
    /// The window never overlapped, so nothing was shown.
    Noproof {
        /// How that was noticed.
        reason: String,
    },
    /// The kernel held the racer back until the I/O was over: there was no race, and nothing was harmed.
    Serialised {
        /// What waited where.
        reason: String,
    },
    /// It cannot be run here.
    Notrun {
        /// Why.
        reason: String,
    },
    /// The setup failed; nothing is said about the subject.
    Broken {
        /// What failed.
        reason: String,
    },
}

impl Verdict {
    /// The words of all verdicts, in the order of reports.
    pub const WORDS: [&str; 8] =
        ["PASS", "FAIL", "XFAIL", "XPASS", "NOPROOF", "SERIALISED", "NOTRUN", "BROKEN"];

    /// The word in reports.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail { .. } => "FAIL",
            Verdict::Xfail { .. } => "XFAIL",
            Verdict::Xpass { .. } => "XPASS",
            Verdict::Noproof { .. } => "NOPROOF",
            Verdict::Serialised { .. } => "SERIALISED",
            Verdict::Notrun { .. } => "NOTRUN",
            Verdict::Broken { .. } => "BROKEN",
        }
    }

    /// Classes, reference or reason, as far as the verdict has one.
    pub fn detail(&self) -> String {
        let names = |classes: &[Class]| {
            let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
            names.join("+")
        };
        match self {
            Verdict::Pass => String::new(),
            Verdict::Fail { classes } => names(classes),
            Verdict::Xfail { classes, reference } => format!("{} ({reference})", names(classes)),
            Verdict::Xpass { reference } => format!("must fail here ({reference})"),
            Verdict::Noproof { reason }
            | Verdict::Serialised { reason }
            | Verdict::Notrun { reason }
            | Verdict::Broken { reason } => reason.clone(),
        }
    }

    /// Whether somebody has to look at it.
    pub fn is_unexpected(&self) -> bool {
        !matches!(
            self,
            Verdict::Pass
                | Verdict::Xfail { .. }
                | Verdict::Serialised { .. }
                | Verdict::Notrun { .. }
        )
    }
}

/// Why a case ended before it could judge. Any other error that a case returns is [`Stop::Broken`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// It cannot be run here.
    #[error("{0}")]
    NotRun(String),
    /// The window did not overlap.
    #[error("{0}")]
    NoProof(String),
    /// The kernel held the racer back until the I/O was over.
    #[error("{0}")]
    Serialised(String),
    /// Something did not return within its bound.
    #[error("{0}")]
    Hang(String),
    /// The setup failed.
    #[error("{0}")]
    Broken(String),
}

/// Ends a case that cannot be run here.
pub fn not_run(reason: impl Into<String>) -> anyhow::Error {
    Stop::NotRun(reason.into()).into()
}

/// Why something that ended with an error cannot be run here, if that is what the error says.
pub fn reason_not_run(error: &anyhow::Error) -> Option<&str> {
    match error.downcast_ref() {
        Some(Stop::NotRun(reason)) => Some(reason),
        _ => None,
    }
}

/// Ends a case whose window did not overlap.
pub fn no_proof(reason: impl Into<String>) -> anyhow::Error {
    Stop::NoProof(reason.into()).into()
}

/// Ends a case whose racer the kernel held back until the I/O was over.
pub fn serialised(reason: impl Into<String>) -> anyhow::Error {
    Stop::Serialised(reason.into()).into()
}

/// Exit code of a run, from its verdicts. See the [module](self).
pub fn exit_code<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> i32 {
    let (mut fail, mut broken, mut noproof, mut xpass, mut ran) =
        (false, false, false, false, false);
    let (mut raced, mut serialised) = (false, false);
    for verdict in verdicts {
        ran |= !matches!(verdict, Verdict::Notrun { .. });
        match verdict {
            Verdict::Fail { .. } => fail = true,
            Verdict::Broken { .. } => broken = true,
            Verdict::Noproof { .. } => noproof = true,
            Verdict::Xpass { .. } => xpass = true,
            Verdict::Pass | Verdict::Xfail { .. } => raced = true,
            Verdict::Serialised { .. } => serialised = true,
            Verdict::Notrun { .. } => {}
        }
    }
    noproof |= serialised && !raced;
    match (fail, broken, ran, noproof, xpass) {
        (true, ..) => 1,
        (_, true, ..) => 3,
        (_, _, false, ..) => 4,
        // A window that was missed hides nothing that was seen.
        (_, _, _, _, true) => 6,
        (_, _, _, true, _) => 5,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_verdict_decides_the_exit_code() {
        let fail = Verdict::Fail { classes: vec![Class::Lost] };
        let broken = Verdict::Broken { reason: "x".into() };
        let notrun = Verdict::Notrun { reason: "x".into() };
        let noproof = Verdict::Noproof { reason: "x".into() };
        let xpass = Verdict::Xpass { reference: "x".into() };
        let xfail = Verdict::Xfail { classes: vec![], reference: "x".into() };
        let serialised = Verdict::Serialised { reason: "x".into() };
        let code = |verdicts: &[&Verdict]| exit_code(verdicts.iter().copied());
        assert_eq!(code(&[&serialised, &notrun]), 5, "no race was run");
        assert_eq!(code(&[&serialised, &Verdict::Pass]), 0);
        assert_eq!(code(&[&serialised, &xpass]), 6);
        assert_eq!(code(&[]), 4);
        assert_eq!(code(&[&notrun]), 4);
        assert_eq!(code(&[&Verdict::Pass, &notrun, &xfail]), 0);
        assert_eq!(code(&[&Verdict::Pass, &xpass]), 6);
        assert_eq!(code(&[&Verdict::Pass, &noproof]), 5);
        assert_eq!(code(&[&xpass, &noproof]), 6);
        assert_eq!(code(&[&noproof, &broken]), 3);
        assert_eq!(code(&[&broken, &fail, &notrun]), 1);
    }

    #[test]
    fn a_verdict_survives_json() {
        let verdict = Verdict::Fail { classes: vec![Class::Lost, Class::KernelLog] };
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(text, r#"{"verdict":"FAIL","classes":["LOST","KERNEL-LOG"]}"#);
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
        assert_eq!(verdict.detail(), "LOST+KERNEL-LOG");
    }
}
