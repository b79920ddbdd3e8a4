//! The two splice-reads, and how to tell them apart.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use inflight_dio::{DirectFile, Engine, Pool, PoolConfig};
use inflight_splice::direct::{self, Segment};
use inflight_splice::{Filled, PipePool};

struct Setup {
    image: tempfile::NamedTempFile,
    direct: Arc<DirectFile>,
    pool: Pool,
    engine: Engine,
    pipes: PipePool,
}

fn setup(len: usize) -> Setup {
    let mut image = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    image.write_all(&pattern(len)).unwrap();
    image.as_file().sync_all().unwrap();
    let pool = Pool::new(PoolConfig { slabs: 2, ..PoolConfig::default() }).unwrap();
    Setup {
        direct: Arc::new(DirectFile::open(image.path(), true).unwrap()),
        engine: Engine::new(&pool).unwrap(),
        pipes: PipePool::new(1 << 20, 4).unwrap(),
        image,
        pool,
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 31 + i % 251) as u8).collect()
}

impl Setup {
    fn direct(&self, segments: &[Segment]) -> Filled {
        let pieces = direct::read(&self.engine, &self.direct, &self.pool, segments).unwrap();
        let mut fill = self.pipes.begin(pieces.iter().map(|p| p.len()).sum()).unwrap();
        direct::fill(&mut fill, pieces).unwrap();
        fill.finish().unwrap()
    }

    fn buffered(&self, offset: u64, len: usize) -> Filled {
        let mut fill = self.pipes.begin(len).unwrap();
        fill.file(self.image.as_file().as_fd(), offset, len).unwrap();
        fill.finish().unwrap()
    }
}

/// All that the reply holds, read out of pipe A.
fn contents(filled: &Filled) -> Vec<u8> {
    let mut bytes = vec![0; filled.len()];
    let mut reader = std::fs::File::from(filled.pipe().reader().try_clone_to_owned().unwrap());
    reader.read_exact(&mut bytes).unwrap();
    assert!(filled.pipe().is_empty().unwrap(), "no more than was announced");
    bytes
}

/// The alias test: page cache pages in a pipe are the file, direct buffers are not.
#[test]
fn a_write_to_the_file_shows_in_the_buffered_reply_and_not_in_the_direct_one() {
    let s = setup(65536);
    let buffered = s.buffered(4096, 8192);
    let direct = s.direct(&[Segment::Data { offset: 4096, len: 8192 }]);
    s.image.as_file().write_all_at(&[0xee; 8192], 4096).unwrap();
    assert_eq!(contents(&buffered), [0xee; 8192]);
    assert_eq!(contents(&direct), &pattern(65536)[4096..12288]);
}

#[test]
fn both_paths_give_the_same_bytes_at_any_offset_and_length() {
    let s = setup(200_000);
    for (offset, len) in [(0, 1), (7, 13), (511, 2), (4095, 4098), (12_345, 100_000), (199_999, 1)]
    {
        let want = &pattern(200_000)[offset..offset + len];
        assert_eq!(contents(&s.buffered(offset as u64, len)), want);
        assert_eq!(contents(&s.direct(&[Segment::Data { offset: offset as u64, len }])), want);
    }
}

#[test]
fn both_paths_are_trimmed_to_what_the_file_has() {
    let s = setup(10_000);
    for (offset, len) in [(0u64, 65536), (8192, 4096), (9_999, 10), (10_000, 4096), (1 << 20, 512)]
    {
        let want = pattern(10_000).split_off((offset as usize).min(10_000));
        let want = &want[..len.min(want.len())];
        assert_eq!(contents(&s.buffered(offset, len)), want);
        let direct = s.direct(&[Segment::Data { offset, len }]);
        assert_eq!(
            direct.slots(),
            want.len().div_ceil(4096)
                + usize::from(offset % 4096 + want.len() as u64 % 4096 > 4096),
            "no page more"
        );
        assert_eq!(contents(&direct), want);
    }
    assert_eq!(s.pool.report().in_use, 0);
}

#[test]
fn extents_and_holes_come_in_order_and_stop_at_the_first_shortage() {
    let s = setup(100_000);
    let all = pattern(100_000);
    let got = contents(&s.direct(&[
        Segment::Data { offset: 50_000, len: 3000 },
        Segment::Hole { len: 5000 },
        Segment::Data { offset: 100, len: 8000 },
        Segment::Hole { len: 0 },
        Segment::Data { offset: 99_000, len: 4000 },
        Segment::Hole { len: 777 },
    ]));
    let want = [&all[50_000..53_000], &[0; 5000], &all[100..8100], &all[99_000..]].concat();
    assert!(got == want, "{} bytes, {} expected", got.len(), want.len());
}

#[test]
fn a_segment_longer_than_a_slab_is_read_in_windows() {
    let s = setup(5 << 20);
    let segments = [Segment::Data { offset: 1000, len: (5 << 20) - 1000 }];
    let pieces = direct::read(&s.engine, &s.direct, &s.pool, &segments).unwrap();
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces.iter().map(|p| p.len()).sum::<usize>(), (5 << 20) - 1000);
}

#[test]
fn an_offset_past_the_end_of_numbers_is_einval() {
    let s = setup(512);
    let segments = [Segment::Data { offset: u64::MAX - 5, len: 100 }];
    let e = direct::read(&s.engine, &s.direct, &s.pool, &segments).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(22));
}

/// The seed's story: where the pipe-backed iterator is wrong, the direct splice-read is right.
#[cfg(feature = "pipe-backed")]
mod broken {
    use super::*;
    use inflight_splice::pipe_backed::{self, Revert};

    /// Another user's bytes in all of the pool that nobody has.
    fn poison(pool: &Pool, byte: u8) {
        let free = std::iter::repeat_with(|| pool.take(inflight_dio::page_size()));
        let mut all: Vec<_> = free.take_while(|b| b.is_pooled()).collect();
        all.iter_mut().for_each(|b| b.as_mut_slice().fill(byte));
    }

    fn pipe_backed(s: &Setup, wanted: usize, revert: Revert) -> Filled {
        let segments = [Segment::Data { offset: 0, len: wanted }];
        pipe_backed::read(&s.pipes, &s.engine, &s.direct, &s.pool, &segments, wanted, revert)
            .unwrap()
    }

    #[test]
    fn a_whole_read_is_right_even_when_pipe_backed() {
        let s = setup(65536);
        for revert in [Revert::FreeTail, Revert::LeaveTail] {
            assert_eq!(contents(&pipe_backed(&s, 65536, revert)), pattern(65536));
        }
    }

    #[test]
    fn a_short_read_left_untrimmed_shows_stale_bytes() {
        let s = setup(10_000);
        poison(&s.pool, 0xaa);
        let got = contents(&pipe_backed(&s, 16384, Revert::LeaveTail));
        assert_eq!(got.len(), 16384, "as long as was asked for");
        assert!(got[10_000..].iter().all(|&b| b == 0xaa), "an earlier user's bytes");
        let right = s.direct(&[Segment::Data { offset: 0, len: 16384 }]);
        assert_eq!(contents(&right), pattern(10_000));
    }

    #[test]
    fn a_reverted_page_shows_what_its_next_owner_writes() {
        let s = setup(4096);
        let filled = pipe_backed(&s, 16384, Revert::FreeTail);
        // Somebody else's data, written after the read and before the reply was consumed.
        poison(&s.pool, 0x77);
        let got = contents(&filled);
        assert_eq!(&got[..4096], pattern(4096));
        assert!(got[4096..].iter().all(|&b| b == 0x77), "another reader's bytes");
    }

    #[test]
    fn the_direct_reply_keeps_its_pages_from_the_next_owner() {
        let s = setup(6000);
        let filled = s.direct(&[Segment::Data { offset: 0, len: 16384 }]);
        poison(&s.pool, 0x77);
        assert_eq!(contents(&filled), pattern(6000));
    }
}
