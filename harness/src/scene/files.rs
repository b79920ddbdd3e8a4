//! Stamped files of a scene.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::Context;

use super::{PATIENCE, Scene};
use crate::stamp::{self, Legal};
use crate::sys;
use crate::target::Target;
use crate::verdict::not_run;

/// A stamped file.
#[derive(Clone, Debug)]
pub struct Stamped {
    /// Where.
    pub path: PathBuf,
    /// Its number in the stamps.
    pub id: u64,
    /// Bytes.
    pub len: u64,
}

impl Stamped {
    /// That its content is this generation's.
    pub fn generation(&self, generation: u32) -> Legal {
        Legal::Generation(self.id, generation)
    }

    /// Its content from `offset` on in a generation.
    pub fn content(&self, generation: u32, offset: u64, len: usize) -> Vec<u8> {
        stamp::content(self.id, generation, offset, len)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Through the page cache.
    Buffered,
    /// O_DIRECT.
    Direct,
}

/// Drops what the page cache holds of an open file, as far as it is clean and nobody maps it.
///
/// # Errors
/// Those of posix_fadvise(2).
pub fn forget_pages(handle: &File) -> anyhow::Result<()> {
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    nix::fcntl::posix_fadvise(handle, 0, 0, advice).context("fadvise")
}

impl Scene<'_> {
    /// Makes a file of `len` bytes, stamped with generation 1, on stable storage and out of the page cache.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&mut self, len: u64) -> anyhow::Result<Stamped> {
        let (file, handle) = self.stamped(len)?;
        handle.sync_all().context("fsync")?;
        self.forget(&file)?;
        Ok(file)
    }

    /// The same, written back but not synced: an fsync takes longer than a race, and few races are about it.
    ///
    /// # Errors
    /// As [`Scene::file`].
    pub fn quick_file(&mut self, len: u64) -> anyhow::Result<Stamped> {
        let (file, handle) = self.stamped(len)?;
        sys::write_back(&handle).context("write back")?;
        self.forget(&file)?;
        Ok(file)
    }

    fn stamped(&mut self, len: u64) -> anyhow::Result<(Stamped, File)> {
        let file = Stamped { len, ..self.name() };
        let handle =
            File::create_new(&file.path).with_context(|| file.path.display().to_string())?;
        handle.write_all_at(&file.content(1, 0, len as usize), 0).context("write stamps")?;
        Ok((file, handle))
    }

    /// A name and a number for a file that the case makes itself.
    pub fn name(&mut self) -> Stamped {
        self.files += 1;
        let path = self.folder.join(format!("f{}", self.files));
        Stamped { path, id: self.first_id + self.files, len: 0 }
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// NOTRUN when O_DIRECT is refused, or somebody's server has the kernel wait for what is parked: without
    /// FOPEN_KEEP_CACHE an open drops the pages of the file, those that a parked READ holds among them.
    pub fn open(&self, file: &Stamped, how: Open) -> anyhow::Result<File> {
        let flags = if how == Open::Direct { libc::O_DIRECT } else { 0 };
        let path = file.path.clone();
        let open = move || OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let opened = if matches!(self.stage.target(), Target::Server(_)) {
            let (sender, opened) = std::sync::mpsc::channel();
            std::thread::spawn(move || sender.send(open()));
            let waits =
                |_| not_run("opening the file waits for what is parked: no FOPEN_KEEP_CACHE");
            opened.recv_timeout(PATIENCE).map_err(waits)?
        } else {
            open()
        };
        match opened {
            Err(error) if how == Open::Direct && error.raw_os_error() == Some(libc::EINVAL) => {
                let target = self.stage.target().name();
                Err(not_run(format!("{target} refuses O_DIRECT")))
            }
            other => other.with_context(|| file.path.display().to_string()),
        }
    }

    /// Drops what the page cache holds of a file, and makes the kernel ask for its attributes again.
    ///
    /// # Errors
    /// It does not exist.
    pub fn forget(&self, file: &Stamped) -> anyhow::Result<()> {
        let handle = self.open(file, Open::Buffered)?;
        forget_pages(&handle)?;
        sys::refresh(&file.path)?;
        Ok(())
    }

    /// Rewrites a file's content below the filesystem, in the image, as another generation: the kernel above
    /// does not hear of it. The stamps themselves say where the file lies.
    ///
    /// # Errors
    /// Not an Inflight mount, or the stamps are not found.
    pub fn rewrite_below(&mut self, file: &Stamped, old: u32, new: u32) -> anyhow::Result<()> {
        let image = self.stage.image()?;
        crate::image::rewrite(image, file.id, file.len, old, new)
    }

    /// Smallest direct I/O of the target, in bytes, in file and in memory alike.
    pub fn grain(&self) -> usize {
        // btrfs serves anything smaller than its sector from the page cache.
        if *self.stage.target() == Target::Btrfs { 4096 } else { 512 }
    }
}
