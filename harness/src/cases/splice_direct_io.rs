//! SP1: splice of a file that the server serves without cache (FOPEN_DIRECT_IO), opened without O_DIRECT.
//!
//! read(2) of such a file asks the server each time. Since 6.5 splice(2) and sendfile(2) take the page cache
//! instead: what was spliced once is spliced for ever, whatever the server has by then.

use std::os::fd::AsFd;

use anyhow::Context;

use crate::case::{Case, Reach};
use crate::event::Actor;
use crate::expect::Expected;
use crate::kernel::Version;
use crate::pipe::Pipe;
use crate::scene::{Open, Scene};
use crate::variant::Variant;
use crate::verdict::Class;

pub const CASE: Case = Case {
    id: "SP1",
    name: "splice-direct-io",
    claim: "splice of an uncached (FOPEN_DIRECT_IO) file returns what read returns: what the server has now",
    groups: &["quick", "splice"],
    reach: Reach::Fuse,
    variants: || ["splice", "sendfile"].map(|act| Variant::new(act).mount("direct_io")).into(),
    run,
    expected: &[Expected {
        on: "inflight",
        variant: "*",
        classes: &[Class::Stale],
        since: Version(6, 5, 0),
        until: None,
        fixed_in: &[],
        reference: "fuse: splice of FOPEN_DIRECT_IO, lore 20260513231437.1806724-1-joannelkoong@gmail.com",
    }],
};

const LEN: usize = 8192;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Buffered)?;
    let mut pipe = Pipe::new()?;
    pipe.fill(&handle, Some(0), LEN).context("the first splice")?;
    let bytes = pipe.drain()?;
    scene.judge("first splice", &bytes, 0, &[file.generation(1)]);
    let generation = if scene.race() {
        scene.event(Actor::Racer, "the server has new data");
        scene.rewrite_below(&file, 1, 2)?;
        2
    } else {
        1
    };
    let read = scene.read(&handle, 0, LEN)?.context("read")?;
    scene.judge("read", &read, 0, &[file.generation(generation)]);
    anyhow::ensure!(scene.faults.is_empty(), "read(2) does not see it: {:?}", scene.faults);
    let bytes = if variant.act == "sendfile" {
        let target = tempfile::tempfile()?;
        let mut offset = 0;
        nix::sys::sendfile::sendfile64(target.as_fd(), handle.as_fd(), Some(&mut offset), LEN)
            .context("sendfile")?;
        crate::sys::contents(&target)?
    } else {
        pipe.fill(&handle, Some(0), LEN).context("the second splice")?;
        pipe.drain()?
    };
    scene.count("second transfer", Ok(bytes.len()), LEN);
    scene.judge("second transfer", &bytes, 0, &[file.generation(generation)]);
    Ok(())
}
