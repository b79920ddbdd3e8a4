//! The plan of a run: which variants of which cases, in which order. Made before anything is started.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cases::case::Case;
use crate::cases::expect::matches;
use crate::cases::variant::Variant;
use crate::kit::nearest::nearest;
use crate::{cases as subjects, matrix, stress};

/// Every case, in the order in which they are run.
pub fn cases() -> &'static [Case] {
    static ALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let extra = [stress::case::CASE, matrix::case::CASE];
        subjects::SUBJECTS.iter().copied().flatten().copied().chain(extra).collect()
    });
    &ALL
}

/// One variant to play.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its number in the whole plan, before sharding: part of the names of its files.
    pub number: u64,
    /// The case's short name.
    pub case: String,
    /// The variant's name.
    pub variant: String,
}

impl Item {
    /// The case and the variant.
    ///
    /// # Errors
    /// They are not known to this program.
    pub fn find(&self) -> anyhow::Result<(&'static Case, Variant)> {
        let case = cases().iter().find(|case| case.id == self.case);
        let case = case.with_context(|| format!("unknown case '{}'", self.case))?;
        let variant = variants().get(case.id).and_then(|names| names.get(&self.variant)).cloned();
        let variant =
            variant.with_context(|| format!("{} has no '{}'", self.case, self.variant))?;
        Ok((case, variant))
    }
}

/// All variants by case and name: the matrix has thousands.
fn variants() -> &'static BTreeMap<&'static str, HashMap<String, Variant>> {
    static ALL: LazyLock<BTreeMap<&'static str, HashMap<String, Variant>>> = LazyLock::new(|| {
        let named = |variant: Variant| (variant.name(), variant);
        let of = |case: &Case| (case.id, (case.variants)().into_iter().map(named).collect());
        cases().iter().map(of).collect()
    });
    &ALL
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Groups; none means `all`, unless cases are named.
    pub groups: Vec<String>,
    /// Cases by short or long name, each with an optional `:PATTERN` of variants.
    pub cases: Vec<String>,
    /// Cases to leave out, likewise.
    pub exclude: Vec<String>,
    /// Shard I of N, from 1.
    pub shard: Option<(u64, u64)>,
}

/// Makes the plan.
///
/// # Errors
/// Unknown case, variant or group, with the nearest names.
pub fn plan(wanted: &Wanted) -> anyhow::Result<Vec<Item>> {
    let include: Vec<_> =
        wanted.cases.iter().map(|text| Choice::parse(text)).collect::<Result<_, _>>()?;
    let exclude: Vec<_> =
        wanted.exclude.iter().map(|text| Choice::parse(text)).collect::<Result<_, _>>()?;
    for group in &wanted.groups {
        check_group(group)?;
    }
    let all = wanted.groups.is_empty() && include.is_empty();
    let mut items = Vec::new();
    for case in cases() {
        let grouped =
            wanted.groups.iter().any(|group| case.is_in(group)) || all && case.is_in("all");
        for variant in (case.variants)() {
            let name = variant.name();
            let chosen = grouped || include.iter().any(|choice| choice.takes(case, &name));
            if chosen && !exclude.iter().any(|choice| choice.takes(case, &name)) {
                let number = items.len() as u64;
                items.push(Item { number, case: case.id.to_owned(), variant: name });
            }
        }
    }
    for (choice, text) in include.iter().zip(&wanted.cases) {
        let found = items.iter().any(|item| item.case == choice.case.id);
        ensure!(
            found || !exclude.is_empty(),
            "no variant matches '{text}'; `inflight-race list --variants` shows all"
        );
    }
    if let Some((this, of)) = wanted.shard {
        ensure!(1 <= this && this <= of, "shard {this}/{of}: must be 1/{of} to {of}/{of}");
        items.retain(|item| item.number % of == this - 1);
    }
    Ok(items)
}

/// Ways to open a race window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Requests are parked, or the kernel is watched while it does the one thing.
    Gate,
    /// Many threads at once; the same as the group `stress`.
    Stress,
}

impl Mode {
    fn is_of(self, case: &Case) -> bool {
        case.is_in("stress") == (self == Mode::Stress)
    }

    fn name(self) -> &'static str {
        match self {
            Mode::Gate => "gate",
            Mode::Stress => "stress",
        }
    }
}

/// Whether everything that was chosen is played in a mode.
///
/// # Errors
/// Something is not; with the cases, and those that the mode has.
pub fn check_mode(items: &[Item], mode: Mode) -> anyhow::Result<()> {
    let others = |case: &&Case| !mode.is_of(case) && items.iter().any(|item| item.case == case.id);
    let others: Vec<_> = cases().iter().filter(others).map(|case| case.id).collect();
    let (few, more) = match others.len() {
        0 => return Ok(()),
        1..=5 => (others.join(", "), ""),
        _ => (others[..5].join(", "), " and others"),
    };
    let has = match mode {
        Mode::Gate => "all cases but those of the group stress".to_owned(),
        Mode::Stress => {
            let stress = cases().iter().filter(|case| mode.is_of(case));
            stress.map(|case| case.id).collect::<Vec<_>>().join(", ")
        }
    };
    bail!(
        "--mode {}: not of {few}{more}; it has {has} (without --mode each case runs in its own)",
        mode.name()
    )
}

/// Every group, sorted.
pub fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = cases().iter().flat_map(|case| case.groups).copied().collect();
    groups.push("all");
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Whether a group exists.
///
/// # Errors
/// It does not; with the nearest names.
pub fn check_group(group: &str) -> anyhow::Result<()> {
    let known = groups();
    let near = nearest(group, known.iter().copied());
    ensure!(known.contains(&group), "unknown group '{group}'; nearest: {near}");
    Ok(())
}

struct Choice {
    case: &'static Case,
    variants: String,
}

impl Choice {
    fn parse(text: &str) -> anyhow::Result<Choice> {
        let (name, variants) = text.split_once(':').unwrap_or((text, "*"));
        let known =
            cases().iter().find(|case| case.id.eq_ignore_ascii_case(name) || case.name == name);
        let Some(case) = known else {
            let names = cases().iter().flat_map(|case| [case.id, case.name]);
            bail!("unknown case '{name}'; nearest: {}", nearest(name, names));
        };
        Ok(Choice { case, variants: variants.to_owned() })
    }

    fn takes(&self, case: &Case, variant: &str) -> bool {
        self.case.id == case.id && matches(&self.variants, variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(cases: &[&str]) -> Wanted {
        Wanted { cases: cases.iter().map(|&text| text.to_owned()).collect(), ..Wanted::default() }
    }

    #[test]
    fn names_are_unique_and_every_item_is_found_again() {
        let items =
            plan(&Wanted { groups: vec!["all".into(), "meta".into()], ..Wanted::default() });
        let items = items.unwrap();
        let mut names: Vec<_> = items.iter().map(|item| (&item.case, &item.variant)).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for item in &items {
            item.find().unwrap();
        }
    }

    #[test]
    fn every_case_has_an_id_of_its_own() {
        let mut ids: Vec<_> = cases().iter().map(|case| case.id).collect();
        ids.sort_unstable();
        let twice = ids.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None);
    }

    #[test]
    fn the_meta_cases_are_run_only_when_asked_for() {
        let items = plan(&Wanted::default()).unwrap();
        assert!(!items.is_empty() && items.iter().all(|item| !item.case.starts_with("META")));
    }

    #[test]
    fn a_mode_that_a_case_does_not_have_is_said() {
        let mixed = plan(&wanted(&["FK1", "ST1"])).unwrap();
        let text = |items: &[Item], mode| check_mode(items, mode).unwrap_err().to_string();
        assert!(text(&mixed, Mode::Stress).starts_with("--mode stress: not of FK1; it has ST1"));
        assert!(text(&mixed, Mode::Gate).starts_with("--mode gate: not of ST1; it has all cases"));
        let all = plan(&Wanted::default()).unwrap();
        assert!(check_mode(&all, Mode::Gate).is_ok());
        assert!(text(&all, Mode::Stress).contains(" and others; "));
    }

    #[test]
    fn shards_share_the_plan_out() {
        let whole = plan(&Wanted::default()).unwrap();
        let part = |this| plan(&Wanted { shard: Some((this, 3)), ..Wanted::default() }).unwrap();
        let mut parts: Vec<_> = (1..=3).flat_map(part).collect();
        parts.sort_by_key(|item| item.number);
        assert_eq!(parts, whole);
        assert!(plan(&Wanted { shard: Some((4, 3)), ..Wanted::default() }).is_err());
    }

    #[test]
    fn unknown_names_get_the_nearest() {
        let text = |cases: &[&str]| plan(&wanted(cases)).unwrap_err().to_string();
        assert!(text(&["FK9"]).contains("unknown case 'FK9'; nearest: FK"), "{}", text(&["FK9"]));
        assert!(text(&["FK1:nothing"]).contains("no variant matches 'FK1:nothing'"));
        let group = Wanted { groups: vec!["frok".into()], ..Wanted::default() };
        assert!(plan(&group).unwrap_err().to_string().contains("nearest: fork"));
    }
}
