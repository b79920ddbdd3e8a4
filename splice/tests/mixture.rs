//! Any mixture of pieces comes out as the bytes that went in, or is refused whole.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use inflight_dio::{Pool, PoolConfig};
use inflight_splice::{FillError, PipePool};
use proptest::prelude::*;

const FILE_LEN: usize = 300_000;

#[derive(Debug, Clone)]
enum Step {
    File { offset: usize, len: usize },
    Memory { from: usize, len: usize, byte: u8 },
    Zeros { len: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..FILE_LEN + 5000, 0..40_000usize).prop_map(|(offset, len)| Step::File { offset, len }),
        (0..5000usize, 0..20_000usize, any::<u8>()).prop_map(|(from, len, byte)| Step::Memory {
            from,
            len,
            byte
        }),
        (0..20_000usize).prop_map(|len| Step::Zeros { len }),
    ]
}

struct Fixture {
    image: std::fs::File,
    bytes: Vec<u8>,
    pool: Pool,
    pipes: PipePool,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let mut image = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let bytes: Vec<u8> = (0..FILE_LEN).map(|i| (i / 512 * 31 + i % 251) as u8).collect();
        image.write_all(&bytes).unwrap();
        let pool = Pool::new(PoolConfig { slabs: 1, ..PoolConfig::default() }).unwrap();
        Fixture { image, bytes, pool, pipes: PipePool::new(128 << 10, 4).unwrap() }
    })
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(steps in prop::collection::vec(step(), 0..12)) {
        let f = fixture();
        let mut fill = f.pipes.begin(0).unwrap();
        let mut want = Vec::new();
        for step in steps {
            let free = fill.slots_free();
            let (result, bytes) = match step {
                Step::File { offset, len } => {
                    let end = (offset + len).min(FILE_LEN);
                    let bytes = f.bytes[offset.min(end)..end].to_vec();
                    let result = fill.file(f.image.as_fd(), offset as u64, len);
                    (result.inspect(|&n| assert_eq!(n, bytes.len())).map(drop), bytes)
                }
                Step::Memory { from, len, byte } => {
                    let mut buf = f.pool.take(from + len);
                    buf.as_mut_slice().fill(byte);
                    (fill.memory(buf, from, len), vec![byte; len])
                }
                Step::Zeros { len } => (fill.zeros(len), vec![0; len]),
            };
            match result {
                Ok(()) => want.extend(bytes),
                Err(FillError::Full { wanted, done: 0, .. }) => prop_assert!(wanted > free),
                Err(other) => panic!("{other:?}"),
            }
            prop_assert_eq!(fill.len(), want.len());
        }
        let filled = fill.finish().unwrap();
        let mut got = vec![0; filled.len()];
        let reader = filled.pipe().reader().try_clone_to_owned().unwrap();
        std::fs::File::from(reader).read_exact(&mut got).unwrap();
        prop_assert!(filled.pipe().is_empty().unwrap());
        prop_assert!(got == want);
        drop(filled);
        prop_assert_eq!(f.pool.report().in_use, 0);
    }
}
