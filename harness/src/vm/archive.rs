//! An initramfs: files and folders in a cpio archive, programs together with their shared libraries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use cpio::newc::{Builder, ModeFileType, trailer};

/// A cpio archive in the format `newc` that is being written.
pub struct Archive {
    file: BufWriter<File>,
    names: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Archive {
    /// An empty archive in an empty file.
    pub fn new(file: File) -> Archive {
        Archive { file: BufWriter::new(file), names: BTreeSet::new() }
    }

    /// Adds a folder, and those above it. What is there already stays.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn folder(&mut self, path: &str) -> anyhow::Result<()> {
        let path = Path::new(path);
        let above: Vec<_> = path.ancestors().collect();
        for folder in above.into_iter().rev() {
            self.entry(folder, ModeFileType::Directory, 0o755, &[])?;
        }
        Ok(())
    }

    /// Adds a file, with the folders above it.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn add(&mut self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.parent(path)?;
        self.entry(Path::new(path), ModeFileType::Regular, 0o755, bytes)
    }

    /// Adds a symbolic link, with the folders above it.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn link(&mut self, path: &str, to: &str) -> anyhow::Result<()> {
        self.parent(path)?;
        self.entry(Path::new(path), ModeFileType::Symlink, 0o777, to.as_bytes())
    }

    /// Adds a program of this machine, without its symbols, and the shared libraries that it needs.
    ///
    /// # Errors
    /// It is not there, or the archive cannot be written.
    pub fn program(&mut self, path: &str, program: &Path) -> anyhow::Result<()> {
        self.add(path, &stripped(program)?)?;
        for library in libraries(program)? {
            let bytes = fs::read(&library).with_context(|| library.display().to_string())?;
            self.add(&library.to_string_lossy(), &bytes)?;
        }
        Ok(())
    }

    /// Ends the archive; gives its file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self) -> anyhow::Result<File> {
        let file = trailer(self.file)?;
        file.into_inner().map_err(|error| error.into_error()).context("write the archive")
    }

    fn parent(&mut self, path: &str) -> anyhow::Result<()> {
        let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
        self.folder(&parent.to_string_lossy())
    }

    fn entry(
        &mut self,
        path: &Path,
        kind: ModeFileType,
        mode: u32,
        bytes: &[u8],
    ) -> anyhow::Result<()> {
        let name = path.strip_prefix("/").unwrap_or(path);
        if name.as_os_str().is_empty() || !self.names.insert(name.to_owned()) {
            return Ok(());
        }
        let name = std::str::from_utf8(name.as_os_str().as_bytes())?;
        let builder = Builder::new(name).mode(mode).set_mode_file_type(kind);
        let builder = builder.ino(self.names.len() as u32).nlink(1);
        let mut writer = builder.write(&mut self.file, u32::try_from(bytes.len())?);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }
}

/// A program's bytes without symbols, which only cost time at boot; as it is where there is no strip(1).
fn stripped(program: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = || fs::read(program).with_context(|| program.display().to_string());
    let thin = tempfile::NamedTempFile::new()?;
    let status = Command::new("strip").arg("-o").arg(thin.path()).arg(program).status();
    if status.is_ok_and(|status| status.success()) { Ok(fs::read(thin.path())?) } else { bytes() }
}

/// The shared libraries of a program, its loader among them; none for one that is linked statically.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let missing = text.lines().find(|line| line.contains("not found"));
    ensure!(missing.is_none(), "{}: {}", program.display(), missing.unwrap_or("").trim());
    Ok(text.lines().filter_map(library).collect())
}

/// The file in a line of ldd(1): `libc.so.6 => /lib/libc.so.6 (0x0)`, or `/lib64/ld-linux-x86-64.so.2 (0x0)`.
fn library(line: &str) -> Option<PathBuf> {
    let place = line.rsplit("=>").next()?.split('(').next()?.trim();
    place.starts_with('/').then(|| PathBuf::from(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn the_archive_holds_every_folder_before_its_files_and_everything_once() {
        let mut archive = Archive::new(tempfile::tempfile().unwrap());
        archive.add("/a/b/file", b"text").unwrap();
        archive.add("/a/b/file", b"again").unwrap();
        archive.link("/a/link", "b/file").unwrap();
        let mut file = archive.finish().unwrap();
        file.rewind().unwrap();
        let mut found = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(file).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            found.push((name, mode, text));
            file = reader.finish().unwrap();
        }
        let found: Vec<_> =
            found.iter().map(|(name, mode, text)| (&**name, *mode, &**text)).collect();
        let wanted = [
            ("a", 0o040_755, ""),
            ("a/b", 0o040_755, ""),
            ("a/b/file", 0o100_755, "text"),
            ("a/link", 0o120_777, "b/file"),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_program_comes_with_its_libraries() {
        let program = std::env::current_exe().unwrap();
        let libraries = libraries(&program).unwrap();
        let has = |part: &str| libraries.iter().any(|file| file.to_string_lossy().contains(part));
        assert!(has("libc.so") && has("ld-linux"), "{libraries:?}");
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        // ldconfig(8) is linked statically, for it repairs what the others need.
        let alone = Path::new("/sbin/ldconfig");
        assert!(!alone.exists() || super::libraries(alone).unwrap().is_empty());
    }
}
