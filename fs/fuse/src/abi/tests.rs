//! Sizes, offsets and numbers against a fixed table and against the installed header.

use super::*;
use std::fmt::Write as _;
use std::process::Command;

/// Sizes of `include/uapi/linux/fuse.h` of Linux 6.18.
const SIZES: &[(&str, usize)] = &[
    ("fuse_attr", 88),
    ("fuse_kstatfs", 80),
    ("fuse_file_lock", 24),
    ("fuse_entry_out", 128),
    ("fuse_attr_out", 104),
    ("fuse_sx_time", 16),
    ("fuse_statx", 256),
    ("fuse_statx_in", 24),
    ("fuse_statx_out", 288),
    ("fuse_ext_header", 8),
    ("fuse_secctx_header", 8),
    ("fuse_secctx", 8),
    ("fuse_supp_groups", 4),
    ("fuse_in_header", 40),
    ("fuse_out_header", 16),
    ("fuse_init_in", 64),
    ("fuse_init_out", 64),
    ("cuse_init_in", 16),
    ("cuse_init_out", 72),
    ("fuse_forget_in", 8),
    ("fuse_forget_one", 16),
    ("fuse_batch_forget_in", 8),
    ("fuse_getattr_in", 16),
    ("fuse_mknod_in", 16),
    ("fuse_mkdir_in", 8),
    ("fuse_rename_in", 8),
    ("fuse_rename2_in", 16),
    ("fuse_link_in", 8),
    ("fuse_setattr_in", 88),
    ("fuse_open_in", 8),
    ("fuse_create_in", 16),
    ("fuse_release_in", 24),
    ("fuse_flush_in", 24),
    ("fuse_read_in", 40),
    ("fuse_write_in", 40),
    ("fuse_fsync_in", 16),
    ("fuse_setxattr_in", 16),
    ("fuse_getxattr_in", 8),
    ("fuse_lk_in", 48),
    ("fuse_access_in", 8),
    ("fuse_interrupt_in", 8),
    ("fuse_bmap_in", 16),
    ("fuse_ioctl_in", 32),
    ("fuse_ioctl_iovec", 16),
    ("fuse_poll_in", 24),
    ("fuse_fallocate_in", 32),
    ("fuse_lseek_in", 24),
    ("fuse_copy_file_range_in", 56),
    ("fuse_setupmapping_in", 40),
    ("fuse_removemapping_in", 4),
    ("fuse_removemapping_one", 16),
    ("fuse_syncfs_in", 8),
    ("fuse_notify_poll_wakeup_out", 8),
    ("fuse_notify_inval_inode_out", 24),
    ("fuse_notify_inval_entry_out", 16),
    ("fuse_notify_delete_out", 24),
    ("fuse_notify_store_out", 24),
    ("fuse_notify_retrieve_out", 32),
    ("fuse_notify_retrieve_in", 40),
    ("fuse_notify_prune_out", 16),
    ("fuse_open_out", 16),
    ("fuse_write_out", 8),
    ("fuse_statfs_out", 80),
    ("fuse_getxattr_out", 8),
    ("fuse_lk_out", 24),
    ("fuse_bmap_out", 8),
    ("fuse_ioctl_out", 16),
    ("fuse_poll_out", 8),
    ("fuse_lseek_out", 8),
    ("fuse_copy_file_range_out", 8),
    ("fuse_dirent", 24),
    ("fuse_direntplus", 152),
    ("fuse_backing_map", 16),
    ("fuse_uring_ent_in_out", 32),
    ("fuse_uring_req_header", 288),
    ("fuse_uring_cmd_req", 24),
];

/// The minor version that brought a structure, or with a field that field. The others are older
/// than 7.38.
const SINCE: &[(&str, &str, u32)] = &[
    ("fuse_statx", "", 39),
    ("fuse_sx_time", "", 39),
    ("fuse_statx_in", "", 39),
    ("fuse_statx_out", "", 39),
    ("fuse_supp_groups", "", 39),
    ("fuse_backing_map", "", 40),
    ("fuse_open_out", "backing_id", 40),
    ("fuse_init_out", "max_stack_depth", 40),
    ("fuse_init_out", "request_timeout", 43),
    ("fuse_init_out", "unused", 43),
    ("fuse_uring_ent_in_out", "", 42),
    ("fuse_uring_req_header", "", 42),
    ("fuse_uring_cmd_req", "", 42),
    ("fuse_copy_file_range_out", "", 45),
    ("fuse_notify_prune_out", "", 45),
];

/// Oldest header that the comparison is made with.
const OLDEST: u32 = 38;

fn layouts() -> impl Iterator<Item = &'static Layout> {
    LAYOUTS.iter().copied().flatten()
}

fn since(structure: &str, field: &str) -> u32 {
    let found = SINCE.iter().find(|row| row.0 == structure && (row.1 == field || row.1.is_empty()));
    found.map_or(0, |row| row.2)
}

#[test]
fn sizes_are_those_of_the_table() {
    for layout in layouts() {
        let row = SIZES.iter().find(|row| row.0 == layout.name);
        assert_eq!(row.map(|row| row.1), Some(layout.size), "struct {}", layout.name);
    }
    assert_eq!(layouts().count(), SIZES.len(), "a structure is missing");
}

#[test]
fn fields_follow_each_other_without_holes() {
    for layout in layouts() {
        assert_eq!(layout.fields[0].offset, 0, "struct {}", layout.name);
        assert!(layout.fields.is_sorted_by(|a, b| a.offset < b.offset), "struct {}", layout.name);
    }
    // The uses of these are the reason for the order of fields in the header.
    assert_eq!(std::mem::offset_of!(InitOut, flags2), 32);
    assert_eq!(std::mem::offset_of!(SetattrIn, mode), 68);
    assert_eq!(std::mem::offset_of!(uring::ReqHeader, ring_ent_in_out), 256);
}

#[test]
fn opcodes_and_names_agree_both_ways() {
    assert!(Opcode::TABLE.is_sorted_by(|a, b| a.0 < b.0), "binary search needs the order");
    for (opcode, name) in Opcode::TABLE {
        assert_eq!(opcode.name(), Some(*name));
        assert_eq!(name.parse(), Ok(*opcode));
        assert_eq!(format!("FUSE_{}", name.to_uppercase().replace('_', "-")).parse(), Ok(*opcode));
    }
    assert_eq!(Opcode(7).name(), None);
    assert_eq!(Opcode(7).to_string(), "opcode 7");
    assert_eq!("raed".parse::<Opcode>(), Err(UnknownOpcode("raed".to_owned())));
}

/// Flags under their names in C, without a prefix that the header does not have.
fn constants() -> Vec<(String, u64)> {
    fn named<F: bitflags::Flags>(prefix: &str, bits: impl Fn(&F) -> u64) -> Vec<(String, u64)> {
        let flags = F::FLAGS.iter().filter(|flag| flag.is_named());
        flags.map(|flag| (format!("{prefix}{}", flag.name()), bits(flag.value()))).collect()
    }
    let mut list = named::<InitFlags>("FUSE_", InitFlags::bits);
    list.extend(named::<SetattrValid>("FATTR_", |flag| flag.bits().into()));
    list.extend(named::<OpenFlags>("FOPEN_", |flag| flag.bits().into()));
    list.extend(named::<ReleaseFlags>("FUSE_RELEASE_", |flag| flag.bits().into()));
    list.extend(named::<ReadFlags>("FUSE_READ_", |flag| flag.bits().into()));
    list.extend(named::<WriteFlags>("FUSE_WRITE_", |flag| flag.bits().into()));
    list.extend(named::<IoctlFlags>("FUSE_IOCTL_", |flag| flag.bits().into()));
    list.extend(named::<FsyncFlags>("FUSE_FSYNC_", |flag| flag.bits().into()));
    list.extend(named::<PollFlags>("FUSE_POLL_", |flag| flag.bits().into()));
    list.extend(named::<LockFlags>("FUSE_LK_", |flag| flag.bits().into()));
    list.extend(named::<AttrFlags>("FUSE_ATTR_", |flag| flag.bits().into()));
    for (name, value) in [
        ("FUSE_ROOT_ID", ROOT_ID),
        ("FUSE_GETATTR_FH", GETATTR_FH.into()),
        ("FUSE_OPEN_KILL_SUIDGID", OPEN_KILL_SUIDGID.into()),
        ("FUSE_SETXATTR_ACL_KILL_SGID", SETXATTR_ACL_KILL_SGID.into()),
        ("FUSE_EXPIRE_ONLY", EXPIRE_ONLY.into()),
        ("FUSE_UNIQUE_RESEND", UNIQUE_RESEND),
        ("FUSE_MIN_READ_BUFFER", MIN_READ_BUFFER as u64),
        ("FUSE_IOCTL_MAX_IOV", IOCTL_MAX_IOV as u64),
        ("FUSE_INVALID_UIDGID", INVALID_UIDGID.into()),
        ("FUSE_COMPAT_SETXATTR_IN_SIZE", COMPAT_SETXATTR_IN_SIZE as u64),
        ("FUSE_COMPAT_INIT_OUT_SIZE", COMPAT_INIT_OUT_SIZE as u64),
        ("FUSE_COMPAT_22_INIT_OUT_SIZE", COMPAT_22_INIT_OUT_SIZE as u64),
        ("FUSE_URING_IN_OUT_HEADER_SZ", uring::IN_OUT_HEADER_SIZE as u64),
        ("FUSE_URING_OP_IN_OUT_SZ", uring::OP_IN_OUT_SIZE as u64),
    ] {
        list.push((name.to_owned(), value));
    }
    list
}

/// A C program that fails to compile where this module and the header disagree.
fn program() -> String {
    let mut text = "#include <stddef.h>\n#include <stdint.h>\n#include <linux/fuse.h>\n".to_owned();
    let mut check = |minor: u32, claim: String| {
        let _ = writeln!(
            text,
            "#if FUSE_KERNEL_MINOR_VERSION >= {minor}\n_Static_assert({claim}, \"\");\n#endif"
        );
    };
    for layout in layouts() {
        let name = layout.name;
        check(since(name, ""), format!("sizeof(struct {name}) == {}", layout.size));
        for field in layout.fields {
            let (c_name, offset) = (field.name.trim_start_matches("r#"), field.offset);
            let minor = since(name, c_name);
            check(minor, format!("offsetof(struct {name}, {c_name}) == {offset}"));
        }
    }
    for (opcode, name) in Opcode::TABLE {
        let prefix = if *opcode == Opcode::CUSE_INIT { "" } else { "FUSE_" };
        let minor = match *opcode {
            Opcode::STATX => 39,
            Opcode::COPY_FILE_RANGE_64 => 45,
            _ => 0,
        };
        check(minor, format!("{prefix}{} == {}", name.to_uppercase(), opcode.number()));
    }
    for (name, value) in constants() {
        let _ = writeln!(
            text,
            "#ifdef {name}\n_Static_assert((uint64_t)(uint32_t){name} == {value}ULL || \
             (uint64_t){name} == {value}ULL, \"{name}\");\n#endif"
        );
    }
    text
}

#[test]
fn the_installed_header_agrees() {
    let header = "/usr/include/linux/fuse.h";
    let Ok(text) = std::fs::read_to_string(header) else {
        eprintln!("not compared: no {header} (package linux-libc-dev)");
        return;
    };
    let minor = text
        .lines()
        .find_map(|line| line.strip_prefix("#define FUSE_KERNEL_MINOR_VERSION "))
        .and_then(|number| number.trim().parse::<u32>().ok())
        .expect("the header says its version");
    if minor < OLDEST || Command::new("cc").arg("--version").output().is_err() {
        eprintln!("not compared: header 7.{minor}, oldest 7.{OLDEST}; or no C compiler");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("abi.c");
    std::fs::write(&source, program()).expect("a source file");
    let output = Command::new("cc")
        .args(["-std=c11", "-fsyntax-only"])
        .arg(&source)
        .output()
        .expect("cc was there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
