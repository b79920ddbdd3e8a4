//! What the engine promises about transfers on real files.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};

use inflight_dio::iter::{self, IoIter, PageMap};
use inflight_dio::{
    DirectFile, Done, Engine, Op, Part, Pool, PoolConfig, QueueKind, Request, VectoredRequest,
};

/// A file on a disk filesystem: the build folder, since /tmp may be anything.
fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(bytes).unwrap();
    file.as_file().sync_all().unwrap();
    file
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 31 + i % 251) as u8).collect()
}

fn pool() -> Pool {
    Pool::new(PoolConfig { slabs: 2, ..PoolConfig::default() }).unwrap()
}

fn engines(pool: &Pool) -> Vec<Engine> {
    vec![
        Engine::new(pool).unwrap(),
        Engine::new(pool).unwrap(),
        Engine::with_workers(pool, 3).unwrap(),
    ]
}

#[test]
fn what_was_written_is_read_back() {
    let (pool, file) = (pool(), file_of(&pattern(3 << 20)));
    let direct = DirectFile::open(file.path(), true).unwrap();
    for engine in engines(&pool) {
        let (mut buf, n) = engine.read_at(&direct, pool.take(1 << 20), 1 << 20, 1 << 20);
        assert_eq!(n.unwrap(), 1 << 20);
        assert_eq!(buf.as_slice(), &pattern(3 << 20)[1 << 20..2 << 20]);
        buf.as_mut_slice().fill(0x5a);
        let (buf, n) = engine.write_at(&direct, buf, 8192, 4096);
        assert_eq!((n.unwrap(), buf.len()), (4096, 1 << 20));
        let mut back = [0; 4096];
        file.as_file().read_exact_at(&mut back, 8192).unwrap();
        assert!(back.iter().all(|&b| b == 0x5a));
    }
}

#[test]
fn a_read_across_the_end_is_trimmed_to_what_is_there() {
    let (pool, file) = (pool(), file_of(&pattern(10_000)));
    let direct = DirectFile::open(file.path(), false).unwrap();
    for engine in engines(&pool) {
        let (buf, n) = engine.read_at(&direct, pool.take(16384), 4096, 12288);
        assert_eq!((n.unwrap(), buf.len()), (5904, 5904));
        assert_eq!(buf.as_slice(), &pattern(10_000)[4096..]);
        let (buf, n) = engine.read_at(&direct, buf, 1 << 20, 4096);
        assert_eq!((n.unwrap(), buf.len()), (0, 0));
    }
}

#[test]
fn a_file_shrunk_between_two_reads_gives_a_short_count_and_no_stale_tail() {
    let (pool, file) = (pool(), file_of(&pattern(65536)));
    let direct = Arc::new(DirectFile::open(file.path(), false).unwrap());
    let engine = Engine::new(&pool).unwrap();
    let (buf, _) = engine.read_at(&direct, pool.take(65536), 0, 65536);
    file.as_file().set_len(20480 + 77).unwrap();
    let (tx, rx) = mpsc::channel();
    let request = Request { file: direct, buf, offset: 0, len: 65536, op: Op::Read };
    engine.submit(request, Box::new(move |c| tx.send(c).unwrap()));
    let c = rx.recv().unwrap();
    assert_eq!((c.result.unwrap(), c.buf.len()), (20557, 20557));
    assert_eq!(c.buf.as_slice(), &pattern(65536)[..20557]);
}

#[test]
fn unaligned_requests_are_refused_and_the_buffer_comes_back() {
    let (pool, file) = (pool(), file_of(&pattern(8192)));
    let direct = Arc::new(DirectFile::open(file.path(), true).unwrap());
    for engine in engines(&pool) {
        for (offset, len) in [(7, 4096), (0, 13), (u64::MAX - 4095, 4096), (0, 1 << 20)] {
            let (buf, r) = engine.read_at(&direct, pool.take(4096), offset, len);
            assert_eq!(r.unwrap_err().raw_os_error(), Some(22), "{offset} {len}");
            assert!(buf.capacity() >= 4096);
            let (tx, rx) = mpsc::channel();
            let request = Request { file: Arc::clone(&direct), buf, offset, len, op: Op::Write };
            engine.submit(request, Box::new(move |c| tx.send(c).unwrap()));
            let c = rx.recv().unwrap();
            assert_eq!(c.result.unwrap_err().raw_os_error(), Some(22));
        }
    }
}

#[test]
fn a_thousand_queued_requests_all_come_back_with_their_own_bytes() {
    let (pool, file) = (pool(), file_of(&pattern(4 << 20)));
    let direct = Arc::new(DirectFile::open(file.path(), false).unwrap());
    let all = pattern(4 << 20);
    for engine in engines(&pool) {
        let (tx, rx) = mpsc::channel();
        engine.submit_batch((0..1000u64).map(|i| {
            let (tx, offset) = (tx.clone(), i * 4096);
            let file = Arc::clone(&direct);
            let request = Request { file, buf: pool.take(4096), offset, len: 4096, op: Op::Read };
            let done: inflight_dio::Done = Box::new(move |c| tx.send((i, c)).unwrap());
            (request, done)
        }));
        for _ in 0..1000 {
            let (i, c) = rx.recv().unwrap();
            assert_eq!(c.result.unwrap(), 4096);
            assert_eq!(c.buf.as_slice(), &all[i as usize * 4096..][..4096]);
        }
    }
    assert_eq!(pool.report().in_use, 0);
}

#[test]
fn dropping_the_engine_waits_for_what_is_in_flight() {
    let (pool, file) = (pool(), file_of(&pattern(1 << 20)));
    let direct = Arc::new(DirectFile::open(file.path(), false).unwrap());
    for engine in engines(&pool) {
        let (tx, rx) = mpsc::channel();
        for i in 0..64 {
            let (tx, file) = (tx.clone(), Arc::clone(&direct));
            let request =
                Request { file, buf: pool.take(8192), offset: i * 8192, len: 8192, op: Op::Read };
            engine.submit(request, Box::new(move |c| tx.send(c.result.unwrap()).unwrap()));
        }
        drop((engine, tx));
        assert_eq!(rx.try_iter().sum::<usize>(), 64 * 8192);
        assert_eq!(pool.report().in_use, 0);
    }
}

#[test]
fn an_engine_may_be_dropped_by_its_own_callback_and_a_panic_there_harms_no_other() {
    let (pool, file) = (pool(), file_of(&pattern(1 << 20)));
    let direct = Arc::new(DirectFile::open(file.path(), false).unwrap());
    for engine in engines(&pool) {
        let engine = Arc::new(engine);
        let (tx, rx) = mpsc::channel();
        let mine = Arc::clone(&engine);
        let request = |offset| Request {
            file: Arc::clone(&direct),
            buf: pool.take(4096),
            offset,
            len: 4096,
            op: Op::Read,
        };
        engine.submit(request(0), Box::new(|_| panic!("on purpose")));
        let last = tx.clone();
        engine.submit(
            request(4096),
            Box::new(move |c| {
                drop(mine);
                last.send(c.result.unwrap()).unwrap();
            }),
        );
        drop(engine);
        assert_eq!(rx.recv().unwrap(), 4096);
    }
}

#[test]
fn a_vectored_request_fills_its_parts_in_order() {
    let (pool, file) = (pool(), file_of(&pattern(20_000)));
    let direct = Arc::new(DirectFile::open(file.path(), false).unwrap());
    let block = direct.alignment().offset.max(512);
    for engine in engines(&pool) {
        let parts: Vec<Part> = [(0, 2 * block), (block, block), (0, 16 * block)]
            .into_iter()
            .map(|(from, len)| Part { buf: pool.take(16 * block), from, len })
            .collect();
        let (tx, rx) = mpsc::channel();
        let request = VectoredRequest { file: Arc::clone(&direct), parts, offset: 0, op: Op::Read };
        engine.submit_vectored(request, Box::new(move |c| tx.send(c).unwrap()));
        let c = rx.recv().unwrap();
        let want = (19 * block).min(20_000);
        assert_eq!(c.result.unwrap(), want);
        let got: Vec<u8> = c
            .parts
            .iter()
            .flat_map(|p| p.buf.as_slice()[p.from..p.from + p.len].to_vec())
            .collect();
        assert_eq!(&got[..want], &pattern(20_000)[..want]);
    }
}

#[test]
fn one_engine_has_the_registration_and_the_next_gets_it_after_it() {
    let pool = pool();
    if pool.report().pin != inflight_dio::PinKind::IoUring {
        println!("skipped: {:?}", pool.report().reasons);
        return;
    }
    let first = Engine::new(&pool).unwrap();
    assert_eq!(first.queue_kind(), QueueKind::RingFixed);
    assert_eq!(Engine::new(&pool).unwrap().queue_kind(), QueueKind::Ring);
    drop(first);
    assert_eq!(Engine::new(&pool).unwrap().queue_kind(), QueueKind::RingFixed);
}

#[test]
fn an_iterator_of_any_kind_is_read_into_and_written_from() {
    let (pool, file) = (pool(), file_of(&pattern(40_000)));
    let direct = DirectFile::open(file.path(), true).unwrap();
    let engine = Engine::new(&pool).unwrap();
    let all = pattern(40_000);

    let mut user = [pool.take(8192), pool.take(4096)];
    let mut iter = IoIter::iovec(user.iter_mut());
    assert_eq!(engine.read_iter(&direct, &mut iter, 4096).unwrap(), 12288);
    assert_eq!(iter.remaining(), 0);
    assert_eq!([user[0].as_slice(), user[1].as_slice()].concat(), all[4096..16384]);

    let mut cache = PageMap::new();
    cache.populate(&pool, 0, 40960);
    let mut iter = IoIter::xarray(&mut cache, 0, 40960).unwrap();
    assert_eq!(engine.read_iter(&direct, &mut iter, 0).unwrap(), 40_000, "end of file");
    assert_eq!(iter.remaining(), 960, "moved by what was read");
    let mut source = IoIter::xarray_source(&cache, 0, 40_000).unwrap();
    assert_eq!(iter::crc32c(&mut source, usize::MAX, 0), ::crc32c::crc32c(&all));

    let parts = [1u8, 2, 3].map(|byte| {
        let mut buf = pool.take(4096);
        buf.as_mut_slice().fill(byte);
        Part { buf, from: 0, len: 4096 }
    });
    assert_eq!(engine.write_iter(&direct, &mut IoIter::bvec_source(&parts), 8192).unwrap(), 12288);
    let mut back = vec![0; 12288];
    file.as_file().read_exact_at(&mut back, 8192).unwrap();
    assert!((0..12288).all(|i| back[i] == (i / 4096 + 1) as u8));
}

#[test]
fn more_segments_than_one_call_takes_are_read_in_several() {
    let (pool, file) = (pool(), file_of(&pattern(3000 * 512)));
    let direct = DirectFile::open(file.path(), false).unwrap();
    let block = direct.alignment().offset.max(512);
    let count = 3000 * 512 / block;
    let mut parts: Vec<Part> =
        (0..count).map(|_| Part { buf: pool.take(block), from: 0, len: block }).collect();
    let engine = Engine::new(&pool).unwrap();
    let n = engine.read_iter(&direct, &mut IoIter::bvec(&mut parts), 0).unwrap();
    assert_eq!(n, count * block);
    let got: Vec<u8> = parts.iter().flat_map(|p| p.buf.as_slice().to_vec()).collect();
    assert!(got == pattern(3000 * 512)[..n]);
}

#[test]
fn an_iterator_that_is_not_aligned_or_not_writable_is_einval() {
    let (pool, file) = (pool(), file_of(&pattern(8192)));
    let direct = DirectFile::open(file.path(), true).unwrap();
    let engine = Engine::new(&pool).unwrap();
    let mut buf = pool.take(8192);
    for (from, to, offset) in [(1, 4097, 0), (0, 100, 0), (0, 4096, 5)] {
        let mut iter = IoIter::ubuf(&mut buf.as_mut_slice()[from..to]);
        let e = engine.read_iter(&direct, &mut iter, offset).unwrap_err();
        assert_eq!((e.raw_os_error(), iter.remaining()), (Some(22), to - from));
    }
    let e = engine.read_iter(&direct, &mut IoIter::ubuf(&buf), 0).unwrap_err();
    assert_eq!(e.kind(), std::io::ErrorKind::InvalidInput);
}

/// A ring's requests belong to the thread that entered the kernel with them. When it exits, the
/// kernel cancels what is queued on sockets and the like but finishes what is queued on files and
/// block devices (io_uring/io-wq.c, unbounded and bounded work): writes that extend a file are.
#[test]
fn requests_outlive_the_thread_that_submitted_them() {
    const LEN: usize = 64 << 10;
    let (pool, file) = (pool(), file_of(&[]));
    let direct = Arc::new(DirectFile::open(file.path(), true).unwrap());
    for engine in engines(&pool) {
        file.as_file().set_len(0).unwrap();
        let (engine, (tx, rx)) = (Arc::new(engine), mpsc::channel());
        for thread in 0..4u64 {
            let (engine, pool, tx) = (Arc::clone(&engine), pool.clone(), tx.clone());
            let file = Arc::clone(&direct);
            let submitter = std::thread::spawn(move || {
                engine.submit_batch((0..32).map(|i| {
                    let mut buf = pool.take(LEN);
                    buf.as_mut_slice().fill(thread as u8 + 1);
                    let offset = (i * 4 + thread) * LEN as u64;
                    let file = Arc::clone(&file);
                    let tx = tx.clone();
                    let done: Done = Box::new(move |c| drop(tx.send(c.result)));
                    (Request { file, buf, offset, len: LEN, op: Op::Write }, done)
                }));
            });
            submitter.join().unwrap();
        }
        drop(tx);
        assert_eq!(rx.iter().map(|r| r.unwrap()).collect::<Vec<_>>(), vec![LEN; 128]);
        let mut back = vec![0; 128 * LEN];
        file.as_file().read_exact_at(&mut back, 0).unwrap();
        assert!((0..back.len()).all(|at| back[at] == (at / LEN % 4) as u8 + 1));
    }
}

#[test]
fn many_threads_read_and_write_side_by_side() {
    let (pool, file) = (pool(), file_of(&vec![0; 4 << 20]));
    let direct = DirectFile::open(file.path(), true).unwrap();
    for engine in engines(&pool) {
        std::thread::scope(|scope| {
            for me in 0..8u64 {
                let (engine, pool, direct) = (&engine, &pool, &direct);
                scope.spawn(move || {
                    for round in 0..20u8 {
                        let len = 4096 << (round % 5);
                        let mut buf = pool.take(len);
                        buf.as_mut_slice().fill(round ^ me as u8);
                        let (buf, n) = engine.write_at(direct, buf, me << 19, len);
                        assert_eq!(n.unwrap(), len);
                        let (buf, n) = engine.read_at(direct, buf, me << 19, len);
                        assert_eq!(n.unwrap(), len);
                        assert!(buf.as_slice().iter().all(|&b| b == round ^ me as u8));
                    }
                });
            }
        });
    }
    assert_eq!(pool.report().in_use, 0);
}
