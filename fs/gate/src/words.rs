//! Rules in the words of the command line, for whoever looks at what is in force.

use crate::rule::MILLION;
use crate::{Action, Phase, Rule, errno};

/// What a rule does: the command of `inflight fault`, or `park`.
pub(crate) fn fault(action: Action) -> String {
    match action {
        Action::Park => "park".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Delay(ms) => format!("delay {ms}ms"),
        Action::Fail(number) => format!("fail {}", errno::name(number)),
        Action::Short(bytes) => format!("short {bytes}"),
        Action::Torn(bytes) => format!("torn {bytes}"),
        Action::Corrupt(bits) => format!("corrupt {bits}"),
        Action::Bandwidth(rate) => format!("bandwidth {rate}"),
    }
}

/// What a rule matches: its options.
pub(crate) fn which(rule: &Rule) -> String {
    let mut words = Vec::new();
    let mut add = |flag: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{flag} {value}")));
    };
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    add("op", rule.op.clone());
    add("path", rule.glob.clone().or_else(|| rule.path.clone()));
    add("ino", number(rule.ino));
    add("offset", number(rule.offset));
    add("len", number(rule.len));
    add("nth", number(rule.nth));
    add("every", number(rule.every));
    let share = |parts: u32| format!("{}", f64::from(parts) / f64::from(MILLION));
    add("probability", rule.millionths.map(share));
    add("seed", number(rule.seed));
    add("count", number(rule.count));
    add("pid", number(rule.pid.map(u64::from)));
    add("uid", number(rule.uid.map(u64::from)));
    add("comm", rule.comm.clone());
    add("page", number(rule.page));
    add("phase", (rule.phase != Phase::Received).then(|| rule.phase.to_string()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_listed_in_the_words_that_make_it() {
        let op = Some("write".to_owned());
        let (glob, count, page) = (Some("*-wal".to_owned()), Some(1), Some(3));
        let rule = Rule { op, glob, count, page, ..Rule::at(Phase::Copying) };
        assert_eq!(which(&rule), "--op write --path *-wal --count 1 --page 3 --phase copying");
        assert_eq!(fault(Action::Bandwidth(1 << 20)), "bandwidth 1048576");
        assert_eq!(fault(Action::Fail(28)), "fail ENOSPC");
        assert_eq!(fault(Rule::at(Phase::Received).action), "park");
    }
}
