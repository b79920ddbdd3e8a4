//! A power cut on request, over the gate: what was not synced is gone, and the mount stays down or comes back.

use crate::image::BLOCK;
use crate::ops::Fs;
use inflight_fuse::mount::Connection;
use inflight_gate::fault::{AND_BACK, IS_MOUNTED, POWER_CUT};
use inflight_gate::{Gate, ReleasedBy};
use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};

/// Whether the mount comes back when it has gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage(Arc<AtomicBool>);

impl Outage {
    pub fn comes_back(&self) -> bool {
        self.0.load(SeqCst)
    }

    /// Lets clients of `gate` ask for it. The gate outlives no mount, and holds nothing of it.
    pub fn offer(&self, gate: &Arc<Gate>, fs: &Arc<Fs>, mountpoint: &Path) {
        let (of, fs) = (Arc::downgrade(gate), Arc::downgrade(fs));
        let (outage, mountpoint) = (self.clone(), PathBuf::from(mountpoint));
        let answer = move |what: &str| match what {
            IS_MOUNTED => Some(Ok(mountpoint.display().to_string())),
            POWER_CUT => Some(cut(&of, &fs)),
            AND_BACK => Some(cut(&of, &fs).and_then(|said| {
                outage.0.store(true, SeqCst);
                detach(&mountpoint).map(|()| said)
            })),
            _ => None,
        };
        gate.answer_with(Box::new(answer));
    }
}

fn cut(gate: &Weak<Gate>, fs: &Weak<Fs>) -> Result<String, String> {
    let (Some(gate), Some(fs)) = (gate.upgrade(), fs.upgrade()) else {
        return Err("the filesystem is being unmounted".to_owned());
    };
    let store = fs.volume().store();
    if fs.options().read_only {
        return Err("the mount is read-only: there is nothing to lose".to_owned());
    }
    // No commit begins from here on; one that is under way loses its writes, or ends.
    store.shut_down();
    let lost = store.disk().cut();
    // It says that the store is shut down, which is what was asked for.
    let _ = store.settle();
    tracing::warn!("power cut on request");
    gate.open_all(ReleasedBy::Client);
    Ok(match lost {
        Some(bytes) => {
            format!("cut: the last commit stays, {} unflushed blocks are lost", bytes / BLOCK)
        }
        None => "cut: the last commit stays; blocks overwritten since the last flush keep what was written \
                 (mount with -o power_cut to lose that, too)"
            .to_owned(),
    })
}

/// Takes the mount away from whoever uses it, as a reboot would.
fn detach(mountpoint: &Path) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", mountpoint.display());
    // MNT_FORCE aborts the connection (fuse_umount_begin).
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
    match umount2(mountpoint, flags) {
        Ok(()) => return Ok(()),
        Err(nix::errno::Errno::EPERM) => {}
        Err(e) => return Err(failed(&e)),
    }
    let connection = Connection::of_mount(mountpoint).map_err(|e| failed(&e))?;
    let mut helper = Command::new("fusermount3");
    match helper.args(["-q", "-uz", "--"]).arg(mountpoint).status() {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(failed(&format!("fusermount3: {status}"))),
        Err(e) => return Err(failed(&e)),
    }
    // Nobody may have had a file open: then it is over.
    let _ = connection.abort();
    Ok(())
}
