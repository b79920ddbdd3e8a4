//! The workloads, in the manner of ACE (the generator of CrashMonkey, OSDI 2018): all sequences of
//! one and of two operations from a list, each followed by one that promises something, and some
//! of three.

use crate::reference::Op::{self, *};
use crate::reference::{Alloc, Path, Rename};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// What every workload begins with: a file of two and a half blocks, one in a directory, with an
/// attribute, another one, whose blocks are those behind it, and an empty directory.
pub const BEGIN: &[Op] = &[
    Create("a"),
    Write("a", 0, 10_000),
    Mkdir("d"),
    Create("d/a"),
    Write("d/a", 0, 4096),
    SetXattr("d/a", "user.x", 50),
    Create("c"),
    Write("c", 0, 8192),
    Mkdir("e"),
    Sync,
];

/// The operations that are combined.
pub const OPS: &[Op] = &[
    Create("b"),
    Create("d/b"),
    Mkdir("b"),
    Mkdir("d/b"),
    Symlink("b"),
    Link("a", "b"),
    Link("a", "d/b"),
    Link("@", "b"),
    Tmpfile,
    Rename("a", "b", Rename::Over),
    Rename("a", "d/a", Rename::Over),
    Rename("d/a", "a", Rename::Over),
    Rename("a", "b", Rename::NoReplace),
    Rename("a", "d/a", Rename::Exchange),
    Rename("a", "d", Rename::Exchange),
    Rename("a", "b", Rename::Whiteout),
    Rename("d", "b", Rename::Over),
    Rename("d", "e", Rename::Over),
    Rename("d", "e", Rename::Exchange),
    Rename("e", "d/b", Rename::Over),
    Unlink("a"),
    Unlink("d/a"),
    Unlink("c"),
    Rmdir("e"),
    Write("a", 0, 4096),
    Write("a", 1000, 3000),
    Write("a", 10_000, 5000),
    Write("a", 40_960, 100),
    Write("d/a", 4000, 200),
    Write("d/a", 4096, 3000),
    Write("@", 0, 9000),
    WriteDirect("a", 8192, 8192),
    WriteDirect("d/a", 512, 1024),
    WriteDirect("a", 100, 5000),
    Truncate("a", 0),
    Truncate("a", 5000),
    Truncate("a", 4096),
    Truncate("a", 20_000),
    Fallocate("a", Alloc::Grow, 8000, 20_000),
    Fallocate("a", Alloc::Keep, 12_288, 8192),
    Fallocate("a", Alloc::Punch, 100, 8000),
    Fallocate("a", Alloc::Punch, 4096, 4096),
    Fallocate("a", Alloc::Zero, 1000, 15_000),
    Fallocate("a", Alloc::ZeroKeep, 0, 16_384),
    CopyRange("a", 0, "d/a", 100, 6000),
    SetXattr("a", "user.x", 100),
    SetXattr("d/a", "user.x", 5000),
    RemoveXattr("d/a", "user.x"),
    Chmod("a", 0o600),
    Open("a"),
    Close,
    Tick,
    Trim,
];

/// Operations to be played one after the other.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Which one: `INFLIGHT_WORKLOAD` takes it.
    pub name: String,
    pub ops: Vec<Op>,
    /// The filesystem is unmounted afterwards.
    pub unmount: bool,
}

/// What a user would fsync after `op`.
fn subject(op: &Op) -> Path {
    match *op {
        Create(path) | Symlink(path) | Link(_, path) | Rename(_, path, _) => path,
        Write(path, ..) | WriteDirect(path, ..) | Truncate(path, _) => path,
        Fallocate(path, ..) | SetXattr(path, ..) | RemoveXattr(path, _) | Chmod(path, _) => path,
        CopyRange(_, _, path, ..) | Mkdir(path) | Open(path) => path,
        Tmpfile => "@",
        _ => "",
    }
}

/// What may follow an operation that is not the last one.
fn between(op: &Op, which: usize) -> Option<Op> {
    [None, Some(Fsync(subject(op))), Some(Tick)][which % 3]
}

fn at_last(op: &Op, which: usize) -> Op {
    [Fsync(subject(op)), Sync, Fdatasync(subject(op))][which % 3]
}

/// One operation, and every kind of promise about it, and none.
pub fn of_one() -> Vec<Workload> {
    let mut all = Vec::new();
    for (i, op) in OPS.iter().enumerate() {
        for which in 0..3 {
            let ops = vec![*op, at_last(op, which)];
            all.push(Workload { name: format!("1/{i}/{which}"), ops, unmount: false });
        }
        all.push(Workload { name: format!("1/{i}/unmount"), ops: vec![*op], unmount: true });
    }
    all
}

/// The number of an operation in the list.
#[cfg(feature = "mutants")]
pub fn number(op: Op) -> usize {
    OPS.iter().position(|listed| *listed == op).expect("one of the list")
}

/// All pairs.
pub fn of_two() -> Vec<Workload> {
    let mut all = Vec::new();
    for (i, first) in OPS.iter().enumerate() {
        for (j, second) in OPS.iter().enumerate() {
            let mut ops = vec![*first];
            ops.extend(between(first, i + j));
            ops.extend([*second, at_last(second, i / 3 + j)]);
            all.push(Workload { name: format!("2/{i}/{j}"), ops, unmount: false });
        }
    }
    all
}

/// Some sequences of three.
pub fn of_three(rng: &mut ChaCha8Rng, count: usize) -> Vec<Workload> {
    let mut all = Vec::new();
    for number in 0..count {
        let mut ops = Vec::new();
        for _ in 0..3 {
            let op = OPS[rng.random_range(0..OPS.len())];
            ops.push(op);
            ops.extend(between(&op, rng.random_range(0..3)));
        }
        let last = at_last(ops.last().unwrap_or(&Tick), rng.random_range(0..3));
        ops.push(last);
        let unmount = rng.random_range(0..8) == 0;
        all.push(Workload { name: format!("3/{number}"), ops, unmount });
    }
    all
}

/// Stores to a mapping of a file, and pages that come late, in any order, and some not before the power goes: around each
/// operation that the kernel does not wait with until they came.
pub fn mapped() -> Vec<Workload> {
    let waits = |op: &Op| match *op {
        Write(path, ..) | WriteDirect(path, ..) | Fallocate(path, ..) => ["a", "@"].contains(&path),
        CopyRange(from, _, to, ..) => [from, to].contains(&"a"),
        Open(_) | Close | Tmpfile => true,
        // The rest of a page that is cut in its middle comes over what the disk did not cut yet: a mix of more versions of
        // a sector than the reference knows, and no promise.
        Truncate("a", size) => size % 4096 != 0 && size < 10_000,
        _ => false,
    };
    let page = |page| WriteBack("@", page);
    let mut all = Vec::new();
    for (i, op) in OPS.iter().enumerate().filter(|(_, op)| !waits(op)) {
        let stored = [Open("a"), Store("@", 100, 9900)];
        let orders = [[2, 0, 1], [1, 2, 0], [0, 2, 1]];
        let [first, second, third] = orders[i % 3].map(page);
        // fsync(2) waits for all pages, then asks; syncfs(2) waits for them and asks nothing.
        let fsync = vec![*op, first, second, third, Fsync("@")];
        let between = vec![first, *op, second, Tick, Store("@", 12_288, 5000), third, page(3)];
        let between = [between, vec![page(4), Fdatasync("@")]].concat();
        let syncfs = vec![first, Store("@", 0, 4096), second, *op, third, page(0)];
        let ends = [fsync, between, syncfs];
        for (which, end) in ends.into_iter().enumerate().filter(|(which, _)| (which + i) % 3 < 2) {
            let ops = [&stored[..], &end].concat();
            all.push(Workload { name: format!("mapped/{i}/{which}"), ops, unmount: which == 2 });
        }
    }
    // Pages over holes and over blocks that were only reserved.
    let before = [
        Truncate("a", 20_000),
        Fallocate("a", Alloc::Grow, 8000, 20_000),
        Fallocate("a", Alloc::Punch, 100, 8000),
        Fallocate("a", Alloc::ZeroKeep, 0, 16_384),
    ];
    for (i, op) in before.into_iter().enumerate() {
        let ops = [op, Open("a"), Store("@", 100, 9900), Store("@", 12_288, 5000)];
        let pages = [4, 0, 3, 1, 2].map(page);
        let ops = [&ops[..], &pages, &[Fsync("@"), Unlink("a"), Sync]].concat();
        all.push(Workload { name: format!("mapped/holes/{i}"), ops, unmount: i == 1 });
    }
    all
}

/// So many and so large attributes that the metadata area must grow, three times over.
pub fn growth() -> Vec<Workload> {
    const NAMES: [&str; 8] =
        ["user.0", "user.1", "user.2", "user.3", "user.4", "user.5", "user.6", "user.7"];
    let fill = |path: Path| NAMES.map(|name| SetXattr(path, name, 60_000)).to_vec();
    let mut all = Vec::new();
    for (number, end) in [Sync, Tick, Fsync("a")].into_iter().enumerate() {
        let mut ops = fill("a");
        ops.push(end);
        ops.extend(fill("d/a"));
        ops.extend([Create("b"), end]);
        ops.extend(fill("b"));
        ops.extend([Sync, Unlink("b"), Sync, Write("a", 0, 9000), Fsync("a")]);
        let unmount = number == 1;
        all.push(Workload { name: format!("growth/{number}"), ops, unmount });
    }
    all
}
