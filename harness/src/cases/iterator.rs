//! The kernel's kinds of I/O iterators.

cases! {
    iterator_kinds,
    cached_share,
}
