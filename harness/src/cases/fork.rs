//! A process forks beside direct I/O.

cases! {
    fork_touch,
    fork_read_read,
    protect_touch,
    fork_controls,
    fork_network,
    fork_tearing,
}
