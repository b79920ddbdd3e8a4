//! SP9: a reply is held, cut or failed on its way through the pipe while another file is read beside it.
//!
//! Buffers and pipes are used again and again. What one reply refers to must not be given to the next before it
//! was consumed, and what is left of one that was given up must not be found by the next.

use inflight_gate::Phase;
use nix::errno::Errno;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::event::Actor;
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene, Stamped};
use crate::variant::Variant;

pub const CASE: Case = Case {
    id: "SP9",
    name: "reply-beside",
    claim: "replies share neither memory nor pipes: one that is held, cut or failed takes nothing from its neighbours and gives them nothing",
    groups: &["quick", "splice"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for path in ["read=direct", "read=buffered"] {
        for act in ["hold", "cut", "fail"] {
            for phase in [Phase::Prepared, Phase::Applied, Phase::Piped] {
                all.push(Variant::new(act).phase(phase).mount(path));
            }
        }
    }
    all
}

/// Large enough for the spliced reply path.
const LEN: usize = 65536;
const CUT: usize = 5000;
/// More than there are pipes in one reply.
const TIMES: usize = 4;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let (file, other) = (scene.file(LEN as u64)?, scene.file(LEN as u64)?);
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let parked = scene.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = scene.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    let seq = scene.meet(parked, 1)?[0].id;
    let mut wanted: &[Result<usize, Errno>] = &[Ok(LEN)];
    if scene.race() {
        again(scene, &other)?;
        scene.event(Actor::Racer, variant.act);
        match variant.act {
            "cut" => {
                // The kernel reads the rest, or leaves it at that.
                wanted = &[Ok(CUT), Ok(LEN)];
                scene.stage().gate()?.short(seq, CUT as u32)?;
            }
            "fail" => {
                wanted = &[Err(Errno::EIO)];
                scene.stage().gate()?.fail(seq, libc::EIO)?;
            }
            _ => {}
        }
    }
    scene.release(parked)?;
    let done = scene.finish(flight)?;
    match done {
        Ok(count) if wanted.contains(&done) => {
            scene.judge("the held read", &buffer.bytes(0, count), 0, &[file.generation(1)]);
        }
        _ if wanted.contains(&done) => {}
        _ => drop(scene.count("the held read", done, LEN)),
    }
    again(scene, &other)?;
    again(scene, &file)
}

/// Reads the whole file a few times.
fn again(scene: &mut Scene<'_>, file: &Stamped) -> anyhow::Result<()> {
    let handle = scene.open(file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    for _ in 0..TIMES {
        let done = scene.transfer(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
        if scene.count("a read beside", done, LEN) {
            scene.judge("a read beside", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
        }
    }
    Ok(())
}
