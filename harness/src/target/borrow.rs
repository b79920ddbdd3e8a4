//! Settings of the kernel that cases change, and that get their old value when the last run that changed them ends.
//!
//! Runs of one machine share a note for each setting, which holds the old value and who uses the setting.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Where the machine's notes lie. They need not survive a reboot: neither do the settings.
const NOTES: &str = "/run/inflight-race";

/// Beginning of the names by which a session knows what it has borrowed.
const BORROWED: &str = "borrowed";

/// A machine's note on one setting.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// What it was before anybody changed it.
    before: String,
    /// Folders of the sessions that use it.
    users: Vec<PathBuf>,
}

/// Changes a setting, a file in /proc/sys or /sys, until the session of this folder ends.
///
/// # Errors
/// We may not change it, or this kernel does not have it.
pub fn borrow(session: &Path, setting: &str, value: &str) -> anyhow::Result<()> {
    change(setting, |note| {
        let now = fs::read_to_string(setting).with_context(|| setting.to_owned())?;
        if note.users.is_empty() {
            note.before = now;
        }
        if note.users.iter().any(|user| user == session) {
            return set(setting, value);
        }
        let mark = session.join(format!("{BORROWED}{}", name(setting)));
        fs::write(&mark, "").with_context(|| mark.display().to_string())?;
        match set(setting, value) {
            Ok(()) => note.users.push(session.to_owned()),
            Err(error) => {
                fs::remove_file(&mark)?;
                return Err(error);
            }
        }
        Ok(())
    })
}

/// Gives back what a session has borrowed.
///
/// # Errors
/// A setting could not be given back.
pub fn give_back(session: &Path) -> anyhow::Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(session).into_iter().flatten().flatten() {
        let mark = entry.file_name().to_string_lossy().into_owned();
        let Some(setting) = mark.strip_prefix(BORROWED).map(|name| name.replace('!', "/")) else {
            continue;
        };
        let given = change(&setting, |note| {
            note.users.retain(|user| user != session);
            if note.users.is_empty() { set(&setting, &note.before) } else { Ok(()) }
        });
        result = result.and(given);
    }
    result
}

fn set(setting: &str, value: &str) -> anyhow::Result<()> {
    fs::write(setting, value).with_context(|| format!("write {} to {setting}", value.trim()))
}

fn name(setting: &str) -> String {
    setting.replace('/', "!")
}

/// Lets nobody else change a note meanwhile. Sessions that are gone use nothing any more.
fn change(setting: &str, edit: impl FnOnce(&mut Note) -> anyhow::Result<()>) -> anyhow::Result<()> {
    fs::create_dir_all(NOTES).context(NOTES)?;
    let lock = Flock::lock(File::open(NOTES).context(NOTES)?, FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, errno)| errno).context(NOTES)?;
    let path = Path::new(NOTES).join(name(setting));
    let what = || path.display().to_string();
    let text = fs::read(&path).unwrap_or_default();
    let mut note: Note = serde_json::from_slice(&text).unwrap_or_default();
    note.users.retain(|user| user.is_dir());
    let result = edit(&mut note);
    if !note.users.is_empty() {
        fs::write(&path, serde_json::to_vec(&note)?).with_context(what)?;
    } else if path.exists() {
        fs::remove_file(&path).with_context(what)?;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_given_back_as_it_was_by_the_last_who_used_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root changes settings");
            return;
        }
        let folder = || tempfile::tempdir().unwrap();
        let (first, second, third, place) = (folder(), folder(), folder(), folder());
        let setting = place.path().join("setting").display().to_string();
        let now = || fs::read_to_string(&setting).unwrap();
        fs::write(&setting, "7\n").unwrap();
        for session in [&first, &first, &second, &third] {
            borrow(session.path(), &setting, "1").unwrap();
        }
        drop(third);
        give_back(first.path()).unwrap();
        assert_eq!(now(), "1");
        give_back(second.path()).unwrap();
        assert_eq!(now(), "7\n");
        assert!(borrow(first.path(), "/proc/sys/no/such", "1").is_err());
        assert!(!Path::new(NOTES).join(name(&setting)).exists());
    }
}
