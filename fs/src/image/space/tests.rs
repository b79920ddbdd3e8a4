use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn space(total: u64) -> Space {
    Space::new(total, Arc::new(Pins::default()))
}

fn everything(s: &Space) -> Vec<Run> {
    let mut runs = Vec::new();
    while let Some(run) = s.allocate(64, None) {
        runs.push(run);
    }
    runs
}

#[test]
fn freed_blocks_are_not_reused_before_the_commit_nor_under_a_pin() {
    let s = space(20_000);
    let run = s.allocate(100, None).expect("space");
    s.publish(run);
    s.committed();
    let pin = s.pins().pin(vec![Run { start: run.start + 50, blocks: 1 }]);
    s.free(run);
    assert!(s.would_gain());
    assert_ne!(s.allocate(1, Some(run.start)).map(|r| r.start), Some(run.start));
    s.committed();
    assert_ne!(s.allocate(1, Some(run.start)).map(|r| r.start), Some(run.start));
    drop(pin);
    s.committed();
    assert_eq!(s.allocate(1, Some(run.start)).map(|r| r.start), Some(run.start));
}

#[test]
fn the_reserve_is_kept_from_data_and_open_to_metadata() {
    let s = space(2000);
    s.reserve(5000, Some(10));
    assert_eq!(s.reserved(), 500, "no more than the floor of a small image");
    let got: u64 = everything(&s).iter().map(|r| r.blocks).sum();
    assert_eq!(got, 2000 - 500);
    assert!(s.has_room());
    let run = s.take_reserved(512, Some(10)).expect("reserved");
    assert_eq!((run.start, run.blocks), (10, 500), "where the area ends");
    assert!(!s.has_room());
    assert!(s.take_reserved(1, None).is_none());
}

#[test]
fn what_the_area_grew_into_is_marked_by_the_next_commit() {
    let s = space(1 << 20);
    s.reserve(2000, Some(100));
    s.take_reserved(70, Some(100)).expect("reserved");
    assert_eq!(s.usage().free, 1 << 20);
    let rows = s.take_dirty();
    assert_eq!((s.usage().free, rows.groups.len(), rows.counts.len()), ((1 << 20) - 70, 1, 1));
    s.relinquish();
    assert_eq!(s.reserved(), 2000 - 70, "the floor of this image is larger");
}

#[test]
fn a_long_run_is_preferred_to_the_first_gap() {
    let s = space(30_000);
    s.claim(Run { start: 2, blocks: 998 });
    s.claim(Run { start: 1010, blocks: 5 });
    let run = s.allocate(500, Some(1)).expect("space");
    assert_eq!((run.start, run.blocks), (1015, 500));
    let rest = s.allocate(1 << 20, Some(0)).expect("space");
    assert!(rest.blocks > 20_000, "the longest run when none is long enough");
}

#[test]
fn sixteen_tebibytes_that_are_free_need_no_rows_and_no_bits() {
    let s = space(16 << 28);
    let run = s.allocate(100, None).expect("space");
    s.publish(run);
    let rows = s.take_dirty();
    assert_eq!((rows.groups.len(), rows.counts.len()), (1, 1));
    assert_eq!(s.state.lock().loaded.len(), 1);
    s.free(run);
    s.committed();
    let rows = s.take_dirty();
    assert!(rows.groups.iter().all(|(_, row)| row.is_none()), "free again, so no row");
    assert!(rows.counts.iter().all(|(_, row)| row.is_none()));
}

#[test]
fn a_group_whose_row_cannot_be_read_is_left_alone() {
    let s = space(40_000);
    s.load_counts(0, &[8000u16, 8192, 8192, 8192, 7232].map(u16::to_le_bytes).concat());
    s.load_from(Box::new(|_| Ok(None)));
    let got = everything(&s);
    assert!(got.iter().all(|run| run.start >= GROUP_BLOCKS), "nothing in the lost group");
    assert_eq!(got.iter().map(|r| r.blocks).sum::<u64>(), 40_000 - GROUP_BLOCKS);
    s.free(Run { start: 5, blocks: 1 });
    assert!(s.take_dirty().groups.is_empty(), "its row stays as it is");
}

/// Rows as a database would keep them.
#[derive(Default)]
struct Database {
    groups: HashMap<u64, Vec<u8>>,
    counts: HashMap<u64, Vec<u8>>,
}

impl Database {
    fn store(&mut self, rows: DirtyRows) {
        fn put(map: &mut HashMap<u64, Vec<u8>>, rows: Vec<(u64, Option<Vec<u8>>)>) {
            for (key, row) in rows {
                match row {
                    Some(row) => map.insert(key, row),
                    None => map.remove(&key),
                };
            }
        }
        put(&mut self.groups, rows.groups);
        put(&mut self.counts, rows.counts);
    }

    fn open(&self, total: u64) -> Space {
        let s = space(total);
        self.counts.iter().for_each(|(index, row)| s.load_counts(*index, row));
        let groups = self.groups.clone();
        s.load_from(Box::new(move |group| Ok(groups.get(&group).cloned())));
        s
    }
}

proptest! {
    /// However blocks are handed out and freed, and however often the image is mounted again, each
    /// block has one owner, and what is free is what nobody owns.
    #[test]
    fn every_block_has_one_owner(ops in prop::collection::vec((0u8..5, 1u64..9000), 1..60)) {
        let total = 50_000;
        let (mut db, mut owned): (Database, Vec<Run>) = Default::default();
        let mut s = db.open(total);
        for (op, n) in ops {
            match op {
                0 | 1 => if let Some(run) = s.allocate(n, Some(n * 5)) {
                    prop_assert!(owned.iter().all(|o| o.end() <= run.start || run.end() <= o.start));
                    s.publish(run);
                    owned.push(run);
                },
                2 if !owned.is_empty() => s.free(owned.swap_remove(n as usize % owned.len())),
                3 => {
                    db.store(s.take_dirty());
                    s.committed();
                }
                4 => {
                    db.store(s.take_dirty());
                    s.committed();
                    s = db.open(total);
                }
                _ => {}
            }
            let held: u64 = owned.iter().map(|r| r.blocks).sum();
            prop_assert_eq!(s.usage().free, total - held);
        }
        db.store(s.take_dirty());
        let s = db.open(total);
        let free = everything(&s);
        prop_assert!(free.iter().all(|f| owned.iter().all(|o| o.end() <= f.start || f.end() <= o.start)));
        let all: u64 = free.iter().chain(&owned).map(|r| r.blocks).sum();
        prop_assert_eq!(all, total);
    }
}
