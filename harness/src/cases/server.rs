//! What only a server can get wrong.

cases! {
    reply_reuse,
    reply_beside,
    blocks_reuse,
    truncate_tail,
    change_done,
    server_pins,
}
