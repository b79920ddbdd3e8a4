//! `list`: the cases, what each claims, and where it must fail.

use super::usage;
use crate::cases::expect::{Applies, EVER, Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::kit::kernel::Kernel;
use crate::run::plan;

/// Prints the cases of a group, or all; gives the exit code.
///
/// # Errors
/// The kernel does not say its version.
pub fn list(group: Option<&str>, variants: bool, json: bool) -> anyhow::Result<i32> {
    if let Some(group) = group
        && let Err(error) = plan::check_group(group)
    {
        return Ok(usage(&error));
    }
    let wanted = plan::cases().iter().filter(|case| group.is_none_or(|group| case.is_in(group)));
    let here = Kernel::running()?;
    let mut all = Vec::new();
    for case in wanted {
        let all_of = (case.variants)();
        let names: Vec<_> = all_of.iter().map(Variant::name).collect();
        let rows: Vec<_> = case.expected.iter().map(|row| describe(row, &all_of, &here)).collect();
        if json {
            all.push(serde_json::json!({
                "id": case.id, "name": case.name, "claim": case.claim, "groups": case.groups,
                "needs": format!("{:?}", case.reach).to_lowercase(),
                "variants": names, "must_fail": rows,
            }));
            continue;
        }
        println!(
            "{:<5} {} ({} variants; {})",
            case.id,
            case.name,
            names.len(),
            case.groups.join(" ")
        );
        println!("      {}", case.claim);
        rows.iter().for_each(|row| println!("      must fail: {row}"));
        if variants {
            names.iter().for_each(|name| println!("        {name}"));
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(0)
}

fn describe(row: &Expected, variants: &[Variant], here: &Kernel) -> String {
    let since = row.since.to_string();
    let since = if row.since == EVER { "the beginning" } else { &since };
    let until = row.until.map_or("now".to_owned(), |until| format!("before {until}"));
    let on = if row.on == "*" { "any target" } else { row.on };
    let of = |variant: &Variant| {
        // The run's options are not known here: those that the row asks for are counted in.
        row.applies(row.on, &variant.name(), row.option, here)
    };
    let now = if variants.iter().any(|variant| of(variant) == Applies::Must) {
        ", this kernel included"
    } else {
        ""
    };
    let option = if row.option.is_empty() { "" } else { &format!(" with -o {}", row.option) };
    let seen: Vec<_> = row.seen.iter().map(Seen::describe).collect();
    let fixed: String = row.fixed_in.iter().map(|fixed| format!(", not {fixed}")).collect();
    let must = match row.must {
        Must::All => String::new(),
        Must::Series(series) => {
            let series: Vec<_> = series.iter().map(|(a, b)| format!("{a}.{b}")).collect();
            format!(
                ", certain on {}",
                if series.is_empty() { "none".to_owned() } else { series.join(" ") }
            )
        }
    };
    format!(
        "{}{option} on {on}: {} from {since} until {until}{fixed}{must}{now} ({})",
        row.variant,
        seen.join(" or "),
        row.reference
    )
}
