//! Making, linking, renaming and removing names.

use crate::errno::{Error, Result};
use crate::image::tables::{Attr, INODE_MAX, INODES_USED, InodeRow, NEXT_INODE, Tables, Time};
use crate::volume::inode::Inode;
use crate::volume::names::check_name;
use crate::volume::orphans::count;
use crate::volume::{CAPABILITY, Volume};
use nix::errno::Errno;
use redb::ReadableTable as _;
use std::sync::Arc;
use zerocopy::IntoBytes as _;

/// Most names of one inode, as in ext4.
const LINK_MAX: u32 = 65_000;
/// Directories between the root and a file, at most: parents that form a circle end here.
const DEPTH_MAX: u32 = 1 << 20;
/// FS_IMMUTABLE_FL and FS_APPEND_FL of ioctl_iflags(2).
const FROZEN: u32 = 0x10 | 0x20;
const IMMUTABLE: u32 = 0x10;

/// What a new inode begins with.
#[derive(Clone, Debug)]
pub struct NewInode {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for device nodes.
    pub rdev: u32,
    /// Target, for symlinks.
    pub target: Option<Vec<u8>>,
    /// Attributes that come with it: inherited ACLs.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// FS_*_FL bits that come with it.
    pub flags: u32,
    /// Project id.
    pub project: u32,
}

impl Volume {
    /// Makes an inode and its name.
    ///
    /// # Errors
    /// EEXIST, ENOENT when the directory is gone, ENOSPC, EPERM in an immutable directory.
    pub fn make(&self, parent: u64, name: &[u8], new: &NewInode) -> Result<Arc<Inode>> {
        check_name(name)?;
        self.change(|tables| {
            let dir = self.open_dir(tables, parent)?;
            if self.find_name(&tables.view(), parent, name)?.is_some() {
                return Err(Errno::EEXIST.into());
            }
            let is_dir = new.mode & libc::S_IFMT == libc::S_IFDIR;
            if is_dir && dir.read().attr.nlink >= LINK_MAX {
                return Err(Errno::EMLINK.into());
            }
            let inode = self.make_inode(tables, new, if is_dir { 2 } else { 1 }, parent)?;
            self.put_name(tables, parent, name, inode.ino, new.mode)?;
            self.dir_changed(&dir, 1, i32::from(is_dir));
            Ok(inode)
        })
    }

    /// Makes a file without a name (O_TMPFILE). It is an orphan until somebody links it.
    pub fn make_unnamed(&self, parent: u64, new: &NewInode) -> Result<Arc<Inode>> {
        self.change(|tables| {
            self.open_dir(tables, parent)?;
            let inode = self.make_inode(tables, new, 0, parent)?;
            tables.orphans.insert(inode.ino, ())?;
            Ok(inode)
        })
    }

    fn make_inode(
        &self,
        tables: &mut Tables<'_>,
        new: &NewInode,
        nlink: u32,
        parent: u64,
    ) -> Result<Arc<Inode>> {
        if !self.store.has_room() {
            return Err(Errno::ENOSPC.into());
        }
        let ino = tables.counters.get(NEXT_INODE)?.map_or(2, |v| v.value());
        if !(2..=INODE_MAX).contains(&ino) || tables.inodes.get(ino)?.is_some() {
            return Err(Error::Corrupt(format!("counter {NEXT_INODE} is wrong: {ino}")));
        }
        tables.counters.insert(NEXT_INODE, ino + 1)?;
        let now = Time::now();
        let is_dir = new.mode & libc::S_IFMT == libc::S_IFDIR;
        let attr = Attr {
            mode: new.mode,
            nlink,
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            flags: new.flags,
            xflags: 0,
            project: new.project,
            // Numbers are never reused, so any constant would do; NFS likes it to look random.
            generation: (ino as u32).wrapping_mul(0x9E37_79B9) | 1,
            size: new.target.as_ref().map_or(0, |t| t.len() as u64),
            blocks: 0,
            parent: if is_dir { parent } else { 0 },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        tables.inodes.insert(ino, InodeRow::new(&attr).as_bytes())?;
        if let Some(target) = &new.target {
            tables.targets.insert(ino, target.as_slice())?;
        }
        for (name, value) in &new.xattrs {
            tables.xattrs.insert((ino, name.as_slice()), value.as_slice())?;
        }
        count(tables, INODES_USED, 1)?;
        let inode = self.inodes.insert(Inode::new(ino, attr, Some(Default::default())));
        let is_capable = new.xattrs.iter().any(|(name, _)| name == CAPABILITY);
        inode.write().is_capable = Some(is_capable);
        // Until its first commit the cache may not drop it: its row would not say what is pending.
        self.update(&inode, true, |_| ());
        Ok(inode)
    }

    /// Adds a name to an inode.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Arc<Inode>> {
        check_name(name)?;
        self.change(|tables| {
            let dir = self.open_dir(tables, parent)?;
            let inode = self.inode_in(&tables.view(), ino)?;
            let attr = inode.attr();
            if attr.is_dir() || attr.flags & FROZEN != 0 {
                return Err(Errno::EPERM.into());
            }
            if attr.nlink >= LINK_MAX {
                return Err(Errno::EMLINK.into());
            }
            if self.find_name(&tables.view(), parent, name)?.is_some() {
                return Err(Errno::EEXIST.into());
            }
            if !self.store.has_room() {
                return Err(Errno::ENOSPC.into());
            }
            self.put_name(tables, parent, name, ino, attr.mode)?;
            tables.orphans.remove(ino)?;
            self.relink(&inode, 1);
            self.dir_changed(&dir, 1, 0);
            Ok(inode)
        })
    }

    /// Removes a name; `directory` says whether rmdir(2) or unlink(2) asks.
    pub fn remove(&self, parent: u64, name: &[u8], directory: bool) -> Result<()> {
        if name.len() > crate::volume::NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        self.change(|tables| {
            let dir = self.open_dir(tables, parent)?;
            if dir.read().attr.flags & FROZEN != 0 {
                return Err(Errno::EPERM.into());
            }
            let ino = self.find_name(&tables.view(), parent, name)?.ok_or(Errno::ENOENT)?;
            let inode = self.inode_in(&tables.view(), ino)?;
            self.check_removable(tables, &inode, directory)?;
            self.drop_name(tables, parent, name)?;
            self.dir_changed(&dir, -1, -i32::from(directory));
            self.unlinked(tables, &inode)
        })
    }

    fn check_removable(&self, tables: &Tables<'_>, inode: &Inode, directory: bool) -> Result<()> {
        let attr = inode.attr();
        let refusal = match (attr.is_dir(), directory) {
            _ if attr.flags & FROZEN != 0 => Some(Errno::EPERM),
            (true, false) => Some(Errno::EISDIR),
            (false, true) => Some(Errno::ENOTDIR),
            (true, true) if !self.is_empty_dir(tables, inode.ino)? => Some(Errno::ENOTEMPTY),
            _ => None,
        };
        refusal.map_or(Ok(()), |e| Err(e.into()))
    }

    /// One name of `inode` is gone.
    fn unlinked(&self, tables: &mut Tables<'_>, inode: &Arc<Inode>) -> Result<()> {
        let by = if inode.read().attr.is_dir() { -2 } else { -1 };
        if self.relink(inode, by) > 0 {
            return Ok(());
        }
        self.release(tables, inode)
    }

    /// Moves a name; with `exchange` the two names swap, with `no_replace` the target must not
    /// exist. `whiteout` leaves a 0:0 character device behind (renameat2(2)).
    pub fn rename(
        &self,
        (from, name): (u64, &[u8]),
        (to, newname): (u64, &[u8]),
        no_replace: bool,
        exchange: bool,
        whiteout: Option<&NewInode>,
    ) -> Result<()> {
        check_name(name)?;
        check_name(newname)?;
        self.change(|tables| {
            let (old_dir, new_dir) = (self.open_dir(tables, from)?, self.open_dir(tables, to)?);
            let ino = self.find_name(&tables.view(), from, name)?.ok_or(Errno::ENOENT)?;
            let target = self.find_name(&tables.view(), to, newname)?;
            let inode = self.inode_in(&tables.view(), ino)?;
            let frozen = |i: &Inode| i.read().attr.flags & FROZEN != 0;
            if frozen(&old_dir) || frozen(&inode) {
                return Err(Errno::EPERM.into());
            }
            self.check_no_loop(tables, &inode, to)?;
            // Everything that may be refused is refused before the first change.
            if (whiteout.is_some() || newname.len() > name.len()) && !self.store.has_room() {
                return Err(Errno::ENOSPC.into());
            }
            let Some(target) = target else {
                if exchange {
                    return Err(Errno::ENOENT.into());
                }
                let white = self.make_white(tables, whiteout, from)?;
                return self.move_name(
                    tables,
                    &inode,
                    (&old_dir, name),
                    (&new_dir, newname),
                    white,
                );
            };
            if no_replace {
                return Err(Errno::EEXIST.into());
            }
            let other = self.inode_in(&tables.view(), target)?;
            if frozen(&other) || frozen(&new_dir) {
                return Err(Errno::EPERM.into());
            }
            if exchange {
                self.check_no_loop(tables, &other, from)?;
                return self.exchange(
                    tables,
                    (&inode, &old_dir, name),
                    (&other, &new_dir, newname),
                );
            }
            if target == ino {
                return Ok(());
            }
            let is_dir = inode.read().attr.is_dir();
            self.check_removable(tables, &other, is_dir)?;
            // Room may run out between the check above and here.
            let white = self.make_white(tables, whiteout, from)?;
            self.drop_name(tables, to, newname)?;
            self.dir_changed(&new_dir, -1, -i32::from(is_dir));
            self.move_name(tables, &inode, (&old_dir, name), (&new_dir, newname), white)?;
            self.unlinked(tables, &other)
        })
    }

    /// The inode that RENAME_WHITEOUT leaves behind: the last step of a rename that may be refused.
    fn make_white(
        &self,
        tables: &mut Tables<'_>,
        whiteout: Option<&NewInode>,
        parent: u64,
    ) -> Result<Option<Arc<Inode>>> {
        whiteout.map(|new| self.make_inode(tables, new, 1, parent)).transpose()
    }

    fn move_name(
        &self,
        tables: &mut Tables<'_>,
        inode: &Arc<Inode>,
        (old_dir, name): (&Arc<Inode>, &[u8]),
        (new_dir, newname): (&Arc<Inode>, &[u8]),
        white: Option<Arc<Inode>>,
    ) -> Result<()> {
        // One guard: a second read of a lock that somebody waits to write never comes back.
        let mode = inode.read().attr.mode;
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        self.drop_name(tables, old_dir.ino, name)?;
        self.put_name(tables, new_dir.ino, newname, inode.ino, mode)?;
        self.dir_changed(old_dir, -1, -i32::from(is_dir));
        self.dir_changed(new_dir, 1, i32::from(is_dir));
        if let Some(white) = white {
            let mode = white.read().attr.mode;
            self.put_name(tables, old_dir.ino, name, white.ino, mode)?;
            self.dir_changed(old_dir, 1, 0);
        }
        self.moved(inode, new_dir.ino);
        Ok(())
    }

    fn exchange(
        &self,
        tables: &mut Tables<'_>,
        (a, a_dir, a_name): (&Arc<Inode>, &Arc<Inode>, &[u8]),
        (b, b_dir, b_name): (&Arc<Inode>, &Arc<Inode>, &[u8]),
    ) -> Result<()> {
        let (a_attr, b_attr) = (a.attr(), b.attr());
        self.put_name(tables, a_dir.ino, a_name, b.ino, b_attr.mode)?;
        self.put_name(tables, b_dir.ino, b_name, a.ino, a_attr.mode)?;
        let moved = i32::from(a_attr.is_dir()) - i32::from(b_attr.is_dir());
        self.dir_changed(a_dir, 0, -moved);
        self.dir_changed(b_dir, 0, moved);
        self.moved(a, b_dir.ino);
        self.moved(b, a_dir.ino);
        Ok(())
    }

    fn moved(&self, inode: &Arc<Inode>, parent: u64) {
        self.update(inode, true, |st| {
            st.attr.touch(false);
            if st.attr.is_dir() {
                st.attr.parent = parent;
            }
        });
    }

    /// A directory cannot move below itself (EINVAL of rename(2)).
    fn check_no_loop(&self, tables: &Tables<'_>, moving: &Inode, into: u64) -> Result<()> {
        if !moving.read().attr.is_dir() {
            return Ok(());
        }
        let mut at = into;
        for _ in 0..DEPTH_MAX {
            if at == crate::image::mkfs::ROOT {
                return Ok(());
            }
            if at == moving.ino {
                return Err(Errno::EINVAL.into());
            }
            at = self.inode_in(&tables.view(), at)?.read().attr.parent;
        }
        Err(Error::Corrupt(format!("directory {into} is not below the root")))
    }

    /// The directory, if names may be added to it.
    fn open_dir(&self, tables: &Tables<'_>, ino: u64) -> Result<Arc<Inode>> {
        let dir = self.inode_in(&tables.view(), ino)?;
        let st = dir.read();
        let refusal = match () {
            () if !st.attr.is_dir() => Some(Errno::ENOTDIR),
            () if st.attr.nlink == 0 => Some(Errno::ENOENT),
            () if st.attr.flags & IMMUTABLE != 0 => Some(Errno::EPERM),
            () => None,
        };
        drop(st);
        refusal.map_or(Ok(dir), |e| Err(e.into()))
    }

    fn dir_changed(&self, dir: &Arc<Inode>, entries: i64, subdirs: i32) {
        self.update(dir, true, |st| {
            st.attr.touch(true);
            st.attr.size = st.attr.size.saturating_add_signed(entries);
            st.attr.nlink = st.attr.nlink.saturating_add_signed(subdirs);
        });
    }

    fn relink(&self, inode: &Arc<Inode>, by: i32) -> u32 {
        self.update(inode, true, |st| {
            st.attr.touch(false);
            st.attr.nlink = st.attr.nlink.saturating_add_signed(by);
            st.attr.nlink
        })
    }

    /// The target of a symlink.
    pub fn target(&self, ino: u64) -> Result<Vec<u8>> {
        self.store.read(|view| Ok(view.target(ino)?.ok_or(Errno::EINVAL)?))
    }
}
