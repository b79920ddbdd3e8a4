//! Strips as rows of cells, one a block of 512 bytes, above a table that says the same in words.

use std::fmt::Write;

use super::escape;
use crate::kit::stamp::{BLOCK, Legal, describe};
use crate::kit::strip::{Part, Seen, Strip};

/// Cells of one strip; a longer part is cut, and says so.
const CELLS: usize = 512;

/// Draws them.
pub fn draw(out: &mut String, strips: &[Strip]) {
    for strip in strips {
        let from = strip.parts.first().map_or(0, |part| part.from);
        let to = strip.parts.last().map_or(0, |part| part.to);
        let _ = write!(
            out,
            "<figure class=\"strip\"><figcaption><b>{}</b> bytes {from} to {to}, a cell is a block of \
             512</figcaption>",
            escape(&strip.what)
        );
        legal(out, &strip.legal);
        cells(out, strip);
        table(out, strip);
        out.push_str("</figure>\n");
    }
}

fn legal(out: &mut String, legal: &[Legal]) {
    out.push_str("<p class=\"key\"><span>legal</span>");
    for legal in legal {
        let (class, glyph) = match *legal {
            Legal::Generation(_, generation) => (kind(generation), generation.to_string()),
            Legal::Hole(_) | Legal::Zero => ("zero", "0".to_owned()),
            Legal::Poison => ("poison", "P".to_owned()),
        };
        let text = escape(&describe(*legal));
        let _ = write!(out, "<i class=\"{class}\">{glyph}</i> {text} ");
    }
    out.push_str("</p>");
}

fn cells(out: &mut String, strip: &Strip) {
    let _ = write!(
        out,
        "<div class=\"cells\" role=\"img\" aria-label=\"{} blocks seen; the table below says what\">\
         <span>seen</span><div>",
        strip.parts.iter().map(blocks).sum::<usize>()
    );
    let mut left = CELLS;
    for (number, part) in strip.parts.iter().enumerate() {
        let (class, glyph) = look(part, &strip.legal);
        let bad = if part.bad > 0 { " bad" } else { "" };
        let count = blocks(part);
        for block in 0..count.min(left) {
            let at = if block == 0 { part.from } else { (part.from / 512 + block as u64) * 512 };
            let _ = write!(
                out,
                "<i class=\"{class}{bad}\" data-part=\"{number}\" title=\"byte {at}: {}\">{glyph}</i>",
                escape(&words(part, &strip.legal))
            );
        }
        if count > left {
            let _ = write!(out, "<em>and {} blocks more</em>", count - left);
            break;
        }
        left -= count;
    }
    out.push_str("</div></div>");
}

fn table(out: &mut String, strip: &Strip) {
    out.push_str(
        "<table><thead><tr><th>bytes</th><th>blocks</th><th>seen</th><th>illegal</th></tr></thead><tbody>",
    );
    for (number, part) in strip.parts.iter().enumerate() {
        let bad = if part.bad > 0 { " class=\"bad\"" } else { "" };
        let illegal = match part.bad {
            0 => "&ndash;".to_owned(),
            bad => format!("{bad} of {} bytes", part.to - part.from),
        };
        let _ = write!(
            out,
            "<tr{bad} data-part=\"{number}\"><td>{} to {}</td><td>{}</td><td>{}</td><td>{illegal}</td></tr>",
            part.from,
            part.to,
            blocks(part),
            escape(&words(part, &strip.legal))
        );
    }
    out.push_str("</tbody></table>");
}

/// How many blocks a part touches.
fn blocks(part: &Part) -> usize {
    (part.to.div_ceil(BLOCK as u64) - part.from / BLOCK as u64) as usize
}

/// Colours go by generation: the first two are told apart, what comes later is new.
fn kind(generation: u32) -> &'static str {
    if generation <= 1 { "old" } else { "new" }
}

/// Whether a file's stamps are legal in some generation; where none are, nothing is another file's.
fn is_own(file: u64, legal: &[Legal]) -> bool {
    let files = legal.iter().filter_map(|legal| match legal {
        Legal::Generation(file, _) | Legal::Hole(file) => Some(*file),
        _ => None,
    });
    let files: Vec<u64> = files.collect();
    files.is_empty() || files.contains(&file)
}

/// Class and letter of a cell.
fn look(part: &Part, legal: &[Legal]) -> (&'static str, String) {
    match &part.seen {
        Seen::Stamp { file, .. } if !is_own(*file, legal) => ("foreign", "F".to_owned()),
        Seen::Stamp { moved, .. } if *moved != 0 => ("foreign", "M".to_owned()),
        Seen::Stamp { generation, .. } => (kind(*generation), generation.to_string()),
        Seen::Zero => ("zero", "0".to_owned()),
        Seen::Poison => ("poison", "P".to_owned()),
        Seen::Mixed => ("mixed", "±".to_owned()),
        Seen::Unknown { .. } => ("foreign", "?".to_owned()),
    }
}

fn words(part: &Part, legal: &[Legal]) -> String {
    match &part.seen {
        Seen::Stamp { file, generation, moved } => {
            let mut text = format!("generation {generation} of file {file}");
            if !is_own(*file, legal) {
                text.push_str(", another file");
            }
            if *moved != 0 {
                let _ = write!(text, ", from {} blocks {}", moved.abs(), direction(*moved));
            }
            text
        }
        Seen::Zero => "zeroes".to_owned(),
        Seen::Poison => "poison: nothing was read into it".to_owned(),
        Seen::Mixed => "several of the legal contents".to_owned(),
        Seen::Unknown { head } => format!("neither stamp, zeroes nor poison: {head}"),
    }
}

fn direction(moved: i64) -> &'static str {
    if moved > 0 { "further on" } else { "before" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::stamp::{POISON, content};

    #[test]
    fn every_block_has_a_cell_and_every_part_a_row() {
        let mut data = content(7, 2, 0, 4096);
        data[512..1024].copy_from_slice(&content(7, 1, 512, 512));
        data[1024..1536].copy_from_slice(&content(9, 1, 1024, 512));
        data[1536..2048].copy_from_slice(&content(7, 2, 0, 512));
        data[2048..2560].fill(POISON);
        let strip = Strip::of("<read>", &data, 0, &[Legal::Generation(7, 2)]).unwrap();
        let mut out = String::new();
        draw(&mut out, &[strip]);
        assert_eq!(out.matches("<i class=\"new\"").count(), 1 + 4, "the legend, and legal blocks");
        for cell in ["old bad", "foreign bad", "poison bad"] {
            assert!(out.contains(&format!("<i class=\"{cell}\"")), "{cell}: {out}");
        }
        assert_eq!(out.matches("<tr").count(), 1 + 6);
        assert!(out.contains("from 3 blocks before") && out.contains("&lt;read&gt;"), "{out}");
    }

    #[test]
    fn a_huge_strip_is_cut_and_says_so() {
        let strip = Strip::of("t", &vec![0; 600 * 512], 0, &[Legal::Poison]).unwrap();
        let mut out = String::new();
        draw(&mut out, &[strip]);
        assert_eq!(out.matches("<i class=\"zero bad\"").count(), CELLS);
        assert!(out.contains("and 88 blocks more"));
    }
}
