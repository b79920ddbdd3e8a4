//! What a write takes from memory, and when.

cases! {
    writeback_edit,
    zero_page_write,
}
