//! The findings as text.

use std::path::Path;

use super::{Findings, Tried, probe};
use crate::cases::facts::{Alignment, Draws, Hold};

/// Probes a directory and prints what was found.
///
/// # Errors
/// As [`probe`].
pub fn print(folder: &Path, json: bool) -> anyhow::Result<()> {
    let found = probe(folder)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    println!("kernel            {} {}", found.kernel.release, found.kernel.build);
    println!("filesystem        {} ({})", found.filesystem, found.folder.display());
    print_direct(&found);
    print_splice(&found);
    println!("registered buffers");
    for (kind, seen) in &found.registered {
        println!("  {kind:<31} {seen}");
    }
    let zero = if found.zero_page.word == "pinned" { "counted as a pin" } else { "not counted" };
    let zero = if found.zero_page.word == "not known" { "not known" } else { zero };
    println!("zero page         {zero} ({}, process_vm_readv)", found.zero_page.evidence);
    println!("known bugs");
    found.bugs.iter().for_each(print_bugs);
    Ok(())
}

fn print_direct(found: &Findings) {
    match &found.alignment {
        Some(alignment) => println!("O_DIRECT          yes; {}", aligned(alignment)),
        None => println!("O_DIRECT          refused"),
    }
    println!("pins of a read    {}", found.pinned);
    if let Some(draws) = &found.held {
        println!("pages in a read   {}", held(draws));
    }
    let dontfork = match (found.needs_dontfork, &found.held) {
        (Some(false), _) => "not needed: fork is safe beside direct I/O",
        (Some(true), _) => "needed for memory under direct I/O: fork and a store lose what is read",
        (None, None) => "no question without O_DIRECT",
        (None, Some(_)) => "not known: use it",
    };
    println!("MADV_DONTFORK     {dontfork}");
    if let Some(command) = &found.certain {
        println!("                  for certain, with requests parked: {command}");
    }
}

fn print_splice(found: &Findings) {
    println!("ITER_PIPE         {}", found.iter_pipe);
    println!("splice");
    for (how, seen) in &found.splice {
        println!("  {how:<31} {seen}");
    }
}

fn aligned(alignment: &Alignment) -> String {
    let number = |size: Option<usize>| size.map_or("?".to_owned(), |size| size.to_string());
    let (memory, file) = (number(alignment.memory), number(alignment.file));
    let told = match alignment.told {
        Some((memory, file)) => format!("statx says {memory} and {file}"),
        None => "statx does not say".to_owned(),
    };
    format!("memory from {memory}, file from {file} bytes by trying; {told}")
}

fn held(draws: &Draws) -> String {
    let word = match draws.hold {
        Some(Hold::Pinned) => "pinned",
        Some(Hold::Referenced) => "referenced, not pinned",
        Some(Hold::Copied) => "not held: the kernel copies",
        Some(Hold::Unknown) => "not known: page frames are not readable (no CAP_SYS_ADMIN)",
        None => "not known: no fork hit a read in flight",
    };
    let Draws { hits, tries, seconds, .. } = draws;
    format!("{word} (only sampled: {hits} of {tries} forks hit one in flight, in {seconds:.1} s)")
}

fn print_bugs(tried: &Tried) {
    let place = &tried.place;
    match &tried.not_tried {
        Some(reason) => println!("  {place}: not tried: {reason}"),
        None if tried.bugs.is_empty() => println!("  {place}: none seen"),
        None => println!("  {place}"),
    }
    for bug in &tried.bugs {
        let (harmed, of) = bug.variants;
        println!("    {:<5} {:<20} {harmed} of {of}: {}", bug.case, bug.name, bug.harm);
    }
}
