//! The superblock: what the image is and where its metadata lives.
//!
//! Blocks 0 and [`SECOND`] hold the same 4096 bytes, in places that do not depend on the size of
//! the filesystem or of the device. Both are rewritten, each followed by a flush, whenever a field
//! changes, so a torn write leaves one good copy. All integers are little-endian.

use crate::image::BLOCK;
use crate::image::pages::SLOT_BYTES;
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// First eight bytes of an image.
pub const MAGIC: [u8; 8] = *b"INFLIGHT";
/// The format this code reads and writes. Any other number in an image is refused.
pub const VERSION: u32 = 2;
/// Block of the second copy: 8 MiB from the start, out of reach of what overwrites a beginning.
pub const SECOND: u64 = 2048;
/// Most pieces that the metadata area may consist of. Growth leaves it a few dozen.
pub const CHUNKS_MAX: usize = 150;
/// Feature bits that a reader may ignore.
pub const COMPAT_KNOWN: u64 = 0;
/// Feature bits that a reader may ignore as long as it writes nothing.
pub const RO_COMPAT_KNOWN: u64 = 0;
/// Feature bits that nobody may ignore.
pub const INCOMPAT_KNOWN: u64 = 0;
/// Most blocks of a filesystem: 4 EiB.
pub const BLOCKS_MAX: u64 = 1 << 50;
/// Bytes that the database may be longer than four times what the chunks back. redb doubles a file up to 4 GiB and then adds
/// 8 GiB at most (`TransactionalMemory::grow`), before it writes there; but for every 4 GiB of length it takes some
/// 300 KiB of memory when it opens the file, so a length that nothing stands behind must not reach it.
const AHEAD_MAX: u64 = 16 << 30;
/// Bytes of a label, the terminating zero not included.
pub const LABEL_MAX: usize = 63;

/// Set in `state` while the image is mounted for writing.
pub const STATE_MOUNTED: u32 = 1;

/// The on-disk form, exactly one block.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Raw {
    magic: [u8; 8],
    version: U32,
    block_size: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    uuid: [u8; 16],
    label: [u8; 64],
    total_blocks: U64,
    created_secs: I64,
    sequence: U64,
    metadata_bytes: U64,
    state: U32,
    chunk_count: U32,
    hash_key: [u8; 16],
    commit: [u8; SLOT_BYTES],
    chunks: [RawChunk; CHUNKS_MAX],
    padding: [u8; BLOCK as usize - 304 - 24 * CHUNKS_MAX - 4],
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawChunk {
    start: U64,
    logical: U64,
    blocks: U64,
}

const _: () = assert!(size_of::<Raw>() == BLOCK as usize);

/// A contiguous piece of the metadata area, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Chunk {
    /// First block in the area, checksum blocks counted.
    pub logical: u64,
    /// First block in the image.
    pub start: u64,
    /// Number of blocks.
    pub blocks: u64,
}

/// The decoded superblock.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Superblock {
    /// Format version.
    pub version: u32,
    /// Compatible feature bits.
    pub compat: u64,
    /// Feature bits that forbid writing when unknown.
    pub ro_compat: u64,
    /// Feature bits that forbid use when unknown.
    pub incompat: u64,
    /// Identity of the image.
    pub uuid: [u8; 16],
    /// Name given by the user, at most [`LABEL_MAX`] bytes.
    pub label: String,
    /// Size of the filesystem in blocks, both superblocks included.
    pub total_blocks: u64,
    /// When mkfs made it, seconds since the epoch.
    pub created_secs: i64,
    /// Rises with every rewrite; the larger of two valid copies wins.
    pub sequence: u64,
    /// Logical length of the database in bytes; chunks may back less of it.
    pub metadata_bytes: u64,
    /// [`STATE_MOUNTED`] or 0.
    pub state: u32,
    /// Key of the hash that orders names in a directory.
    pub hash_key: [u8; 16],
    /// The commit slot of the database that counted at the last unmount; `None` while mounted, and
    /// after a crash.
    #[serde(skip)]
    pub commit: Option<[u8; SLOT_BYTES]>,
    /// The pieces of the metadata area, in logical order; what lies between them reads as zeros.
    pub chunks: Vec<Chunk>,
}

/// Why 4096 bytes are not a usable superblock.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unusable {
    /// The magic is missing.
    #[error("not an Inflight image")]
    NotOurs,
    /// The checksum does not match.
    #[error("damaged superblock (checksum does not match)")]
    Damaged,
    /// Written by an earlier version.
    #[error(
        "format version {found}, this program knows version {VERSION}: mount it with the inflight that made it and copy the files"
    )]
    Older {
        /// The version in the image.
        found: u32,
    },
    /// Written by a later version.
    #[error("format version {found}, this program knows up to {VERSION}: use a newer inflight")]
    Newer {
        /// The version in the image.
        found: u32,
    },
    /// Uses features that this program does not know.
    #[error("unknown incompatible features {bits:#x}: use a newer inflight")]
    UnknownFeatures {
        /// The unknown bits.
        bits: u64,
    },
    /// A checksummed field contradicts another one.
    #[error("superblock field {0} is out of range")]
    Implausible(&'static str),
}

impl Unusable {
    /// True for an image that is whole and that only another program can use.
    pub fn is_foreign(&self) -> bool {
        matches!(
            self,
            Unusable::Older { .. } | Unusable::Newer { .. } | Unusable::UnknownFeatures { .. }
        )
    }
}

impl Superblock {
    /// Encodes for disk.
    ///
    /// # Panics
    /// When there are more than [`CHUNKS_MAX`] chunks or the label is too long: callers bound both.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.chunks.len() <= CHUNKS_MAX && self.label.len() <= LABEL_MAX);
        let mut raw = Raw::new_zeroed();
        raw.magic = MAGIC;
        raw.version = self.version.into();
        raw.block_size = (BLOCK as u32).into();
        raw.compat = self.compat.into();
        raw.ro_compat = self.ro_compat.into();
        raw.incompat = self.incompat.into();
        raw.uuid = self.uuid;
        raw.label[..self.label.len()].copy_from_slice(self.label.as_bytes());
        raw.total_blocks = self.total_blocks.into();
        raw.created_secs = self.created_secs.into();
        raw.sequence = self.sequence.into();
        raw.metadata_bytes = self.metadata_bytes.into();
        raw.state = self.state.into();
        raw.hash_key = self.hash_key;
        raw.commit = self.commit.unwrap_or([0; SLOT_BYTES]);
        raw.chunk_count = (self.chunks.len() as u32).into();
        for (slot, chunk) in raw.chunks.iter_mut().zip(&self.chunks) {
            *slot = RawChunk {
                start: chunk.start.into(),
                logical: chunk.logical.into(),
                blocks: chunk.blocks.into(),
            };
        }
        let body = raw.as_bytes();
        raw.crc = crc32c::crc32c(&body[..body.len() - 4]).into();
        raw.as_bytes().to_vec()
    }

    /// Decodes one copy and checks every field that other code relies on.
    pub fn decode(block: &[u8]) -> Result<Superblock, Unusable> {
        let raw = Raw::read_from_bytes(block).map_err(|_| Unusable::NotOurs)?;
        if raw.magic != MAGIC {
            return Err(Unusable::NotOurs);
        }
        if crc32c::crc32c(&block[..block.len() - 4]) != raw.crc.get() {
            return Err(Unusable::Damaged);
        }
        match raw.version.get() {
            found if found > VERSION => return Err(Unusable::Newer { found }),
            found if found < VERSION => return Err(Unusable::Older { found }),
            _ => {}
        }
        let unknown = raw.incompat.get() & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(Unusable::UnknownFeatures { bits: unknown });
        }
        let sb = raw.unpack()?;
        sb.check_chunks()?;
        Ok(sb)
    }

    fn check_chunks(&self) -> Result<(), Unusable> {
        for chunk in &self.chunks {
            let end = chunk.start.checked_add(chunk.blocks).filter(|e| *e <= self.total_blocks);
            let inside = end.is_some_and(|end| chunk.start > SECOND || end <= SECOND);
            let logical = chunk.logical.checked_add(chunk.blocks).is_some_and(|e| e <= BLOCKS_MAX);
            if chunk.start == 0 || chunk.blocks == 0 || !inside || !logical {
                return Err(Unusable::Implausible("chunks"));
            }
        }
        if self.chunks.windows(2).any(|w| w[0].logical + w[0].blocks > w[1].logical) {
            return Err(Unusable::Implausible("chunks (out of order)"));
        }
        let mut sorted = self.chunks.clone();
        sorted.sort_by_key(|c| c.start);
        if sorted.windows(2).any(|w| w[0].start + w[0].blocks > w[1].start) {
            return Err(Unusable::Implausible("chunks (they overlap)"));
        }
        if self.metadata_bytes > self.backed_bytes().saturating_mul(4).saturating_add(AHEAD_MAX) {
            return Err(Unusable::Implausible(
                "metadata_bytes (the chunks hold too little for it)",
            ));
        }
        Ok(())
    }

    /// Bytes that the chunks back.
    pub fn backed_bytes(&self) -> u64 {
        self.chunks.iter().map(|c| c.blocks).sum::<u64>() * BLOCK
    }

    /// Feature bits that allow reading but forbid writing.
    pub fn unknown_ro_compat(&self) -> u64 {
        self.ro_compat & !RO_COMPAT_KNOWN
    }
}

impl Raw {
    fn unpack(&self) -> Result<Superblock, Unusable> {
        if u64::from(self.block_size.get()) != BLOCK {
            return Err(Unusable::Implausible("block_size"));
        }
        let count = self.chunk_count.get() as usize;
        if count == 0 || count > CHUNKS_MAX {
            return Err(Unusable::Implausible("chunk_count"));
        }
        if self.total_blocks.get() <= SECOND || self.total_blocks.get() > BLOCKS_MAX {
            return Err(Unusable::Implausible("total_blocks"));
        }
        if self.metadata_bytes.get() > BLOCKS_MAX * BLOCK {
            return Err(Unusable::Implausible("metadata_bytes"));
        }
        let end = self.label.iter().position(|b| *b == 0).unwrap_or(LABEL_MAX);
        let label = std::str::from_utf8(&self.label[..end])
            .map_err(|_| Unusable::Implausible("label"))?
            .to_owned();
        Ok(Superblock {
            version: self.version.get(),
            compat: self.compat.get(),
            ro_compat: self.ro_compat.get(),
            incompat: self.incompat.get(),
            uuid: self.uuid,
            label,
            total_blocks: self.total_blocks.get(),
            created_secs: self.created_secs.get(),
            sequence: self.sequence.get(),
            metadata_bytes: self.metadata_bytes.get(),
            state: self.state.get(),
            hash_key: self.hash_key,
            commit: Some(self.commit).filter(|slot| *slot != [0; SLOT_BYTES]),
            chunks: self.chunks[..count]
                .iter()
                .map(|c| Chunk {
                    logical: c.logical.get(),
                    start: c.start.get(),
                    blocks: c.blocks.get(),
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(logical: u64, start: u64, blocks: u64) -> Chunk {
        Chunk { logical, start, blocks }
    }

    fn sample() -> Superblock {
        Superblock {
            version: VERSION,
            compat: 0,
            ro_compat: 0,
            incompat: 0,
            uuid: [7; 16],
            label: "scratch".into(),
            total_blocks: 1 << 20,
            created_secs: 1_700_000_000,
            sequence: 3,
            metadata_bytes: 1 << 20,
            state: STATE_MOUNTED,
            hash_key: [9; 16],
            commit: Some([3; SLOT_BYTES]),
            chunks: vec![chunk(0, 1, 256), chunk(300, 9000, 64)],
        }
    }

    #[test]
    fn a_superblock_survives_its_encoding() {
        assert_eq!(Superblock::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed() {
        let good = sample().encode();
        for at in 8..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Superblock::decode(&bad), Err(Unusable::Damaged), "byte {at}");
        }
    }

    #[test]
    fn newer_versions_and_unknown_features_are_refused_by_name() {
        let mut newer = sample();
        newer.version = VERSION + 1;
        assert_eq!(Superblock::decode(&newer.encode()), Err(Unusable::Newer { found: 3 }));
        let old = Superblock { version: 1, ..sample() };
        assert_eq!(Superblock::decode(&old.encode()), Err(Unusable::Older { found: 1 }));
        let mut strange = sample();
        strange.incompat = 1 << 40;
        let refused = Superblock::decode(&strange.encode());
        assert_eq!(refused, Err(Unusable::UnknownFeatures { bits: 1 << 40 }));
    }

    #[test]
    fn chunks_outside_the_image_or_over_each_other_are_refused() {
        for chunks in [
            vec![chunk(0, 0, 4)],
            vec![chunk(0, 5, 1 << 20)],
            vec![chunk(0, SECOND - 1, 2)],
            vec![chunk(u64::MAX, 5, 2)],
            vec![chunk(0, u64::MAX, 2)],
            vec![chunk(0, 5, 10), chunk(10, 14, 10)],
            vec![chunk(5, 5, 10), chunk(10, 20, 10)],
        ] {
            let mut sb = sample();
            sb.chunks = chunks;
            assert!(matches!(Superblock::decode(&sb.encode()), Err(Unusable::Implausible(_))));
        }
    }

    /// A mount takes memory in proportion to the length of the database.
    #[test]
    fn a_length_that_the_chunks_do_not_stand_behind_is_refused() {
        let backed = 320 * BLOCK;
        for (bytes, is_plausible) in
            [(4 * backed + AHEAD_MAX, true), (4 * backed + AHEAD_MAX + 1, false), (1 << 47, false)]
        {
            let sb = Superblock { metadata_bytes: bytes, ..sample() };
            assert_eq!(Superblock::decode(&sb.encode()).is_ok(), is_plausible, "{bytes}");
        }
    }
}
