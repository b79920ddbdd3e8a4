//! Histories of operations against a simple filesystem in memory, with power cuts among them.
//!
//! `PROPTEST_CASES` says how many; a failing history is shortened, printed, and kept beside this
//! file, where every later run plays it first.

#[path = "../reference/mod.rs"]
mod reference;

use inflight::disk::{Disk, MemoryDisk, VolatileDisk};
use inflight::fsck;
use inflight::image::BLOCK;
use inflight::image::mkfs::{MkfsOptions, format};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use reference::Op::{self, *};
use reference::{Alloc, Data, Frozen, Model, Path, Player, Rename, View, content_is_legal};
use std::sync::{Arc, OnceLock};

/// Blocks of the filesystem.
const BLOCKS: u64 = 4096;
/// Histories of a run that names no number.
const HISTORIES: u32 = 1500;

/// Seeds of histories that failed.
const FAILED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/failed.txt");

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    Do(Op),
    /// The power goes; which unflushed sectors arrive follows from the number.
    Cut(u64),
    Remount,
}

fn path() -> impl Strategy<Value = Path> {
    select(&["a", "b", "d", "e", "d/a", "d/b", "e/a", "@"][..])
}

fn name() -> impl Strategy<Value = Path> {
    select(&["a", "b", "d", "e", "d/a", "d/b", "e/a"][..])
}

/// Offsets and lengths: on both sides of blocks and sectors.
fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![select(&[0, 1, 511, 512, 4095, 4096, 4097, 8192, 12_288, 16_384][..]), 0..40_000u64,]
}

fn op() -> impl Strategy<Value = Op> {
    let how = select(
        &[Rename::Over, Rename::Over, Rename::NoReplace, Rename::Exchange, Rename::Whiteout][..],
    );
    let alloc = select(&[Alloc::Grow, Alloc::Keep, Alloc::Punch, Alloc::Zero, Alloc::ZeroKeep][..]);
    let key = || select(&["user.x", "user.y"][..]);
    prop_oneof![
        4 => name().prop_map(Create),
        3 => name().prop_map(Mkdir),
        1 => name().prop_map(Symlink),
        1 => Just(Tmpfile),
        2 => (path(), name()).prop_map(|(from, to)| Link(from, to)),
        5 => (name(), name(), how).prop_map(|(from, to, how)| Rename(from, to, how)),
        3 => name().prop_map(Unlink),
        2 => name().prop_map(Rmdir),
        6 => (path(), bytes(), 1..10_000u64).prop_map(|(path, at, len)| Write(path, at, len)),
        2 => (path(), bytes(), 1..10_000u64).prop_map(|(path, at, len)| WriteDirect(path, at, len)),
        3 => (path(), bytes()).prop_map(|(path, size)| Truncate(path, size)),
        4 => (path(), alloc, bytes(), 1..20_000u64)
            .prop_map(|(path, how, at, len)| Fallocate(path, how, at, len)),
        1 => (path(), bytes(), path(), bytes(), 1..9000u64)
            .prop_map(|(from, at, to, to_at, len)| CopyRange(from, at, to, to_at, len)),
        2 => (path(), key(), 0..6000usize).prop_map(|(path, key, len)| SetXattr(path, key, len)),
        1 => (path(), key()).prop_map(|(path, key)| RemoveXattr(path, key)),
        1 => path().prop_map(|path| Chmod(path, 0o600)),
        2 => name().prop_map(Open),
        1 => Just(Close),
        1 => path().prop_map(Fsync),
        1 => path().prop_map(Fdatasync),
        1 => Just(Sync),
        1 => Just(Tick),
        1 => Just(Trim),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => op().prop_map(Step::Do),
        2 => any::<u64>().prop_map(Step::Cut),
        1 => Just(Step::Remount),
    ]
}

/// The filesystem under test, and what it should be.
struct Pair {
    disk: Arc<VolatileDisk>,
    player: Player,
    /// The reference after each operation since everything was last made durable.
    models: Vec<Model>,
}

fn data() -> &'static Data {
    static DATA: OnceLock<Data> = OnceLock::new();
    DATA.get_or_init(Data::default)
}

fn open(disk: &MemoryDisk, serial: u32) -> Result<(Arc<VolatileDisk>, Player), String> {
    let disk = Arc::new(VolatileDisk::new(disk));
    let player = Player::open(disk.clone(), data())?.resume(serial);
    Ok((disk, player))
}

impl Pair {
    fn new() -> Pair {
        static MADE: OnceLock<MemoryDisk> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            let disk = Arc::new(MemoryDisk::new(BLOCKS * BLOCK));
            format(&(disk.clone() as _), &MkfsOptions::default(), BLOCKS).expect("mkfs");
            disk.fork()
        });
        let (disk, player) = open(made, 0).expect("mount");
        Pair { disk, player, models: vec![Model::default()] }
    }

    fn now(&self) -> &Model {
        self.models.last().expect("there is always one")
    }

    fn play(&mut self, op: &Op) -> Result<(), String> {
        let mut next = self.now().clone();
        let (want, got) = (next.apply(op), self.player.play(op));
        if want != got {
            return Err(format!("{op:?} answered {got:?}, not {want:?}"));
        }
        self.models.push(next);
        if *op == Sync && want.is_ok() {
            self.models.drain(..self.models.len() - 1);
        }
        Ok(())
    }

    /// Everything that can be seen is as it should be.
    fn compare(&self) -> Result<(), String> {
        let view = View::read(self.player.fs.volume()).map_err(|e| e.to_string())?;
        let model = self.now();
        for (ino, real) in model.matches(&view)? {
            let want = model.nodes[&ino].content().map(|content| &content[..]).unwrap_or_default();
            if want != view.nodes[&real].content {
                return Err(format!("inode {ino} of the reference has other contents"));
            }
        }
        Ok(())
    }

    /// The power goes and comes back: the state is one of those since the last sync, whole.
    fn cut(&mut self, seed: u64) -> Result<(), String> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let likely = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        let left = self.disk.cut(|_| rng.random_bool(likely)).map_err(|e| e.to_string())?;
        check(&left, false)?;
        let (disk, player) = open(&left, self.now().serial())?;
        let view = View::read(player.fs.volume()).map_err(|e| e.to_string())?;
        let mut differences = Vec::new();
        for model in self.models.iter().rev() {
            match recovered(model, &self.models, &view) {
                Ok(model) => {
                    let models = vec![model.at(self.now().serial())];
                    *self = Pair { disk, player, models };
                    // What a crash leaves is not yet durable as it is seen now.
                    return self.play(&Sync);
                }
                Err(e) => differences.push(e),
            }
        }
        Err(format!("after a power cut: {}", differences.join("; ")))
    }

    fn remount(self) -> Result<Pair, String> {
        let Pair { disk, player, models } = self;
        let mut model = models.into_iter().next_back().expect("there is always one");
        player.unmount().map_err(|e| format!("unmount: {e}"))?;
        model.forget_open();
        let left = disk.cut(|_| false).map_err(|e| e.to_string())?;
        check(&left, true)?;
        let (disk, player) = open(&left, model.serial())?;
        let pair = Pair { disk, player, models: vec![model] };
        pair.compare()?;
        Ok(pair)
    }
}

/// `view` is `model` with contents that are legal; returns it with the contents that there are.
fn recovered(model: &Model, models: &[Model], view: &View) -> Result<Model, String> {
    let mut model = model.clone();
    model.forget_open();
    for (ino, real) in model.matches(view)? {
        let content = &view.nodes[&real].content;
        content_is_legal(content, ino, models)?;
        model.set_content(ino, content.clone());
    }
    Ok(model)
}

/// fsck: no errors, and after an unmount not even a note.
fn check(disk: &MemoryDisk, unmounted: bool) -> Result<(), String> {
    let disk: Arc<dyn Disk> = Arc::new(Frozen(disk.fork()));
    let found = fsck::inspect(&disk).map_err(|e| e.to_string())?.found;
    if found.errors == 0 && !(unmounted && found.total() > 0) {
        return Ok(());
    }
    let list: Vec<String> = found.list.iter().map(|finding| finding.to_string()).collect();
    Err(format!("fsck: {}", list.join("; ")))
}

fn history(steps: &[Step]) -> Result<(), String> {
    let mut pair = Pair::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Do(op) => pair.play(op)?,
            Step::Cut(seed) => pair.cut(*seed)?,
            Step::Remount => pair = pair.remount()?,
        }
        if number % 4 == 3 {
            pair.compare()?;
        }
    }
    pair.compare()?;
    pair.remount().map(drop)
}

fn histories() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(HISTORIES)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: histories(),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(FAILED))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn the_filesystem_is_what_a_simple_one_is(steps in prop::collection::vec(step(), 1..40)) {
        if let Err(e) = history(&steps) {
            return Err(TestCaseError::fail(e));
        }
    }
}
