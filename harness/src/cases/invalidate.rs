//! What the page cache holds after a direct write, and behind the end of a file.

cases! {
    write_cache,
    append_tail,
    tail_junk,
}
