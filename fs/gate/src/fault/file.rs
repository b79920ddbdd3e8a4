//! Rules in a file: TOML in the words of the command line, or JSON lines in those of the gate's protocol.
//!
//! ```toml
//! [[rule]]                # every tenth read of the database
//! fail = "EIO"            # or short, torn, corrupt, bandwidth, delay, drop = true
//! op = "read"
//! path = "*.db"
//! every = 10
//! ```

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::{Which, probability};
use crate::cli::duration;
use crate::{Action, Phase, Rule, TTL_DEFAULT_MS, TTL_UNBOUNDED_MS, errno, size};

/// The rules of a text, each one checked.
///
/// # Errors
/// The first that is wrong, with where it is.
pub(super) fn rules(text: &str) -> anyhow::Result<Vec<Rule>> {
    let is_empty = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let first = text.lines().find(|line| !is_empty(line));
    if !first.is_some_and(|line| line.trim_start().starts_with('{')) {
        return of_toml(text);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !is_empty(line));
    lines.map(|(at, line)| of_json(line).with_context(|| format!("line {}", at + 1))).collect()
}

/// A rule as a line of JSON has it: for as long as wanted, and with a seed, when it says nothing else.
fn of_json(line: &str) -> anyhow::Result<Rule> {
    let says: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line)?;
    let mut rule: Rule = serde_json::from_str(line)?;
    rule.detached = true;
    if !says.contains_key("ttl_ms") {
        rule.ttl_ms = if rule.action.holds() { 6 * TTL_DEFAULT_MS } else { TTL_UNBOUNDED_MS };
    }
    if rule.millionths.is_some() && rule.seed.is_none() {
        rule.seed = Some(rand::random());
    }
    rule.clone().arm()?;
    Ok(rule)
}

fn of_toml(text: &str) -> anyhow::Result<Vec<Rule>> {
    let file: File = toml::from_str(text)?;
    ensure!(!file.rule.is_empty(), "no rules in it: each begins with [[rule]]");
    let numbered = file.rule.into_iter().enumerate();
    numbered
        .map(|(at, written)| written.rule().with_context(|| format!("rule {}", at + 1)))
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Written>,
}

/// A number, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Whole(u64),
    Part(f64),
    Text(String),
}

impl Amount {
    fn text(&self) -> String {
        match self {
            Amount::Whole(number) => number.to_string(),
            Amount::Part(number) => number.to_string(),
            Amount::Text(text) => text.clone(),
        }
    }

    fn size(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.text();
        size::parse(&text).map_err(|error| anyhow::anyhow!("{name} = '{text}': {error}"))
    }
}

/// One kind of request, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ops {
    One(String),
    Many(Vec<String>),
}

/// A rule as TOML has it: one fault, and which requests.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    fail: Option<Amount>,
    short: Option<Amount>,
    torn: Option<Amount>,
    corrupt: Option<u32>,
    bandwidth: Option<Amount>,
    delay: Option<Amount>,
    drop: Option<bool>,
    op: Option<Ops>,
    path: Option<String>,
    offset: Option<Amount>,
    len: Option<Amount>,
    nth: Option<u64>,
    every: Option<u64>,
    probability: Option<Amount>,
    seed: Option<u64>,
    count: Option<u64>,
    pid: Option<u32>,
    uid: Option<u32>,
    comm: Option<String>,
    phase: Option<Phase>,
    #[serde(rename = "for")]
    life: Option<Amount>,
}

impl Written {
    fn rule(self) -> anyhow::Result<Rule> {
        let action = self.action()?;
        let size =
            |amount: &Option<Amount>, name| amount.as_ref().map(|it| it.size(name)).transpose();
        let chance = |amount: &Amount| {
            let text = amount.text();
            probability(&text).map_err(|error| anyhow::anyhow!("probability = '{text}': {error}"))
        };
        let which = Which {
            offset: size(&self.offset, "offset")?,
            len: size(&self.len, "len")?,
            probability: self.probability.as_ref().map(chance).transpose()?,
            life: self.life.map(|life| duration(&life.text())).transpose().context("for")?,
            op: self.op.map(|ops| match ops {
                Ops::One(op) => op,
                Ops::Many(ops) => ops.join(","),
            }),
            path: self.path,
            nth: self.nth,
            every: self.every,
            seed: self.seed,
            count: self.count,
            pid: self.pid,
            uid: self.uid,
            comm: self.comm,
            phase: self.phase.unwrap_or(Phase::Received),
        };
        let rule = which.rule(action);
        rule.clone().arm()?;
        Ok(rule)
    }

    /// The one fault that it names.
    fn action(&self) -> anyhow::Result<Action> {
        let bytes = |amount: &Amount, name| -> anyhow::Result<u32> {
            Ok(u32::try_from(amount.size(name)?).unwrap_or(u32::MAX))
        };
        let mut found = Vec::new();
        if let Some(name) = &self.fail {
            found.push(Action::Fail(errno::parse(&name.text()).map_err(anyhow::Error::msg)?));
        }
        if let Some(amount) = &self.short {
            found.push(Action::Short(bytes(amount, "short")?));
        }
        if let Some(amount) = &self.torn {
            found.push(Action::Torn(bytes(amount, "torn")?));
        }
        found.extend(self.corrupt.map(Action::Corrupt));
        if let Some(amount) = &self.bandwidth {
            found.push(Action::Bandwidth(amount.size("bandwidth")?));
        }
        if let Some(amount) = &self.delay {
            let time = duration(&amount.text()).context("delay")?;
            found.push(Action::Delay(time.as_millis() as u64));
        }
        found.extend(self.drop.filter(|drops| *drops).map(|_| Action::Drop));
        match found[..] {
            [action] => Ok(action),
            [] => bail!(
                "names no fault: fail, short, torn, corrupt, bandwidth, delay, or drop = true"
            ),
            _ => bail!("names {} faults; a rule has one", found.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_says_what_the_command_line_says() {
        let text = r#"
            # a worn disk
            [[rule]]
            fail = "EIO"
            op = ["read", "write"]
            path = "*.db"
            probability = "1%"
            seed = 7

            [[rule]]
            torn = "4K"
            offset = "1M"
            len = 4096
            for = "5m"
            phase = "received"

            [[rule]]
            drop = true
            comm = "tar"
        "#;
        let rules = rules(text).unwrap();
        assert_eq!(rules.len(), 3);
        let [worn, torn, lost] = &rules[..] else { unreachable!() };
        assert_eq!((worn.action, worn.op.as_deref()), (Action::Fail(5), Some("read,write")));
        assert_eq!(
            (worn.glob.as_deref(), worn.millionths, worn.seed),
            (Some("*.db"), Some(10_000), Some(7))
        );
        assert_eq!((worn.ttl_ms, worn.detached), (TTL_UNBOUNDED_MS, true));
        assert_eq!(
            (torn.action, torn.offset, torn.len),
            (Action::Torn(4096), Some(1 << 20), Some(4096))
        );
        assert_eq!(torn.ttl_ms, 300_000);
        assert_eq!(
            (lost.action, lost.ttl_ms),
            (Action::Drop, 6 * TTL_DEFAULT_MS),
            "it holds, so it ends"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_where_it_is() {
        let said = |text: &str| format!("{:#}", rules(text).unwrap_err());
        assert!(said("").contains("[[rule]]"));
        assert!(said("[[rule]]\nop = \"read\"").contains("rule 1: names no fault: fail, short"));
        assert!(said("[[rule]]\nfail = 5\ndrop = true").contains("names 2 faults"));
        assert!(said("[[rule]]\nfail = \"EWRONG\"").contains("unknown errno 'EWRONG'; nearest:"));
        assert!(
            said("[[rule]]\nfail = 5\n[[rule]]\nshort = \"4Q\"")
                .contains("rule 2: short = '4Q': unknown suffix")
        );
        assert!(said("[[rule]]\nfail = 5\npaht = \"x\"").contains("unknown field `paht`"));
        assert!(said("[[rule]]\nfail = 5\nprobability = 7").contains("probability = '7'"));
        let json = "{\"op\":\"read\",\"action\":{\"fail\":5}}\n\n# next\n{\"op\":\"reed\"}";
        assert!(
            said(json).starts_with("line 4: ") && said(json).contains("nearest: read"),
            "{}",
            said(json)
        );
    }

    #[test]
    fn json_lines_go_on_to_work() {
        let rules = rules("# x\n{\"op\":\"read\",\"action\":{\"fail\":\"EIO\"}}\n").unwrap();
        assert_eq!((rules[0].action, rules[0].ttl_ms), (Action::Fail(5), TTL_UNBOUNDED_MS));
        assert!(of_json(r#"{"action":"drop"}"#).unwrap().ttl_ms <= crate::TTL_MAX_MS);
        assert!(of_json(r#"{"wrong":1}"#).is_err());
    }
}
