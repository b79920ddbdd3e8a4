//! I/O whose memory is a mapping that faults.

cases! {
    fault_gate,
    self_mapping,
}
