//! The two superblocks, against each other and against the size of the image.

use crate::disk::Disk;
use crate::fsck::report::Findings;
use crate::image::BLOCK;
use crate::image::probe::{self, ProbeError};
use crate::image::superblock::{SECOND, STATE_MOUNTED, Superblock, Unusable};
use std::io;
use std::ops::Range;

const REWRITTEN: &str = "it is written anew";

/// The superblock that counts, and whether the image is as long as it says.
#[derive(Debug)]
pub struct Checked {
    /// The newer good copy.
    pub superblock: Superblock,
    /// The image is shorter than the filesystem: nothing can be repaired.
    pub cut: bool,
}

/// Checks both copies.
///
/// # Errors
/// When neither can be used, or only by a newer program.
pub fn check(disk: &dyn Disk, f: &mut Findings) -> Result<Checked, ProbeError> {
    let path = || disk.name().to_owned();
    let open = |source| ProbeError::Open { path: path(), source };
    let have = disk.len().map_err(open)?;
    if have < BLOCK {
        return Err(ProbeError::TooSmall { path: path(), size: have });
    }
    let copies = probe::copies(disk).map_err(open)?;
    let superblock = match copies {
        [Err(source), _] if source.is_foreign() => {
            return Err(ProbeError::Unusable { path: path(), source, hint: "" });
        }
        [Ok(first), Ok(second)] => compare(first, second, f),
        [Ok(first), Err(e)] => {
            unusable(disk, [SECOND, 0], e, f).map_err(open)?;
            first
        }
        [Err(e), Ok(second)] => {
            unusable(disk, [0, SECOND], e, f).map_err(open)?;
            second
        }
        [Err(Unusable::NotOurs), Err(_)] => {
            let hint = "; make one with inflight mkfs";
            return Err(ProbeError::Unusable { path: path(), source: Unusable::NotOurs, hint });
        }
        [Err(source), Err(_)] => {
            let hint = "; both copies are unusable";
            return Err(ProbeError::Unusable { path: path(), source, hint });
        }
    };
    if superblock.state & STATE_MOUNTED != 0 {
        let problem = "was not unmounted cleanly; its last commit counts";
        f.note("image", problem, "it is marked clean");
    }
    let need = superblock.total_blocks * BLOCK;
    let cut = have < need;
    if cut {
        let problem = format!(
            "has {have} bytes, its filesystem needs {need}: it was cut; restore it, or extend it \
             with truncate -s {need} and check again: what was cut then reads as zeros"
        );
        f.error("image", problem, "");
    }
    Ok(Checked { superblock, cut })
}

/// The copy in block `bad` cannot be used, the one in `good` can.
fn unusable(
    disk: &dyn Disk,
    [bad, good]: [u64; 2],
    why: Unusable,
    f: &mut Findings,
) -> io::Result<()> {
    let object = if bad == 0 { "first superblock" } else { "second superblock" };
    if why == Unusable::Damaged && disk.len()? >= (bad + 1) * BLOCK {
        let (mut torn, mut whole) = ([0; BLOCK as usize], [0; BLOCK as usize]);
        disk.read(bad * BLOCK, &mut torn)?;
        disk.read(good * BLOCK, &mut whole)?;
        if is_torn(&torn, &whole) {
            f.note(object, "was being written when the power went", REWRITTEN);
            return Ok(());
        }
    }
    f.error(object, why.to_string(), REWRITTEN);
    Ok(())
}

/// True when a power cut can have made `torn` of what was there before and of what `whole` has, or
/// the other way round: each sector is of the one or of the other, and every rewrite changes the
/// sequence, which is in the first sector, and the checksum, which is in the last one.
fn is_torn(torn: &[u8], whole: &[u8]) -> bool {
    const LAST: usize = BLOCK as usize - 512;
    const CRC: usize = BLOCK as usize - 4;
    let same = |range: Range<usize>| torn[range.clone()] == whole[range];
    let sequence =
        |bytes: &[u8]| bytes[136..144].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    if same(0..512) {
        return same(LAST..CRC) && !same(CRC..BLOCK as usize);
    }
    // What no rewrite changes: magic to uuid, when it was made and the key.
    let follows = sequence(torn).abs_diff(sequence(whole)) == 1;
    follows && same(0..56) && same(128..136) && same(160..176)
}

fn compare(first: Superblock, second: Superblock, f: &mut Findings) -> Superblock {
    if second.uuid != first.uuid {
        f.error("second superblock", "belongs to another filesystem", REWRITTEN);
        return first;
    }
    // A crash between the two writes leaves exactly this.
    if second.sequence != first.sequence {
        let newer = second.sequence > first.sequence;
        let object = if newer { "first superblock" } else { "second superblock" };
        f.note(object, "is older than the other one", REWRITTEN);
        return if newer { second } else { first };
    }
    if second != first {
        f.error("second superblock", "differs from the first one", REWRITTEN);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::superblock::{Chunk, VERSION};

    fn version(sequence: u64) -> Vec<u8> {
        let superblock = Superblock {
            version: VERSION,
            compat: 0,
            ro_compat: 0,
            incompat: 0,
            uuid: [1; 16],
            label: "one".into(),
            total_blocks: 1 << 20,
            created_secs: 0,
            sequence,
            metadata_bytes: sequence << 20,
            state: 0,
            hash_key: [2; 16],
            commit: None,
            chunks: vec![Chunk { logical: 0, start: 1, blocks: 256 << sequence }],
        };
        superblock.encode()
    }

    #[test]
    fn a_mix_of_two_versions_is_torn_and_a_flipped_bit_is_damage() {
        let (old, new) = (version(1), version(2));
        for cut in 1..8 {
            let torn = [&new[..cut * 512], &old[cut * 512..]].concat();
            assert!(is_torn(&torn, &old) && is_torn(&torn, &new), "cut in sector {cut}");
        }
        for at in [0, 100, 137, 160, 400, 600, 4000] {
            let mut bad = new.clone();
            bad[at] ^= 1;
            assert!(!is_torn(&bad, &new), "byte {at}");
        }
        assert!(!is_torn(&[0; BLOCK as usize], &new));
    }
}
