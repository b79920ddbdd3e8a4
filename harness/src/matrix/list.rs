//! `inflight-race list --matrix`: what is played, and what is not and why.

use std::collections::BTreeMap;

use super::product;
use super::rule::RULES;

/// Prints the combinations that are played, then how many each rule takes out.
///
/// # Errors
/// It cannot be written as JSON.
pub fn print(json: bool) -> anyhow::Result<()> {
    let (mut played, mut excluded) = (Vec::new(), BTreeMap::<&str, usize>::new());
    for (cell, rule) in product() {
        match rule {
            None => played.push(cell.name()),
            Some(rule) => *excluded.entry(rule.reason).or_default() += 1,
        }
    }
    let reasons = RULES.iter().map(|rule| (rule.reason, excluded.get(rule.reason).unwrap_or(&0)));
    if json {
        let reasons: Vec<_> = reasons
            .map(|(reason, count)| serde_json::json!({ "reason": reason, "count": count }))
            .collect();
        let all = serde_json::json!({ "played": played, "excluded": reasons });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for name in &played {
        println!("{name}");
    }
    let left_out: usize = excluded.values().sum();
    println!("\n{} combinations are played, {left_out} are not:", played.len());
    for (reason, count) in reasons {
        println!("{count:>7}  {reason}");
    }
    Ok(())
}
