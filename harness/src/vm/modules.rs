//! A folder of kernel modules: what is there, what is built in, and what must be loaded before what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// `lib/modules/RELEASE`.
#[derive(Debug)]
pub struct Modules {
    folder: PathBuf,
    /// Name to file and the files that it needs, nearest first, as depmod(8) writes them.
    dependencies: BTreeMap<String, (String, Vec<String>)>,
    built_in: BTreeSet<String>,
}

/// How a kernel comes by something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Compiled into it.
    BuiltIn,
    /// A module.
    Module,
    /// Neither.
    Missing,
}

impl Modules {
    /// Reads the lists in a folder.
    ///
    /// # Errors
    /// It has no modules.dep.
    pub fn open(folder: &Path) -> anyhow::Result<Modules> {
        let path = folder.join("modules.dep");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut dependencies = BTreeMap::new();
        for line in text.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            dependencies.insert(name(file), (file.to_owned(), needs));
        }
        let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let built_in = built_in.lines().map(name).collect();
        Ok(Modules { folder: folder.to_owned(), dependencies, built_in })
    }

    /// How the kernel comes by a module of this name.
    pub fn presence(&self, module: &str) -> Presence {
        if self.dependencies.contains_key(module) {
            Presence::Module
        } else if self.built_in.contains(module) {
            Presence::BuiltIn
        } else {
            Presence::Missing
        }
    }

    /// The files to load for these modules, each behind all that it needs. Those that are not modules are left out.
    pub fn order(&self, wanted: &[&str]) -> Vec<PathBuf> {
        let mut files: Vec<&str> = Vec::new();
        for module in wanted {
            let Some((file, needs)) = self.dependencies.get(*module) else { continue };
            // depmod lists everything that is needed, also indirectly, and what needs nothing last.
            for file in needs.iter().rev().chain([file]) {
                if !files.contains(&file.as_str()) {
                    files.push(file);
                }
            }
        }
        files.into_iter().map(|file| self.folder.join(file)).collect()
    }
}

/// The name by which the kernel knows a module's file.
pub fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// A module's bytes, unpacked where it is compressed.
///
/// # Errors
/// It cannot be read, or the program that unpacks it is not there.
pub fn bytes(file: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || file.display().to_string();
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(file).with_context(what),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("{}: a kind of module that is not known", what()),
    };
    let output = Command::new(program).arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("{program}, which unpacks {}", what()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", what(), error.trim());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_behind_what_they_need() {
        let folder = tempfile::tempdir().unwrap();
        let list = "kernel/fs/xfs/xfs.ko.xz: kernel/lib/libcrc32c.ko.xz kernel/crypto/crc32c-x.ko\n\
                    kernel/lib/libcrc32c.ko.xz: kernel/crypto/crc32c-x.ko\n\
                    kernel/crypto/crc32c-x.ko:\n\
                    kernel/drivers/loop.ko:\n";
        fs::write(folder.path().join("modules.dep"), list).unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        let modules = Modules::open(folder.path()).unwrap();
        let order = modules.order(&["loop", "xfs", "crc32c_x", "ext4", "nothing"]);
        let order: Vec<_> = order.iter().map(|file| name(&file.to_string_lossy())).collect();
        assert_eq!(order, ["loop", "crc32c_x", "libcrc32c", "xfs"]);
        assert_eq!(modules.presence("xfs"), Presence::Module);
        assert_eq!(modules.presence("ext4"), Presence::BuiltIn);
        assert_eq!(modules.presence("fuse"), Presence::Missing);
        assert!(Modules::open(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.ko");
        fs::write(&file, b"module").unwrap();
        assert_eq!(bytes(&file).unwrap(), b"module");
        assert!(Command::new("gzip").arg("-k").arg(&file).status().unwrap().success());
        assert_eq!(bytes(&folder.path().join("some.ko.gz")).unwrap(), b"module");
        fs::write(folder.path().join("bad.ko.gz"), b"nothing").unwrap();
        assert!(bytes(&folder.path().join("bad.ko.gz")).is_err());
    }
}
