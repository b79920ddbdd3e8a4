//! Where the fields of a structure lie, for comparison with the kernel's header.

/// A structure of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

/// A field of a [`Layout`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in C.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
}

/// Declares structures of the protocol, and `LAYOUTS` with one entry for each.
macro_rules! structures {
    ($(
        $(#[$meta:meta])*
        $name:ident = $c_name:literal {
            $( $(#[$field_meta:meta])* $field:ident : $kind:ty, )*
        }
    )*) => {
        $(
            $(#[$meta])*
            #[doc = concat!("\n\n`struct ", $c_name, "`.")]
            #[derive(
                Clone, Copy, Debug, Default, PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
            )]
            #[repr(C)]
            #[allow(missing_docs, reason = "fields have the names and meanings of the header")]
            pub struct $name { $( $(#[$field_meta])* pub $field: $kind, )* }
        )*
        /// The structures of this file.
        pub(super) const LAYOUTS: &[crate::abi::Layout] = &[$(
            crate::abi::Layout {
                name: $c_name,
                size: size_of::<$name>(),
                fields: &[$(crate::abi::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                },)*],
            },
        )*];
    };
}
