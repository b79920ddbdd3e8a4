//! What every message begins with.

structures! {
    /// Before every request. `len` counts the whole message in bytes; `total_extlen` counts the
    /// extensions at its end in units of 8 bytes (7.38).
    InHeader = "fuse_in_header" {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        total_extlen: u16,
        padding: u16,
    }
    /// Before every answer. `error` is zero or a negative errno above -512; in a notification,
    /// where `unique` is zero, it is the positive code.
    OutHeader = "fuse_out_header" {
        len: u32,
        error: i32,
        unique: u64,
    }
}
