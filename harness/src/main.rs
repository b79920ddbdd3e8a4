//! `inflight-race`: see the library.

use clap::Parser;
use inflight_race::cli;

fn main() {
    let code = cli::run(cli::Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("inflight-race: {error:#}");
        3
    });
    std::process::exit(code);
}
