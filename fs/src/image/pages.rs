//! The database's file as redb lays it out (its `docs/design.md`, file format 3), as far as a
//! salvage must know it when redb itself cannot open it.
//!
//! A header with two commit slots, then pages of 4096 bytes times a power of two. Everything here is
//! total: what a damaged page says never panics and never leads out of it.

pub mod node;
pub mod vacancy;

use xxhash_rust::xxh3::xxh3_128;

/// Bytes of a commit slot.
pub const SLOT_BYTES: usize = 128;
/// Where the first slot lies.
const SLOTS: usize = 64;
/// What a file begins with.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Bits of the byte behind the magic: the slot that counts.
const SECOND_COUNTS: u8 = 1;
/// The file format that the slots are of.
const FORMAT: u8 = 3;
/// Bits of a page's number in its region, and of a region's number.
const INDEX_BITS: u32 = 20;
/// Pages of one region: with pages of 4096 bytes redb makes all regions but the last 4 GiB long,
/// and gives them no headers.
pub const REGION_PAGES: u64 = 1 << INDEX_BITS;

/// Where a page lies, in blocks of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The first block.
    pub block: u64,
    /// Number of blocks, a power of two.
    pub blocks: u64,
}

impl Place {
    /// Decodes a page number; the first block of the file is the header.
    pub fn decode(bytes: [u8; 8]) -> Place {
        let number = u64::from_le_bytes(bytes);
        let order = number >> 59;
        let mask = REGION_PAGES - 1;
        // Only so many bits of the index count, or large pages would reach out of their region.
        let index = number & (mask >> order.min(u64::from(INDEX_BITS)));
        let region = number >> INDEX_BITS & mask;
        Place { block: 1 + region * REGION_PAGES + (index << order), blocks: 1 << order }
    }
}

/// A page and the checksum that it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The page.
    pub place: Place,
    /// XXH3 of its content.
    pub checksum: u128,
}

impl Link {
    /// Decodes page number and checksum.
    pub fn decode(bytes: &[u8]) -> Option<Link> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let checksum = u128::from_le_bytes(*rest.first_chunk::<16>()?);
        Some(Link { place: Place::decode(*number), checksum })
    }
}

/// A commit: where its trees begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The tree of our tables.
    pub user: Option<Link>,
    /// The tree of the database's own tables.
    pub system: Option<Link>,
    /// Number of the transaction.
    pub transaction: u64,
}

impl Slot {
    /// Decodes a slot; `None` unless it has its checksum.
    pub fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Slot> {
        let (body, sum) = bytes.split_last_chunk::<16>()?;
        if body[0] != FORMAT || xxh3_128(body) != u128::from_le_bytes(*sum) {
            return None;
        }
        let root = |present: usize, at: usize| {
            (body[present] != 0).then(|| Link::decode(&body[at..])).flatten()
        };
        let transaction = u64::from_le_bytes(*body.last_chunk::<8>()?);
        Some(Slot { user: root(1, 8), system: root(2, 40), transaction })
    }
}

/// The bytes of the slots in the first block of the file, the one that counts first. Without the
/// magic nobody can say which one that is: the newer one then.
pub fn slots(block: &[u8]) -> Vec<[u8; SLOT_BYTES]> {
    let slot = |n: usize| block.get(SLOTS + n * SLOT_BYTES..)?.first_chunk::<SLOT_BYTES>().copied();
    let mut slots: Vec<_> = [slot(0), slot(1)].into_iter().flatten().collect();
    let first = match block.strip_prefix(&MAGIC) {
        Some(rest) => rest.first().is_some_and(|flags| flags & SECOND_COUNTS != 0),
        None => {
            let newest = |bytes: &[u8; SLOT_BYTES]| Slot::decode(bytes).map(|s| s.transaction);
            slots.len() == 2 && newest(&slots[1]) > newest(&slots[0])
        }
    };
    if first {
        slots.reverse();
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, StorageBackend, TableDefinition};
    use std::sync::Arc;

    #[derive(Debug, Clone)]
    struct Shared(Arc<InMemoryBackend>);

    impl StorageBackend for Shared {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> std::io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.0.write(offset, data)
        }
    }

    /// What is said here of redb's files is what redb writes.
    #[test]
    fn the_header_of_a_database_is_read_as_it_was_written() {
        let file = Shared(Arc::new(InMemoryBackend::new()));
        let db = Database::builder().create_with_backend(file.clone()).expect("create");
        let table: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");
        for n in 0..3 {
            let mut txn = db.begin_write().expect("begin");
            txn.set_quick_repair(true);
            txn.open_table(table).expect("table").insert(n, n).expect("insert");
            txn.commit().expect("commit");
        }
        drop(db);
        let mut block = [0; 4096];
        file.read(0, &mut block).expect("read");
        let field = |at: usize| u32::from_le_bytes(*block[at..].first_chunk().expect("4 bytes"));
        assert_eq!([field(12), field(16), field(20)], [4096, 0, REGION_PAGES as u32]);
        let found = slots(&block);
        let [first, second] = [0, 1].map(|n| Slot::decode(&found[n]).expect("whole"));
        assert!(first.transaction > second.transaction);
        let root = first.user.expect("tables");
        let mut page = vec![0; root.place.blocks as usize * 4096];
        file.read(root.place.block * 4096, &mut page).expect("read");
        let node = node::Leaf::new(&page, None, None).expect("a leaf");
        assert_eq!(node.checksum(), Some(root.checksum));
        assert_eq!(node.row(0).map(|(key, _)| key), Some(&b"numbers"[..]));
        let mut torn = found[0];
        torn[9] ^= 1;
        assert_eq!(Slot::decode(&torn), None);
    }
}
