//! Facts of the machine: what its kernel does with pages, found out by trying. Nothing races, so there is no control.
//!
//! A fact is seen in a word, which is held against what the kernels before and after a change are known to show. Where
//! nothing is known of a filesystem it is NOTRUN, and says what was seen all the same.

use super::case::Case;
use super::expect::matches;
use super::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::kernel::{Kernel, Version};
use crate::kit::seen::Seen;
use crate::kit::verdict::{Class, not_run};

mod alignment;
mod fork_lottery;
mod held_pages;
mod pins_taken;
mod scsi;
mod sockets;
mod splice_method;
mod write_edges;

pub use alignment::Alignment;
pub use fork_lottery::{Draws, Hold};

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    splice_method::CASE,
    pins_taken::CASE,
    held_pages::CASE,
    write_edges::CASE,
    alignment::CASE,
    fork_lottery::CASE,
];

/// What must be seen on some filesystems (a pattern of subjects) from a kernel on, as a pattern of words. The last row that
/// speaks of a filesystem under a kernel counts. Rows say what was seen, and what a named commit changed.
pub(super) type Row = (&'static str, Version, &'static str);

const V5_13: Version = Version(5, 13, 0);
const V6_1: Version = Version(6, 1, 0);
const V6_5: Version = Version(6, 5, 0);
const V6_7: Version = Version(6, 7, 0);
const V6_9: Version = Version(6, 9, 0);

/// A variant that sees one fact.
pub(super) fn fact(
    name: &'static str,
    observe: impl Fn(&mut Fixture<'_>) -> anyhow::Result<Seen> + Send + Sync + 'static,
    rows: &'static [Row],
) -> Variant {
    Variant::new(name).plays(move |fixture, _| {
        if !fixture.race() {
            return Ok(());
        }
        let seen = observe(fixture)?;
        let subject = fixture.mounted().target().subject();
        let wanted = wanted(rows, &subject, Kernel::running()?.version());
        let text = seen.to_string();
        let is_wanted = wanted.map(|wanted| matches(wanted, &seen.word));
        fixture.see(Seen { wanted: wanted.map(str::to_owned), ..seen });
        match (is_wanted, wanted) {
            (Some(false), Some(wanted)) => {
                fixture.fault(Class::Differs, format!("{text}; expected {wanted}"));
            }
            (None, _) => {
                let reason = format!("nothing is known of {subject} here to hold it against");
                return Err(not_run(format!("{reason}: {text}")));
            }
            _ => {}
        }
        Ok(())
    })
}

/// What rows say of a filesystem under a kernel.
fn wanted(rows: &[Row], subject: &str, version: Version) -> Option<&'static str> {
    let mut rows = rows.iter().rev();
    rows.find(|(on, since, _)| matches(on, subject) && version >= *since).map(|row| row.2)
}

/// For [`fact`]: [`Case::run`] of cases all of whose variants are played by themselves.
pub(super) fn by_itself(_: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    anyhow::bail!("{variant:?} has nothing to see")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::expect::EVER;

    #[test]
    fn the_youngest_row_that_is_not_too_young_counts() {
        const ROWS: &[Row] =
            &[("ext4|inflight", EVER, "no"), ("ext4", V6_5, "yes"), ("inflight", V6_9, "yes")];
        let of = |on, release| wanted(ROWS, on, Version::parse(release));
        assert_eq!((of("ext4", "6.4.9"), of("ext4", "6.5.0")), (Some("no"), Some("yes")));
        assert_eq!((of("inflight", "6.8.1"), of("inflight", "7.2.1")), (Some("no"), Some("yes")));
        assert_eq!(of("xfs", "7.2.1"), None);
    }
}
