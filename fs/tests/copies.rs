//! `mkfs --from` and `export`: a tree goes into an image and comes out of it as it was.

mod common;

use common::{Place, can_mount, ok, pattern, refused};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{
    FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::path::{Path, PathBuf};

/// All that must come out again.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    rdev: u64,
    size: u64,
    mtime: (i64, i64),
    atime: (i64, i64),
    content: Vec<u8>,
    attributes: BTreeMap<OsString, Vec<u8>>,
    /// Less than half of it is allocated.
    is_sparse: bool,
}

/// The contents, without a trace.
fn read(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file =
        File::options().read(true).custom_flags(libc::O_NOATIME).open(path).expect("open");
    file.read_to_end(&mut content).expect("read");
    content
}

fn look(root: &Path) -> BTreeMap<PathBuf, Node> {
    let (mut nodes, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = todo.pop() {
        // Before anything is read.
        let meta = fs::symlink_metadata(&path).expect("stat");
        let content = if meta.is_dir() {
            todo.extend(
                fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()),
            );
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).expect("target").into_os_string().into_vec()
        } else if meta.is_file() {
            read(&path)
        } else {
            Vec::new()
        };
        let names = xattr::list(&path).expect("attributes");
        let value = |name: OsString| {
            let value = xattr::get(&path, &name).expect("value").expect("it is there");
            (name, value)
        };
        let is_file = meta.is_file();
        let node = Node {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: if meta.is_dir() { 0 } else { meta.nlink() },
            rdev: meta.rdev(),
            size: if is_file { meta.size() } else { 0 },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            atime: if is_file { (meta.atime(), meta.atime_nsec()) } else { (0, 0) },
            content,
            attributes: names.map(value).collect(),
            is_sparse: is_file && meta.blocks() * 1024 < meta.size(),
        };
        let path = path.strip_prefix(root).expect("below").to_owned();
        nodes.insert(path, node);
    }
    nodes
}

fn at(path: &Path, secs: i64, nanos: i64) {
    let time = TimeSpec::new(secs, nanos);
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flags).expect("utimensat");
}

/// A tree with one of everything.
fn tree(root: &Path) {
    let sub = root.join("sub");
    fs::create_dir_all(sub.join("deep")).expect("directories");
    fs::write(root.join("empty"), "").expect("write");
    fs::write(root.join("large"), pattern(3_000_001, 5)).expect("write");
    let name = OsString::from_vec(b"no text \xff\n".to_vec());
    fs::write(sub.join(name), "x").expect("write");
    let sparse = File::create(sub.join("sparse")).expect("create");
    sparse.write_all_at(b"in the middle", 5 << 20).expect("write");
    sparse.set_len(9 << 20).expect("size");
    fs::hard_link(root.join("large"), sub.join("deep/also large")).expect("link");
    symlink("../nowhere", sub.join("symlink")).expect("symlink");
    let mode = Mode::from_bits_truncate(0o640);
    mknod(&sub.join("fifo"), SFlag::S_IFIFO, mode, 0).expect("fifo");
    xattr::set(root.join("large"), "user.about", b"a large file").expect("setxattr");
    xattr::set(&sub, "user.dir", b"").expect("setxattr");
    fs::set_permissions(root.join("empty"), Permissions::from_mode(0o4751)).expect("chmod");
    fs::set_permissions(&sub, Permissions::from_mode(0o3770)).expect("chmod");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(root.join("empty"), Some(1234), Some(99_999)).expect("chown");
        fs::set_permissions(root.join("empty"), Permissions::from_mode(0o4751)).expect("chmod");
        std::os::unix::fs::lchown(sub.join("symlink"), Some(7), Some(8)).expect("lchown");
        mknod(&sub.join("device"), SFlag::S_IFCHR, mode, makedev(300, 70_000)).expect("mknod");
    }
    at(&root.join("empty"), -1, 999_999_999);
    at(&root.join("large"), 1_000_000_000, 123_456_789);
    at(&sub.join("symlink"), 5_000_000_000, 1);
    at(&sub, 1_234_567, 0);
}

/// Differences, by path, without the contents.
fn differences(one: &BTreeMap<PathBuf, Node>, other: &BTreeMap<PathBuf, Node>) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let show = |node: Option<&Node>| {
        let without = node.map(|node| (node.mode, node.owner, node.links, node.rdev, node.size));
        let more = node.map(|n| (n.mtime, n.atime, n.is_sparse, n.attributes.clone()));
        format!("{without:?} {more:?}")
    };
    let differ = paths.into_iter().filter(|path| one.get(*path) != other.get(*path));
    differ
        .map(|p| format!("{}: {} {}", p.display(), show(one.get(p)), show(other.get(p))))
        .collect()
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let place = Place::empty();
    let (from, to) = (place.dir.path().join("from"), place.dir.path().join("to"));
    fs::create_dir(&from).expect("a directory");
    tree(&from);
    let text = |path: &Path| path.to_str().expect("path").to_owned();
    // The image may lie in the directory itself.
    let image = text(&from.join("an.img"));
    let before = look(&from);
    ok(&["mkfs", "--size", "64M", "--from", &text(&from), &image]);
    fs::rename(&image, place.image()).expect("rename");
    ok(&["fsck", place.image()]);
    ok(&["export", place.image(), &text(&to)]);
    let mut after = look(&to);
    // The image was made there, which changed the time of the directory.
    let root = PathBuf::new();
    assert_ne!(after[&root].mtime, before[&root].mtime);
    after.get_mut(&root).expect("the root").mtime = before[&root].mtime;
    assert_eq!(differences(&before, &after), [""; 0]);
    assert!(before[Path::new("sub/sparse")].is_sparse);
    assert!(refused(1, &["export", place.image(), &text(&to)]).contains("is not empty"));
    let part = text(&place.dir.path().join("part"));
    ok(&["export", place.image(), "sub/deep", &part]);
    assert_eq!(fs::read(format!("{part}/also large")).expect("read"), pattern(3_000_001, 5));
    let one = text(&place.dir.path().join("one"));
    ok(&["export", place.image(), "/large", &one]);
    assert_eq!(fs::read(format!("{one}/large")).expect("read"), pattern(3_000_001, 5));
    let none = text(&place.dir.path().join("none"));
    assert!(refused(1, &["export", place.image(), "/missing", &none]).contains("/missing"));
    if can_mount() {
        let mount = place.mount("ro", &[]);
        let mut seen = look(&mount.dir);
        seen.get_mut(&root).expect("the root").mtime = before[&root].mtime;
        assert_eq!(differences(&before, &seen), [""; 0]);
        mount.umount();
    }
}

#[test]
fn an_archive_comes_out_as_it_went_in() {
    let place = Place::empty();
    let (from, to) = (place.dir.path().join("from"), place.dir.path().join("to"));
    fs::create_dir(&from).expect("a directory");
    tree(&from);
    let line_break = from.join("sub").join(OsString::from_vec(b"no text \xff\n".to_vec()));
    let text = |name: &str| place.dir.path().join(name).to_str().expect("path").to_owned();
    let archive = text("a.tar");
    let pax = ["--format=pax", "--pax-option=delete=ctime", "--xattrs", "--atime-preserve=system"];
    let tar = |words: &[&str]| {
        let mut tar = std::process::Command::new("tar");
        tar.args(words).args(["-C", from.to_str().expect("path"), "."]);
        assert!(tar.status().expect("tar").success());
    };
    tar(&[&pax[..], &["-cf", &archive]].concat());
    let said = refused(1, &["mkfs", "-s", "64M", "--from", &archive, place.image()]);
    assert!(said.contains("a name or attribute with a line break"), "{said}");
    fs::rename(
        &line_break,
        line_break.with_file_name(OsString::from_vec(b"no text \xff".to_vec())),
    )
    .expect("rename");
    at(&from.join("sub"), 1_234_567, 0);
    let before = look(&from);
    tar(&[&pax[..], &["-cf", &archive]].concat());
    ok(&["mkfs", "--size", "64M", "--from", &archive, place.image()]);
    ok(&["fsck", place.image()]);
    ok(&["export", place.image(), to.to_str().expect("path")]);
    let after = look(&to);
    assert_eq!(differences(&before, &after), [""; 0]);
    // GNU's own format has whole seconds, and sparse files.
    let gnu = text("gnu.tar");
    tar(&["--format=gnu", "--sparse", "-cf", &gnu]);
    let stdin = File::open(&gnu).expect("open");
    let image = text("b.img");
    let made = std::process::Command::new(common::INFLIGHT)
        .args(["mkfs", "--size", "64M", "--from", "-", &image])
        .stdin(stdin)
        .output()
        .expect("inflight");
    assert!(made.status.success(), "{}", common::text(&made.stderr));
    let out = text("out");
    ok(&["export", &image, &out]);
    let after = look(Path::new(&out));
    let contents = |nodes: &BTreeMap<PathBuf, Node>| -> Vec<_> {
        nodes.iter().map(|(path, node)| (path.clone(), node.mode, node.content.clone())).collect()
    };
    assert!(contents(&before) == contents(&after));
    assert!(after[Path::new("sub/sparse")].is_sparse);
}

#[test]
fn what_is_no_archive_is_refused_and_leaves_no_image() {
    let place = Place::empty();
    let archive = place.dir.path().join("a.tar");
    let from = archive.to_str().expect("path");
    for (bytes, wanted) in [
        (&b"\x1f\x8b\x08 compressed"[..], "gzip -dc ARCHIVE | inflight mkfs --from -"),
        (&[7; 4096], "not a tar archive"),
        (b"", "holds nothing"),
    ] {
        fs::write(&archive, bytes).expect("write");
        let said = refused(1, &["mkfs", "-s", "16M", "--from", from, place.image()]);
        assert!(said.contains(wanted), "{said}");
        assert!(!place.image.exists());
    }
}

#[test]
fn what_does_not_fit_leaves_no_image() {
    let place = Place::empty();
    let from = place.dir.path().join("m");
    fs::write(from.join("large"), pattern(20 << 20, 1)).expect("write");
    let said =
        refused(1, &["mkfs", "-s", "16M", "--from", from.to_str().expect("path"), place.image()]);
    assert!(said.contains("large") && said.contains("No space left"), "{said}");
    assert!(!place.image.exists());
}
