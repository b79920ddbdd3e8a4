//! Memory that is registered with io_uring.

cases! {
    fixed_fork,
    fixed_unmap,
    register_matrix,
}
