//! POSIX ACLs, as far as a server has to understand them: inheritance on create, chmod(2) and the
//! mode that follows from an ACL (acl(5); fs/posix_acl.c).
//!
//! The value is what the kernel passes: version 2, then entries of tag, permissions and id,
//! little-endian (include/uapi/linux/posix_acl_xattr.h).

use crate::errno::Errno;
use crate::image::tables::Attr;
use crate::ops::{Answer, Caller, Fs};
use crate::volume::SetMode;
use crate::volume::inode::Inode;
use std::sync::Arc;

/// Attribute that holds the ACL in force.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Attribute that holds what new entries of a directory inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NAMED: [u16; 2] = [0x02, 0x08];

/// An access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<(u16, u16, u32)>);

impl Acl {
    /// Decodes; `None` for anything but a well-formed version 2 list.
    pub fn decode(value: &[u8]) -> Option<Acl> {
        let (version, entries) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
            return None;
        }
        let entry = |e: &[u8]| {
            let half = |at: usize| u16::from_le_bytes([e[at], e[at + 1]]);
            (half(0), half(2), u32::from_le_bytes([e[4], e[5], e[6], e[7]]))
        };
        let acl = Acl(entries.chunks_exact(8).map(entry).collect());
        let base = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|t| acl.permissions(*t).is_some());
        (base && acl.0.iter().all(|e| e.1 <= 7)).then_some(acl)
    }

    /// Encodes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in &self.0 {
            out.extend(tag.to_le_bytes());
            out.extend(permissions.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    fn permissions(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.0 == tag).map(|e| e.1)
    }

    fn set(&mut self, tag: u16, permissions: u32) {
        for entry in self.0.iter_mut().filter(|e| e.0 == tag) {
            entry.1 = (permissions & 7) as u16;
        }
    }

    /// The nine permission bits that stand for this list.
    pub fn mode(&self) -> u32 {
        let of = |tag| u32::from(self.permissions(tag).unwrap_or(0));
        let group = if self.permissions(MASK).is_some() { of(MASK) } else { of(GROUP_OBJ) };
        of(USER_OBJ) << 6 | group << 3 | of(OTHER)
    }

    /// True when the mode says all that the list says.
    pub fn is_mode_only(&self) -> bool {
        !self.0.iter().any(|e| e.0 == MASK || NAMED.contains(&e.0))
    }

    /// Applies chmod(2).
    pub fn chmod(&mut self, mode: u32) {
        self.set(USER_OBJ, mode >> 6);
        self.set(OTHER, mode);
        let group = if self.permissions(MASK).is_some() { MASK } else { GROUP_OBJ };
        self.set(group, mode >> 3);
    }

    /// What a new inode made with `mode` gets from this default list.
    pub fn inherit(&self, mode: u32) -> Acl {
        let mut acl = self.clone();
        acl.chmod(self.mode() & mode);
        acl
    }
}

/// What a new inode inherits.
pub(super) struct Inherited {
    /// Permission bits.
    pub mode: u32,
    /// Attributes to begin with.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Fs {
    fn acl(&self, ino: u64, name: &[u8]) -> Answer<Option<Acl>> {
        match self.volume.xattr(ino, name).map_err(Errno::from) {
            Ok(value) => Ok(Acl::decode(&value)),
            Err(Errno::ENODATA) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The permissions and ACLs of an inode that is made in `parent` with `mode` and `umask`. A
    /// default ACL takes the place of the umask.
    pub(super) fn inherit(&self, parent: u64, mode: u32, umask: u32) -> Answer<Inherited> {
        if mode & libc::S_IFMT == libc::S_IFLNK {
            return Ok(Inherited { mode, xattrs: Vec::new() });
        }
        let Some(default) = self.acl(parent, DEFAULT)? else {
            return Ok(Inherited { mode: mode & !umask, xattrs: Vec::new() });
        };
        let access = default.inherit(mode & 0o777);
        let mut xattrs = Vec::new();
        if !access.is_mode_only() {
            xattrs.push((ACCESS.to_vec(), access.encode()));
        }
        if mode & libc::S_IFMT == libc::S_IFDIR {
            xattrs.push((DEFAULT.to_vec(), default.encode()));
        }
        Ok(Inherited { mode: mode & !0o777 | access.mode(), xattrs })
    }

    /// Changes attributes; the access ACL follows a change of the mode, and never without it.
    pub(super) fn set_attr_and_acl(
        &self,
        inode: &Arc<Inode>,
        mode: Option<u32>,
        change: impl FnOnce(&mut Attr),
    ) -> Answer<()> {
        let acl = mode.map(|_| self.acl(inode.ino, ACCESS)).transpose()?.flatten();
        match (acl, mode) {
            (Some(mut acl), Some(mode)) => {
                acl.chmod(mode);
                let (value, any) = (acl.encode(), SetMode::Any);
                self.volume.set_xattr_and(inode, ACCESS, &value, any, change)?;
            }
            _ => {
                self.volume.set_attr(inode, change)?;
            }
        }
        Ok(())
    }

    /// Stores an access ACL: the mode follows, and a list that says no more than the mode is not
    /// kept. Who is not in the file's group may not keep set-group-ID (posix_acl_update_mode);
    /// only the caller's first group is known here, so in doubt the bit goes.
    pub(super) fn set_access_acl(
        &self,
        caller: Caller,
        inode: &Arc<Inode>,
        value: &[u8],
    ) -> Answer<()> {
        let acl = Acl::decode(value).ok_or(Errno::EINVAL)?;
        let follow = |attr: &mut Attr| {
            attr.mode = attr.mode & !0o777 | acl.mode();
            if caller.uid != 0 && caller.gid != attr.gid {
                attr.mode &= !libc::S_ISGID;
            }
        };
        if acl.is_mode_only() {
            self.volume.remove_xattr_and(inode, ACCESS, follow)?;
        } else {
            self.volume.set_xattr_and(inode, ACCESS, value, SetMode::Any, follow)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Acl {
        Acl(vec![
            (USER_OBJ, 7, u32::MAX),
            (0x02, 6, 1000),
            (GROUP_OBJ, 5, u32::MAX),
            (MASK, 6, u32::MAX),
            (OTHER, 4, u32::MAX),
        ])
    }

    #[test]
    fn the_mask_stands_in_the_group_bits() {
        assert_eq!(Acl::decode(&sample().encode()), Some(sample()));
        assert_eq!(sample().mode(), 0o764);
        let mut acl = sample();
        acl.chmod(0o640);
        assert_eq!(acl.mode(), 0o640);
        assert_eq!(acl.permissions(GROUP_OBJ), Some(5), "only the mask follows chmod");
        assert_eq!(sample().inherit(0o700).mode(), 0o700);
    }

    #[test]
    fn a_list_and_its_mode_change_at_the_same_instant() {
        let dir = tempfile::tempdir().expect("a folder");
        let fs = crate::ops::tests::open(&dir.path().join("a.img"));
        let named = sample();
        let mut narrow = sample();
        narrow.chmod(0o600);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..20_000 {
                    let acl = if i % 2 == 0 { &named } else { &narrow };
                    let set = |acl: &Acl| {
                        fs.setxattr(
                            Caller::default(),
                            crate::image::mkfs::ROOT,
                            ACCESS,
                            &acl.encode(),
                            0,
                        )
                    };
                    set(acl).expect("set");
                    let mode = libc::S_IFDIR | 0o750;
                    let chmod = crate::ops::SetAttr { mode: Some(mode), ..Default::default() };
                    fs.setattr(crate::image::mkfs::ROOT, &chmod).expect("chmod");
                }
                stop.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            let root = fs.inode(crate::image::mkfs::ROOT).expect("the root");
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let seen = fs.volume.store().read(|view| {
                    let value = view.xattr(root.ino, ACCESS)?;
                    Ok((value.and_then(|v| Acl::decode(&v)), root.attr().mode))
                });
                if let (Some(acl), mode) = seen.expect("read") {
                    assert_eq!(acl.mode(), mode & 0o777, "a commit here would split them");
                }
            }
        });
        crate::mounted::close(&fs).expect("close");
    }

    #[test]
    fn malformed_lists_are_refused() {
        assert_eq!(Acl::decode(b""), None);
        assert_eq!(Acl::decode(&[2, 0, 0, 0, 1]), None);
        assert_eq!(Acl::decode(&Acl(vec![(USER_OBJ, 7, 0)]).encode()), None, "no group, no other");
    }
}
