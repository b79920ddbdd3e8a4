//! Requests of every kind.

use inflight_fuse::abi::{
    FsyncFlags, InitFlags, IoctlFlags, LockFlags, PollFlags, ReleaseFlags, WriteFlags,
};
use inflight_fuse::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Name> {
    vec(1_u8.., 0..300).prop_map(Name::new)
}

fn payload() -> impl Strategy<Value = Payload> {
    vec(any::<u8>(), 0..600).prop_map(Payload::from)
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0_u32..1_000_000_000).prop_map(|(seconds, nanos)| Time { seconds, nanos })
}

fn set_time() -> impl Strategy<Value = Option<SetTime>> {
    option::of(prop_oneof![Just(SetTime::Now), time().prop_map(SetTime::At)])
}

fn extensions() -> impl Strategy<Value = Extensions> {
    let value = vec(any::<u8>(), 0..40);
    let security = (name(), value).prop_map(|(name, value)| Security { name, value });
    (vec(security, 0..3), vec(any::<u32>(), 0..5))
        .prop_map(|(security, groups)| Extensions { security, groups })
}

fn node() -> impl Strategy<Value = MakeNode> {
    (name(), any::<u32>(), any::<u32>(), extensions())
        .prop_map(|(name, mode, umask, extensions)| MakeNode { name, mode, umask, extensions })
}

fn create() -> impl Strategy<Value = Create> {
    (node(), any::<u32>(), any::<bool>()).prop_map(|(node, flags, kill_suidgid)| Create {
        name: node.name,
        flags,
        mode: node.mode,
        umask: node.umask,
        kill_suidgid,
        extensions: node.extensions,
    })
}

fn rename(flags: impl Strategy<Value = u32>) -> impl Strategy<Value = Rename> {
    (name(), any::<u64>(), name(), flags).prop_map(|(name, new_parent, new_name, flags)| Rename {
        name,
        new_parent,
        new_name,
        flags,
    })
}

fn read() -> impl Strategy<Value = Read> {
    (any::<[u64; 2]>(), any::<[u32; 2]>(), option::of(any::<u64>())).prop_map(
        |([fh, offset], [size, flags], lock_owner)| Read { fh, offset, size, lock_owner, flags },
    )
}

fn write_args() -> impl Strategy<Value = Write> {
    (any::<[u64; 2]>(), any::<[u32; 2]>(), option::of(any::<u64>()), payload()).prop_map(
        |([fh, offset], [bits, flags], lock_owner, data)| {
            let mut write_flags = WriteFlags::from_bits_retain(bits);
            write_flags.set(WriteFlags::LOCKOWNER, lock_owner.is_some());
            Write { fh, offset, data, write_flags, lock_owner, flags }
        },
    )
}

fn setattr_args() -> impl Strategy<Value = Setattr> {
    let numbers = || option::of(any::<u64>());
    let ids = || option::of(any::<u32>());
    (
        (numbers(), numbers(), numbers()),
        (set_time(), set_time(), option::of(time())),
        (ids(), ids(), ids()),
        any::<bool>(),
    )
        .prop_map(|((fh, size, lock_owner), (atime, mtime, ctime), (mode, uid, gid), kill)| {
            let kill_suidgid = kill;
            Setattr { fh, size, lock_owner, atime, mtime, ctime, mode, uid, gid, kill_suidgid }
        })
}

fn init() -> impl Strategy<Value = Init> {
    (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(minor, max_readahead, bits)| {
        let mut flags = InitFlags::from_bits_retain(bits);
        if !flags.contains(InitFlags::INIT_EXT) {
            flags &= InitFlags::from_bits_retain(u32::MAX.into());
        }
        Init { major: 7, minor, max_readahead, flags }
    })
}

fn lock() -> impl Strategy<Value = Lock> {
    (any::<[u64; 4]>(), any::<[u32; 3]>()).prop_map(
        |([fh, owner, start, end], [kind, pid, bits])| {
            let lock = FileLock { start, end, kind, pid };
            Lock { fh, owner, lock, lock_flags: LockFlags::from_bits_retain(bits) }
        },
    )
}

fn copy() -> impl Strategy<Value = CopyFileRange> {
    any::<[u64; 7]>().prop_map(|[fh_in, offset_in, nodeid_out, fh_out, offset_out, len, flags]| {
        CopyFileRange { fh_in, offset_in, nodeid_out, fh_out, offset_out, len, flags }
    })
}

fn release() -> impl Strategy<Value = Release> {
    (any::<[u64; 2]>(), any::<[u32; 2]>()).prop_map(|([fh, lock_owner], [flags, bits])| Release {
        fh,
        flags,
        release_flags: ReleaseFlags::from_bits_retain(bits),
        lock_owner,
    })
}

fn open() -> impl Strategy<Value = Open> {
    (any::<u32>(), any::<bool>()).prop_map(|(flags, kill_suidgid)| Open { flags, kill_suidgid })
}

fn fsync() -> impl Strategy<Value = Fsync> {
    (any::<u64>(), any::<u32>())
        .prop_map(|(fh, bits)| Fsync { fh, fsync_flags: FsyncFlags::from_bits_retain(bits) })
}

fn setxattr_args() -> impl Strategy<Value = SetXattr> {
    (name(), payload(), any::<u32>(), any::<bool>()).prop_map(
        |(name, value, flags, acl_kill_sgid)| SetXattr { name, value, flags, acl_kill_sgid },
    )
}

fn ioctl() -> impl Strategy<Value = Ioctl> {
    (any::<[u64; 2]>(), any::<[u32; 3]>(), payload()).prop_map(
        |([fh, arg], [bits, command, out_size], data)| {
            let ioctl_flags = IoctlFlags::from_bits_retain(bits);
            Ioctl { fh, ioctl_flags, command, arg, data, out_size }
        },
    )
}

fn poll() -> impl Strategy<Value = Poll> {
    (any::<[u64; 2]>(), any::<[u32; 2]>()).prop_map(|([fh, kh], [bits, events])| Poll {
        fh,
        kh,
        poll_flags: PollFlags::from_bits_retain(bits),
        events,
    })
}

fn about_names() -> impl Strategy<Value = Operation> {
    prop_oneof![
        name().prop_map(|name| Operation::Lookup { name }),
        (name(), name(), extensions()).prop_map(|(name, target, extensions)| {
            Operation::Symlink { name, target, extensions }
        }),
        (node(), any::<u32>()).prop_map(|(node, rdev)| Operation::Mknod { node, rdev }),
        node().prop_map(Operation::Mkdir),
        name().prop_map(|name| Operation::Unlink { name }),
        name().prop_map(|name| Operation::Rmdir { name }),
        rename(Just(0)).prop_map(Operation::Rename),
        rename(any::<u32>()).prop_map(Operation::Rename2),
        (any::<u64>(), name()).prop_map(|(target, name)| Operation::Link { target, name }),
        create().prop_map(Operation::Create),
        create().prop_map(Operation::Tmpfile),
        (name(), any::<u32>())
            .prop_map(|(name, size)| Operation::Getxattr(GetXattr { name, size })),
        name().prop_map(|name| Operation::Removexattr { name }),
        setxattr_args().prop_map(Operation::Setxattr),
    ]
}

fn about_handles() -> impl Strategy<Value = Operation> {
    prop_oneof![
        open().prop_map(Operation::Open),
        open().prop_map(Operation::Opendir),
        read().prop_map(Operation::Read),
        read().prop_map(Operation::Readdir),
        read().prop_map(Operation::Readdirplus),
        write_args().prop_map(Operation::Write),
        release().prop_map(Operation::Release),
        release().prop_map(Operation::Releasedir),
        fsync().prop_map(Operation::Fsync),
        fsync().prop_map(Operation::Fsyncdir),
        any::<[u64; 2]>().prop_map(|[fh, lock_owner]| Operation::Flush(Flush { fh, lock_owner })),
        lock().prop_map(Operation::Getlk),
        lock().prop_map(Operation::Setlk),
        lock().prop_map(Operation::Setlkw),
        ioctl().prop_map(Operation::Ioctl),
        poll().prop_map(Operation::Poll),
        (any::<[u64; 3]>(), any::<u32>()).prop_map(|([fh, offset, length], mode)| {
            Operation::Fallocate(Fallocate { fh, offset, length, mode })
        }),
        (any::<[u64; 2]>(), any::<u32>()).prop_map(|([fh, offset], whence)| Operation::Lseek {
            fh,
            offset,
            whence
        }),
        copy().prop_map(Operation::CopyFileRange),
        copy().prop_map(Operation::CopyFileRange64),
        any::<[u64; 5]>().prop_map(|[fh, file_offset, len, flags, window_offset]| {
            Operation::Setupmapping(SetupMapping { fh, file_offset, len, flags, window_offset })
        }),
    ]
}

fn about_the_rest() -> impl Strategy<Value = Operation> {
    let forget = any::<[u64; 2]>().prop_map(|[nodeid, nlookup]| Forget { nodeid, nlookup });
    let range =
        any::<[u64; 2]>().prop_map(|[window_offset, len]| MappingRange { window_offset, len });
    prop_oneof![
        any::<u64>().prop_map(|nlookup| Operation::Forget { nlookup }),
        option::of(any::<u64>()).prop_map(|fh| Operation::Getattr { fh }),
        setattr_args().prop_map(Operation::Setattr),
        Just(()).prop_map(|()| Operation::Readlink),
        Just(()).prop_map(|()| Operation::Statfs),
        any::<u32>().prop_map(|size| Operation::Listxattr { size }),
        init().prop_map(Operation::Init),
        any::<u32>().prop_map(|mask| Operation::Access { mask }),
        any::<u64>().prop_map(|unique| Operation::Interrupt { unique }),
        (any::<u64>(), any::<u32>())
            .prop_map(|(block, block_size)| Operation::Bmap { block, block_size }),
        Just(()).prop_map(|()| Operation::Destroy),
        (any::<u64>(), payload())
            .prop_map(|(offset, data)| Operation::NotifyReply(NotifyReply { offset, data })),
        vec(forget, 0..70).prop_map(Operation::BatchForget),
        vec(range, 0..70).prop_map(Operation::Removemapping),
        Just(()).prop_map(|()| Operation::Syncfs),
        (option::of(any::<u64>()), any::<[u32; 2]>())
            .prop_map(|(fh, [flags, mask])| Operation::Statx(StatxArgs { fh, flags, mask })),
        any::<[u32; 3]>().prop_map(|[major, minor, flags]| {
            Operation::CuseInit(CuseInit { major, minor, flags })
        }),
    ]
}

/// Any request with a known opcode.
pub fn request() -> impl Strategy<Value = Request> {
    let header = (any::<[u64; 2]>(), any::<[u32; 3]>())
        .prop_map(|([unique, nodeid], [uid, gid, pid])| Header { unique, nodeid, uid, gid, pid });
    let operation = prop_oneof![about_names(), about_handles(), about_the_rest()];
    (header, operation).prop_map(|(header, operation)| Request { header, operation })
}

fn plain(operation: Operation) -> Request {
    Request { header: Header { unique: 2, nodeid: 1, ..Header::default() }, operation }
}

/// A WRITE of these bytes.
pub fn write(data: Vec<u8>) -> Request {
    plain(Operation::Write(Write {
        fh: 3,
        offset: 4096,
        data: data.into(),
        write_flags: WriteFlags::empty(),
        lock_owner: None,
        flags: 0,
    }))
}

/// A SETXATTR.
pub fn setxattr(acl_kill_sgid: bool) -> Request {
    let value = Payload::from(&b"blue"[..]);
    plain(Operation::Setxattr(SetXattr { name: "user.c".into(), value, flags: 1, acl_kill_sgid }))
}

/// A SYMLINK with a security context.
pub fn symlink_with_context() -> Request {
    let security = vec![Security { name: "security.selinux".into(), value: b"system_u".to_vec() }];
    let extensions = Extensions { security, groups: Vec::new() };
    plain(Operation::Symlink { name: "a".into(), target: "b".into(), extensions })
}

/// A SETATTR of mtime.
pub fn touch(mtime: SetTime) -> Request {
    plain(Operation::Setattr(Setattr { mtime: Some(mtime), ..Setattr::default() }))
}
