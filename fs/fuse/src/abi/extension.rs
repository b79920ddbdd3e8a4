//! What may follow the arguments of a request that creates something.

structures! {
    /// Before an extension; `size` counts header, content and padding in bytes. A type up to
    /// [`MAX_NR_SECCTX`] makes it a [`SecctxHeader`].
    ExtHeader = "fuse_ext_header" {
        size: u32,
        r#type: u32,
    }
    /// Before security contexts; `size` counts this header and them.
    SecctxHeader = "fuse_secctx_header" {
        size: u32,
        nr_secctx: u32,
    }
    /// Before one security context: its name, a zero byte and `size` bytes of value follow.
    Secctx = "fuse_secctx" {
        size: u32,
        padding: u32,
    }
    /// Before `nr_groups` group ids of four bytes.
    SuppGroups = "fuse_supp_groups" {
        nr_groups: u32,
    }
}

/// Largest number of security contexts, and last type that means them.
pub const MAX_NR_SECCTX: u32 = 31;
/// The type of a [`SuppGroups`] extension.
pub const EXT_GROUPS: u32 = 32;
