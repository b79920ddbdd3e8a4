//! A case: one race, in one file of [`crate::cases`].

use crate::cases::expect::Expected;
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::target::Target;

/// What a case needs of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A gate in front of the filesystem under test itself: Inflight.
    Fuse,
    /// A gate, also below the block device: Inflight, and ext4, xfs, btrfs on a loop device.
    Gated,
    /// Any directory.
    Any,
}

/// One race.
#[derive(Clone, Copy)]
pub struct Case {
    /// Short name, as in reports: `FK1`.
    pub id: &'static str,
    /// What races with what.
    pub name: &'static str,
    /// What must hold, in one sentence.
    pub claim: &'static str,
    /// Groups that it belongs to, besides `all`.
    pub groups: &'static [&'static str],
    /// Which targets it makes sense on.
    pub reach: Reach,
    /// All its variants; names are unique within the case.
    pub variants: fn() -> Vec<Variant>,
    /// Runs one, with the race or (the control) without it.
    pub run: fn(&mut Fixture<'_>, &Variant) -> anyhow::Result<()>,
    /// Where it must fail.
    pub expected: &'static [Expected],
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.name)
    }
}

impl Case {
    /// Why it cannot run on a target, if it cannot.
    pub fn refuses(&self, target: &Target) -> Option<String> {
        let name = target.name();
        match self.reach {
            Reach::Fuse if !target.is_fuse() => {
                Some(format!("needs the gate in front of the filesystem itself, {name} has none"))
            }
            Reach::Gated if !target.is_gated() => Some(format!("needs a gate, {name} has none")),
            _ => None,
        }
    }

    /// Whether it belongs to a group. `all` is every case that is neither about the harness itself nor a stress run nor
    /// the matrix nor facts of the machine.
    pub fn is_in(&self, group: &str) -> bool {
        let extra = ["meta", "stress", "matrix", "facts"];
        let is_extra = extra.iter().any(|extra| self.groups.contains(extra));
        (group == "all" && !is_extra) || self.groups.contains(&group)
    }
}
