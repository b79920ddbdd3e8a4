//! The line that plays a variant again, for a shell.

use std::fmt::Write;

use super::{Item, Order, STRESS};

/// Of what was ordered, all that decides what is played: server, machine, target, options, seed and time.
pub fn line(order: &Order, item: &Item) -> String {
    let mut line = String::new();
    // Which server was raced is a part of it.
    let server = order.server.as_ref().map(|server| server.display().to_string());
    let server = server.or_else(|| std::env::var("INFLIGHT").ok());
    if let Some(server) = server.filter(|_| order.target.is_gated()) {
        write!(line, "INFLIGHT={} ", word(&server)).expect("a string takes what is written");
    }
    let mut words = vec!["inflight-race".to_owned()];
    if let Some(guest) = &order.vm {
        words.push("vm".to_owned());
        words.extend(guest.words());
        words.push("--".to_owned());
    }
    words.extend(["run".to_owned(), format!("{}:{}", item.case, item.variant)]);
    words.extend(order.target.choice());
    if !order.options.is_empty() {
        words.extend(["-o".to_owned(), order.options.clone()]);
    }
    words.extend(["--seed".to_owned(), order.seed.to_string()]);
    if order.time != STRESS {
        words.extend(["--time".to_owned(), format!("{}ms", order.time.as_millis())]);
    }
    words.extend(order.raw.then(|| "--raw".to_owned()));
    let words: Vec<_> = words.iter().map(|text| word(text)).collect();
    line + &words.join(" ")
}

/// One word as a shell takes it. What came from a command line or the environment has no NUL.
fn word(text: &str) -> std::borrow::Cow<'_, str> {
    shlex::try_quote(text).expect("no NUL in a word")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Served, Target};

    #[test]
    fn a_shell_takes_the_line_apart_as_it_was_meant() {
        let command = "/opt/my server -o 'a b',it\\'s {}";
        let target = Target::Server(Served::new(command, false).unwrap());
        let order = Order { options: "fsname=a b".to_owned(), seed: 7, ..Order::empty(target) };
        let item = Item { number: 0, case: "TR2".to_owned(), variant: "sync/*".to_owned() };
        let line = line(&order, &item);
        let words: Vec<_> = shlex::split(&line).unwrap();
        let first = words.iter().position(|word| word == "inflight-race").unwrap();
        let wanted = ["run", "TR2:sync/*", "--server", command, "-o", "fsname=a b", "--seed", "7"];
        assert_eq!(words[first + 1..], wanted);
    }
}
