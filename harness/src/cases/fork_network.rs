//! FK5: FK1 on network filesystems, whose replies are held back by a proxy in front of the server.
//!
//! NFS takes references only, on every kernel; cifs takes pins since 6.3. It needs a server on the loopback
//! device and modules that a development machine rarely has, so it is played in a VM.

use crate::case::{Case, Reach};
use crate::scene::Scene;
use crate::variant::Variant;
use crate::verdict::not_run;

pub const CASE: Case = Case {
    id: "FK5",
    name: "fork-network",
    claim: "data of a direct read from a network filesystem reaches the parent across fork and store",
    groups: &["fork", "network"],
    reach: Reach::Any,
    variants: || ["nfs", "cifs"].map(Variant::new).into(),
    run,
    expected: &[],
};

fn run(_: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let kind = if variant.act == "nfs" { "nfs4" } else { "cifs" };
    let known = std::fs::read_to_string("/proc/filesystems")?;
    if !known.split_whitespace().any(|word| word == kind) {
        return Err(not_run(format!("this kernel has no {kind}")));
    }
    Err(not_run(format!("{kind} needs a server behind the holding proxy, which only the VM image has")))
}
