//! Facts that are, are not, and may be as they are known to be: shows that a fact is held against what is known.

use crate::cases::case::{Case, Reach};
use crate::cases::expect::EVER;
use crate::cases::facts::{by_itself, fact};
use crate::kit::seen::Seen;

pub const CASE: Case = Case {
    id: "META8",
    name: "meta-fact",
    claim: "a fact that differs from what is known of it is DIFFERS, and one of which nothing is known is NOTRUN",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || {
        let see = || Ok(Seen::new("round", "as told"));
        vec![
            fact("known", move |_| see(), &[("*", EVER, "round|flat")]),
            fact("differs", move |_| see(), &[("*", EVER, "flat")]),
            fact("unknown", move |_| see(), &[("no such filesystem", EVER, "round")]),
        ]
    },
    run: by_itself,
    expected: &[],
};
