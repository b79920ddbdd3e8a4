//! The table of mechanisms, which is data: `table.toml` beside this file. Ids are the number of the seed document and a number
//! in it.

use std::sync::LazyLock;

use serde::Deserialize;

use super::Mechanism;

/// A seed document and its mechanisms.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// What it is about.
    pub title: String,
    /// What it names.
    pub rows: Vec<Mechanism>,
}

/// Every seed, from the first.
pub static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Table {
        seed: Vec<Seed>,
    }
    let table: Table = toml::from_str(include_str!("table.toml")).expect("the table is our own");
    table.seed
});

/// Every mechanism, seed by seed.
pub fn all() -> impl Iterator<Item = &'static Mechanism> {
    SEEDS.iter().flat_map(|seed| &seed.rows)
}
