//! The two superblocks, against each other and against the size of the image.

use crate::disk::Disk;
use crate::image::BLOCK;
use crate::image::fsck::report::Findings;
use crate::image::probe::{self, ProbeError};
use crate::image::superblock::{STATE_MOUNTED, Superblock, Unusable};

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
            f.error("second superblock", e.to_string(), REWRITTEN);
            first
        }
        [Err(e), Ok(second)] => {
            f.error("first superblock", e.to_string(), REWRITTEN);
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
