//! Expected failures: data beside each case, and how it turns FAIL into XFAIL and PASS into XPASS.

use crate::kit::kernel::{Kernel, Version};
use crate::kit::verdict::{Class, Fault, Verdict};

/// One row: on these kernels these variants must fail like this.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Targets, as a pattern with `*` (`inflight`, `ext4`, ...).
    pub on: &'static str,
    /// Variants, as a pattern with `*`.
    pub variant: &'static str,
    /// Kinds of harm that are expected, one or more of them.
    pub classes: &'static [Class],
    /// First kernel that must fail.
    pub since: Version,
    /// First kernel that must pass again; `None`: no fix is known.
    pub until: Option<Version>,
    /// Kernels in between that carry a back-port of the fix, each as one exact version or, from a version
    /// on, the rest of its stable series.
    pub fixed_in: &'static [Fixed],
    /// Where it is described.
    pub reference: &'static str,
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

/// The beginning of all kernels: `since` of a bug that has always been there.
pub const EVER: Version = Version(0, 0, 0);

impl Expected {
    /// Whether this row speaks of the variant on the target under this kernel.
    pub fn applies(&self, on: &str, variant: &str, kernel: &Kernel) -> bool {
        let version = kernel.version();
        let is_fixed = self.fixed_in.iter().any(|fixed| match *fixed {
            Fixed::Exactly(exact) => exact == version,
            Fixed::From(from) => (from.0, from.1) == (version.0, version.1) && version.2 >= from.2,
        });
        matches(self.on, on)
            && matches(self.variant, variant)
            && version >= self.since
            && self.until.is_none_or(|until| version < until)
            && !is_fixed
    }
}

/// The verdict on a race that was run: what was seen against what the table says.
pub fn settle(faults: &[Fault], row: Option<&Expected>) -> Verdict {
    let mut classes: Vec<Class> = faults.iter().map(|fault| fault.class).collect();
    classes.sort();
    classes.dedup();
    match row {
        None if classes.is_empty() => Verdict::Pass,
        None => Verdict::Fail { classes },
        Some(row) if classes.is_empty() => Verdict::Xpass { reference: row.reference.to_owned() },
        Some(row) if classes.iter().all(|class| row.classes.contains(class)) => {
            Verdict::Xfail { classes, reference: row.reference.to_owned() }
        }
        Some(_) => Verdict::Fail { classes },
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
        classes: &[Class::Stale],
        since: Version(6, 5, 0),
        until: Some(Version(7, 1, 0)),
        fixed_in: &[Fixed::From(Version(6, 12, 117)), Fixed::Exactly(Version(6, 18, 9))],
        reference: "somewhere",
    };

    fn applies(release: &str, on: &str, variant: &str) -> bool {
        let (build, machine) = (String::new(), String::new());
        ROW.applies(on, variant, &Kernel { release: release.to_owned(), build, machine })
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
    fn what_was_seen_meets_what_the_table_says() {
        let fault = |class| Fault { class, text: String::new() };
        assert_eq!(settle(&[], None), Verdict::Pass);
        assert_eq!(settle(&[], Some(&ROW)).word(), "XPASS");
        assert_eq!(settle(&[fault(Class::Stale)], Some(&ROW)).word(), "XFAIL");
        assert_eq!(settle(&[fault(Class::Stale)], None).word(), "FAIL");
        let other = settle(&[fault(Class::Stale), fault(Class::Hang)], Some(&ROW));
        assert_eq!(other, Verdict::Fail { classes: vec![Class::Stale, Class::Hang] });
    }

    #[test]
    fn patterns() {
        assert!(matches("*", "") && matches("a*c", "abc") && matches("a*c*", "abcd"));
        assert!(matches("x|a*", "abc") && !matches("x|b*", "abc"));
        assert!(matches("abc", "abc") && !matches("abc", "abcd") && !matches("a*c", "abd"));
    }
}
