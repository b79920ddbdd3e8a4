//! `inflight-race`: see the library.

use clap::Parser;
use inflight_race::cli;
use inflight_race::run::{INTERRUPTED, Interrupted};
use inflight_race::vm::init;

fn main() {
    if init::is_wanted() {
        init::init();
    }
    let code = cli::run(cli::Arguments::parse()).unwrap_or_else(|error| {
        inflight_race::kit::output::complain(format_args!("inflight-race: {error:#}"));
        if error.is::<Interrupted>() { INTERRUPTED } else { 3 }
    });
    std::process::exit(code);
}
