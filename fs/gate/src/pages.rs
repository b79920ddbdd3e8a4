//! Manual pages and completion scripts of a program, from its command line.

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
pub use clap_complete::Shell;

/// Writes the manual page of `command` to `out`, or, with `dir`, one page of it and one of each of its commands to files there.
///
/// # Errors
/// Those of writing.
pub fn manual(command: Command, out: &mut impl Write, dir: Option<&Path>) -> io::Result<()> {
    match dir {
        Some(dir) => clap_mangen::generate_to(command, dir),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            out.write_all(&page)
        }
    }
}

/// Writes the completion script of `command` for a shell.
///
/// # Errors
/// Those of writing.
pub fn completions(mut command: Command, shell: Shell, out: &mut impl Write) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    out.write_all(&script)
}
