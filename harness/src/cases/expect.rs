//! Expected failures: data beside each case, and how it turns FAIL into XFAIL and PASS into XPASS.
//!
//! A row is a signature, not a class of harm: which variants under which mount options, what is seen there (the words of the
//! fault, or functions that threads wait in), and on which kernels. It says only what was observed or what a named commit
//! changed. Whatever else of the same class is seen is FAIL.

use crate::kit::kernel::{Kernel, Version};
use crate::kit::verdict::{Class, Fault, Verdict};

/// One row: on these kernels these variants fail like this.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Targets, as a pattern with `*` (`inflight`, `ext4`, ...).
    pub on: &'static str,
    /// Variants, as a pattern with `*`.
    pub variant: &'static str,
    /// A mount option that must be in force, the run's or the variant's own; "" is none.
    pub option: &'static str,
    /// What is seen: every fault must be one of these, and there must be one.
    pub seen: &'static [Seen],
    /// First kernel of those that fail.
    pub since: Version,
    /// First kernel that passes again; `None`: no fix is known.
    pub until: Option<Version>,
    /// On which of them it must fail.
    pub must: Must,
    /// Kernels in between that carry a back-port of the fix, each as one exact version or, from a version
    /// on, the rest of its stable series.
    pub fixed_in: &'static [Fixed],
    /// Where it is described.
    pub reference: &'static str,
}

/// What harm looks like.
#[derive(Clone, Copy, Debug)]
pub enum Seen {
    /// A fault of this class whose words match a pattern with `*`.
    Words(Class, &'static str),
    /// A HANG in which threads wait in all of these functions of the kernel.
    Stack(&'static [&'static str]),
}

/// Kernels between the first and the last that fail, on which a row must be met. On the others it may be: nobody looked, and
/// no commit is known that says.
#[derive(Clone, Copy, Debug)]
pub enum Must {
    /// All: commits are known that begin and end it, or it was always seen.
    All,
    /// Those of these stable series (the first two numbers), where it was seen.
    Series(&'static [(u32, u32)]),
}

impl Seen {
    /// Whether a fault is this. `notes` have the stacks.
    pub fn is(&self, fault: &Fault, notes: &[String]) -> bool {
        match *self {
            Seen::Words(class, words) => fault.class == class && matches(words, &fault.text),
            Seen::Stack(functions) => {
                let stands = |function: &&str| {
                    notes
                        .iter()
                        .any(|note| note.split([' ', '<', ':']).any(|word| word == *function))
                };
                fault.class == Class::Hang && functions.iter().all(stands)
            }
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Seen::Words(class, words) => format!("{} \"{words}\"", class.name()),
            Seen::Stack(functions) => format!("HANG in {}", functions.join(" and ")),
        }
    }
}

/// A stable kernel that carries a fix which its number does not show.
#[derive(Clone, Copy, Debug)]
pub enum Fixed {
    /// This version, seen; nothing is known of its neighbours.
    Exactly(Version),
    /// This version and those after it in its series (the same first two numbers).
    From(Version),
}

impl std::fmt::Display for Fixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fixed::Exactly(version) => write!(f, "{version}"),
            Fixed::From(version) => write!(f, "{version} and later {}.{}", version.0, version.1),
        }
    }
}

/// FUSE's direct I/O takes references and no pins, so that fork copies what is in flight.
pub const FUSE_UNPINNED: Expected = Expected {
    on: "inflight",
    until: Some(Version(6, 9, 0)),
    reference: "fuse: Fix missing FOLL_PIN for direct-io, 738adade96b2",
    ..Expected::ALWAYS
};

/// The same of direct I/O by the block layer.
pub const BLOCK_UNPINNED: Expected = Expected {
    on: "ext4|xfs|btrfs|vfat",
    until: Some(Version(6, 5, 0)),
    reference: "block: Use page pinning, 6.5",
    ..Expected::ALWAYS
};

/// What both look like in memory that only the parent should have: what was read never came, or came to the child.
pub const COPIED_AT_FORK: &[Seen] = &[
    Seen::Words(Class::Lost, "parent: * are poison (never written); legal: *"),
    Seen::Words(Class::Leak, "child: data arrived in memory that was copied at fork"),
];

/// The beginning of all kernels: `since` of a bug that has always been there.
pub const EVER: Version = Version(0, 0, 0);

/// What a row says of a variant on a target under a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// Nothing.
    No,
    /// That it may fail.
    May,
    /// That it must fail.
    Must,
}

impl Expected {
    /// What a row is that says nothing else: with any options, on all kernels, certain on each. What is seen is the row's to say.
    pub const ALWAYS: Expected = Expected {
        on: "*",
        variant: "*",
        option: "",
        seen: &[],
        since: EVER,
        until: None,
        must: Must::All,
        fixed_in: &[],
        reference: "",
    };

    /// What this row says of the variant on the target, mounted with these options, under this kernel.
    pub fn applies(&self, on: &str, variant: &str, options: &str, kernel: &Kernel) -> Applies {
        let version = kernel.version();
        let is_fixed = self.fixed_in.iter().any(|fixed| match *fixed {
            Fixed::Exactly(exact) => exact == version,
            Fixed::From(from) => (from.0, from.1) == (version.0, version.1) && version.2 >= from.2,
        });
        let has_option =
            self.option.is_empty() || options.split(',').any(|option| option == self.option);
        let is_meant = matches(self.on, on)
            && matches(self.variant, variant)
            && has_option
            && version >= self.since
            && self.until.is_none_or(|until| version < until)
            && !is_fixed;
        match self.must {
            _ if !is_meant => Applies::No,
            Must::All => Applies::Must,
            Must::Series(series) if series.contains(&(version.0, version.1)) => Applies::Must,
            Must::Series(_) => Applies::May,
        }
    }

    /// Whether a fault is what this row describes.
    pub fn knows(&self, fault: &Fault, notes: &[String]) -> bool {
        self.seen.iter().any(|seen| seen.is(fault, notes))
    }
}

/// The verdict on a race that was run: what was seen against the rows that speak of it.
pub fn settle(faults: &[Fault], notes: &[String], rows: &[(Expected, Applies)]) -> Verdict {
    let mut classes: Vec<Class> = faults.iter().map(|fault| fault.class).collect();
    classes.sort();
    classes.dedup();
    if faults.is_empty() {
        let missed = rows.iter().find(|(_, applies)| *applies == Applies::Must);
        return missed.map_or(Verdict::Pass, |(row, _)| Verdict::Xpass {
            reference: row.reference.to_owned(),
        });
    }
    let row_of = |fault: &Fault| {
        let knows = |(row, applies): &&(Expected, Applies)| {
            *applies != Applies::No && row.knows(fault, notes)
        };
        rows.iter().find(knows).map(|(row, _)| row.reference)
    };
    let references: Option<Vec<&str>> = faults.iter().map(row_of).collect();
    match references {
        None => Verdict::Fail { classes },
        Some(mut references) => {
            references.dedup();
            Verdict::Xfail { classes, reference: references.join("; ") }
        }
    }
}

/// Whether `text` matches one of the patterns between `|`, in which `*` stands for anything.
pub fn matches(patterns: &str, text: &str) -> bool {
    patterns.split('|').any(|pattern| matches_one(pattern, text))
}

fn matches_one(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Expected = Expected {
        on: "inflight*",
        variant: "aio*",
        option: "",
        seen: &[Seen::Words(Class::Stale, "reader: *"), Seen::Stack(&["dup_mmap", "io_write"])],
        since: Version(6, 5, 0),
        until: Some(Version(7, 1, 0)),
        must: Must::All,
        fixed_in: &[Fixed::From(Version(6, 12, 117)), Fixed::Exactly(Version(6, 18, 9))],
        reference: "somewhere",
    };

    fn applies(release: &str, on: &str, variant: &str) -> bool {
        ROW.applies(on, variant, "", &Kernel::of(release)) == Applies::Must
    }

    #[test]
    fn a_row_has_a_floor_a_ceiling_and_backports() {
        assert!(!applies("6.1.176", "inflight", "aio"));
        assert!(applies("6.18.44", "inflight", "aio/thp"));
        assert!(!applies("6.18.44", "ext4", "aio"));
        assert!(!applies("6.18.44", "inflight", "pread"));
        assert!(!applies("7.1.0", "inflight", "aio"));
        assert!(applies("6.12.116", "inflight", "aio"));
        assert!(!applies("6.12.118", "inflight", "aio"));
        assert!(!applies("6.18.9", "inflight", "aio"));
        assert!(applies("6.18.10", "inflight", "aio"));
    }

    #[test]
    fn where_nobody_looked_a_row_allows_and_does_not_demand() {
        let row = Expected { must: Must::Series(&[(6, 16), (6, 17)]), ..ROW };
        let of = |release| row.applies("inflight", "aio", "", &Kernel::of(release));
        assert_eq!(
            (of("6.16.3"), of("6.18.10"), of("7.2")),
            (Applies::Must, Applies::May, Applies::No)
        );
        assert_eq!(settle(&[], &[], &[(row, Applies::May)]), Verdict::Pass);
        let fault = Fault { class: Class::Stale, text: "reader: old".into() };
        assert_eq!(settle(&[fault], &[], &[(row, Applies::May)]).word(), "XFAIL");
    }

    #[test]
    fn options_of_the_run_count_as_those_of_the_variant() {
        let row = Expected { option: "direct_io", ..ROW };
        let of = |options| row.applies("inflight", "aio", options, &Kernel::of("6.18.44"));
        assert_eq!(of("read=copy,direct_io"), Applies::Must);
        assert_eq!((of(""), of("no_direct_io")), (Applies::No, Applies::No));
    }

    #[test]
    fn what_was_seen_meets_what_the_table_says() {
        let fault = |class, text: &str| Fault { class, text: text.to_owned() };
        let rows = [(ROW, Applies::Must)];
        let old = fault(Class::Stale, "reader: 512 bytes are old");
        assert_eq!(settle(&[], &[], &[]), Verdict::Pass);
        assert_eq!(settle(&[], &[], &rows).word(), "XPASS");
        assert_eq!(settle(std::slice::from_ref(&old), &[], &rows).word(), "XFAIL");
        assert_eq!(settle(std::slice::from_ref(&old), &[], &[]).word(), "FAIL");
        let other = fault(Class::Stale, "the file: 512 bytes are old");
        assert_eq!(settle(&[old.clone(), other], &[], &rows).word(), "FAIL", "the same class");
        let hang = fault(Class::Hang, "did not come back");
        let both = settle(&[old.clone(), hang.clone()], &[], &rows);
        assert_eq!(both, Verdict::Fail { classes: vec![Class::Stale, Class::Hang] });
        let stacks = ["a 1 D: dup_mmap < copy_process", "b 2 D: x < io_write"].map(str::to_owned);
        assert_eq!(settle(&[old, hang.clone()], &stacks, &rows).word(), "XFAIL");
        assert_eq!(settle(&[hang], &stacks[..1], &rows).word(), "FAIL", "another deadlock");
    }

    #[test]
    fn patterns() {
        assert!(matches("*", "") && matches("a*c", "abc") && matches("a*c*", "abcd"));
        assert!(matches("x|a*", "abc") && !matches("x|b*", "abc"));
        assert!(matches("abc", "abc") && !matches("abc", "abcd") && !matches("a*c", "abd"));
    }
}
