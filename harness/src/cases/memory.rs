//! Pages that the kernel wants back or elsewhere while I/O is in flight.

cases! {
    pin_return,
    migrate,
    pageout,
}
