//! What a reply promises, with a second pipe or a file in place of /dev/fuse.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use inflight_dio::{Pool, PoolConfig, page_size};
use inflight_splice::{FillError, PipePool, ReplyChannel, SendError};

const MIB: usize = 1 << 20;

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 31 + i % 251) as u8).collect()
}

fn pool() -> Pool {
    Pool::new(PoolConfig { slabs: 1, ..PoolConfig::default() }).unwrap()
}

/// A channel into a file, which like /dev/fuse has consumed a splice when it returns.
fn channel() -> (ReplyChannel, std::fs::File) {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sink = OwnedFd::from(file.try_clone().unwrap());
    (ReplyChannel::new(sink, PipePool::new(MIB, 4).unwrap()), file)
}

fn sent(file: &std::fs::File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn pieces_of_every_kind_arrive_in_order_behind_the_header() {
    let (channel, out) = channel();
    let (pool, image) = (pool(), file_of(&pattern(100_000)));
    let mut fill = channel.begin(64 << 10).unwrap();
    assert_eq!(fill.file(image.as_file().as_fd(), 5, 9000).unwrap(), 9000);
    fill.zeros(5000).unwrap();
    let mut buf = pool.take(8192);
    buf.as_mut_slice().fill(7);
    fill.memory(buf, 100, 4096).unwrap();
    assert_eq!(fill.file(image.as_file().as_fd(), 99_000, 5000).unwrap(), 1000, "end of file");
    let filled = fill.finish().unwrap();
    assert_eq!(filled.len(), 9000 + 5000 + 4096 + 1000);
    channel.send(b"sixteen bytes..!", filled).unwrap();
    let mut want = b"sixteen bytes..!".to_vec();
    want.extend(&pattern(100_000)[5..9005]);
    want.extend([0; 5000]);
    want.extend([7; 4096]);
    want.extend(&pattern(100_000)[99_000..]);
    assert_eq!(sent(&out), want);
    assert_eq!(pool.report().in_use, 0);
    assert_eq!((channel.pipes().report().idle, channel.pipes().report().discarded), (2, 0));
}

#[test]
fn a_header_alone_is_a_reply() {
    let (channel, out) = channel();
    channel.send(b"only the header", channel.begin(0).unwrap().finish().unwrap()).unwrap();
    assert_eq!(sent(&out), b"only the header");
}

#[test]
fn the_largest_reply_that_is_promised_fits() {
    let (channel, out) = channel();
    let image = file_of(&pattern(channel.max_payload()));
    for _ in 0..2 {
        let mut fill = channel.begin(channel.max_payload()).unwrap();
        fill.file(image.as_file().as_fd(), 0, channel.max_payload()).unwrap();
        assert_eq!(fill.slots_free(), 0);
        channel.send(&[1; 16], fill.finish().unwrap()).unwrap();
    }
    assert_eq!(sent(&out).len(), 2 * (16 + channel.max_payload()));
    assert_eq!(channel.pipes().report().opened, 2, "one pair served both");
}

#[test]
fn the_largest_reply_fits_from_a_huge_page_too() {
    let (channel, out) = channel();
    let pool = pool();
    let mut fill = channel.begin(channel.max_payload()).unwrap();
    let mut buf = pool.take(channel.max_payload());
    buf.as_mut_slice().copy_from_slice(&pattern(channel.max_payload()));
    fill.memory(buf, 0, channel.max_payload()).unwrap();
    channel.send(&[1; 16], fill.finish().unwrap()).unwrap();
    assert!(sent(&out)[16..] == pattern(channel.max_payload()));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_done() {
    let pipes = PipePool::new(4 * page_size(), 4).unwrap();
    let slots = pipes.report().slots;
    assert!(matches!(pipes.begin(slots * page_size()), Err(FillError::Full { .. })));
    let image = file_of(&pattern(MIB));
    let mut fill = pipes.begin(0).unwrap();
    // The same bytes need one page more when they do not start on a page.
    let len = (slots - 1) * page_size();
    match fill.file(image.as_file().as_fd(), 1, len) {
        Err(FillError::Full { wanted, free, done: 0 }) => {
            assert_eq!((wanted, free), (slots, slots - 1))
        }
        other => panic!("{other:?}"),
    }
    assert!(fill.is_empty());
    assert_eq!(fill.file(image.as_file().as_fd(), 0, len).unwrap(), len);
}

#[test]
fn a_part_of_a_page_takes_a_whole_slot() {
    let pipes = PipePool::new(16 * page_size(), 4).unwrap();
    let mut fill = pipes.begin(0).unwrap();
    let free = fill.slots_free();
    for _ in 0..free {
        fill.zeros(1).unwrap();
    }
    assert!(matches!(fill.zeros(1), Err(FillError::Full { .. })));
    assert_eq!(fill.finish().unwrap().len(), free);
}

#[test]
fn a_pipe_smaller_than_asked_is_reported_as_it_is() {
    let limit: usize =
        std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap().trim().parse().unwrap();
    let pipe = inflight_splice::Pipe::with_capacity(8 * limit).unwrap();
    // With CAP_SYS_RESOURCE all of it may be granted; without, the limit is what there is.
    assert!(pipe.capacity() == 8 * limit || pipe.capacity() <= limit, "{}", pipe.capacity());
    assert!(pipe.fits(pipe.slots()) && !pipe.fits(pipe.slots() + 1));
}

#[test]
fn a_sink_that_takes_less_gives_short_and_the_pipes_are_not_used_again() {
    // A pipe of one slot as sink: it takes the header's page and no more.
    let (mut out, sink) = std::io::pipe().unwrap();
    let sink = OwnedFd::from(sink);
    nix::fcntl::fcntl(&sink, nix::fcntl::FcntlArg::F_SETPIPE_SZ(page_size() as i32)).unwrap();
    let pool = pool();
    let channel = ReplyChannel::new(sink, PipePool::new(64 << 10, 4).unwrap());
    let mut fill = channel.begin(8192).unwrap();
    fill.memory(pool.take(8192), 0, 8192).unwrap();
    assert!(pool.report().in_use > 0, "the reply owns its memory");
    match channel.send(&[9; 16], fill.finish().unwrap()) {
        Err(SendError::Short { sent: 16, len: 8208 }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!((channel.pipes().report().idle, channel.pipes().report().discarded), (0, 2));
    assert_eq!(pool.report().in_use, 0, "and gives it back on failure too");
    let mut head = [0; 16];
    out.read_exact(&mut head).unwrap();
    assert_eq!(head, [9; 16]);
}

#[test]
fn a_reader_that_left_is_disconnected() {
    let (out, sink) = std::io::pipe().unwrap();
    drop(out);
    let channel = ReplyChannel::new(sink.into(), PipePool::new(64 << 10, 4).unwrap());
    let mut fill = channel.begin(100).unwrap();
    fill.zeros(100).unwrap();
    let result = channel.send(&[0; 16], fill.finish().unwrap());
    assert!(matches!(result, Err(SendError::Disconnected)), "{result:?}");
}

#[test]
fn dev_fuse_without_a_mount_is_an_error_and_not_a_success() {
    let Ok(fuse) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
        println!("skipped: no /dev/fuse");
        return;
    };
    let channel = ReplyChannel::new(fuse.into(), PipePool::new(64 << 10, 4).unwrap());
    let mut fill = channel.begin(4096).unwrap();
    fill.zeros(4096).unwrap();
    assert!(channel.send(&[0; 16], fill.finish().unwrap()).is_err());
    assert_eq!(channel.pipes().report().discarded, 2);
}

#[test]
fn a_filling_that_is_dropped_takes_its_pipes_with_it() {
    let pool = pool();
    let pipes = PipePool::new(64 << 10, 4).unwrap();
    let mut fill = pipes.begin(8192).unwrap();
    fill.memory(pool.take(4096), 0, 4096).unwrap();
    drop(fill);
    assert_eq!(pipes.report().discarded, 2);
    assert_eq!(pool.report().in_use, 0);
}

#[test]
fn guards_live_until_the_reply_was_consumed() {
    let (channel, _out) = channel();
    let guard = std::sync::Arc::new(());
    let mut fill = channel.begin(10).unwrap();
    fill.zeros(10).unwrap();
    fill.hold(std::sync::Arc::clone(&guard));
    let filled = fill.finish().unwrap();
    assert_eq!(std::sync::Arc::strong_count(&guard), 2);
    channel.send(b"h", filled).unwrap();
    assert_eq!(std::sync::Arc::strong_count(&guard), 1);
}

#[test]
fn zeroes_are_one_page_however_many() {
    let (channel, _out) = channel();
    let rss = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let send = || {
        let mut fill = channel.begin(channel.max_payload()).unwrap();
        fill.zeros(channel.max_payload()).unwrap();
        fill.finish().unwrap()
    };
    drop(send());
    let before = rss();
    let held: Vec<_> = (0..8).map(|_| send()).collect();
    assert!(rss() < before + 256, "8 fillings of {} bytes", channel.max_payload());
    drop(held);
    let page = inflight_splice::zero_page().unwrap();
    assert!(page.iter().all(|&b| b == 0));
    assert!(std::ptr::eq(page, inflight_splice::zero_page().unwrap()));
}

#[test]
fn a_pipe_that_is_not_empty_is_never_used_again() {
    let pipes = PipePool::new(64 << 10, 4).unwrap();
    let dirty = pipes.take().unwrap();
    nix::unistd::write(dirty.writer(), b"left over").unwrap();
    dirty.give_back();
    assert_eq!((pipes.report().idle, pipes.report().discarded), (0, 1));
    let clean = pipes.take().unwrap();
    assert!(clean.is_empty().unwrap());
    clean.give_back();
    assert_eq!((pipes.report().idle, pipes.report().discarded), (1, 1));
}

#[test]
fn no_more_idle_pipes_are_kept_than_asked() {
    let pipes = PipePool::new(64 << 10, 1).unwrap();
    let three: Vec<_> = (0..3).map(|_| pipes.take().unwrap()).collect();
    three.into_iter().for_each(inflight_splice::PooledPipe::give_back);
    assert_eq!((pipes.report().idle, pipes.report().opened), (1, 3));
}
