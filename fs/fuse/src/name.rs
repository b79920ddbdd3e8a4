//! A name as a message carries it: bytes without a zero.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;

/// Bytes that are kept without an allocation.
const INLINE: usize = 46;

/// An owned name of a file or an attribute, or the target of a symbolic link. Up to 46 bytes lie
/// in the value itself, so that most requests need no allocation.
#[derive(Clone)]
pub struct Name(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Name {
    /// A name of these bytes. A zero byte is kept, and cannot be sent: see
    /// [`Request::encode`](crate::Request::encode).
    pub fn new(name: impl AsRef<[u8]>) -> Name {
        let name = name.as_ref();
        if name.len() > INLINE {
            return Name(Repr::Heap(name.into()));
        }
        let mut bytes = [0; INLINE];
        bytes[..name.len()].copy_from_slice(name);
        Name(Repr::Inline { len: name.len() as u8, bytes })
    }

    pub(crate) fn from_vec(name: Vec<u8>) -> Name {
        if name.len() > INLINE { Name(Repr::Heap(name.into())) } else { Name::new(name) }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }

    /// The same as the operating system's string.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(self.as_bytes())
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Name {
        Name::new(name)
    }
}

impl From<&[u8]> for Name {
    fn from(name: &[u8]) -> Name {
        Name::new(name)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl PartialEq<[u8]> for Name {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_names_keep_their_bytes() {
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, 255, 4096] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 255 + 1) as u8).collect();
            let name = Name::new(&bytes);
            assert_eq!(*name, *bytes);
            assert_eq!(Name::from_vec(bytes), name);
        }
    }

    #[test]
    fn a_name_is_as_large_as_it_says() {
        assert_eq!(size_of::<Name>(), 48);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_escaped() {
        assert_eq!(format!("{:?}", Name::new(b"a\xff\"")), r#""a\xff\"""#);
    }
}
