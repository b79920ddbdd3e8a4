//! Errnos by name.

use nix::errno::Errno;
use serde::de::{Deserializer, Error, Visitor};

/// Highest errno of Linux (asm-generic/errno.h: EHWPOISON is 133).
const LAST: i32 = 133;

/// Names that share a number with another one.
const ALIASES: [(&str, Errno); 3] =
    [("EWOULDBLOCK", Errno::EAGAIN), ("ENOTSUP", Errno::EOPNOTSUPP), ("EDEADLOCK", Errno::EDEADLK)];

/// The number of an errno that is given by name (`EIO`, `eio`) or as a number from 1 to 4095.
///
/// # Errors
/// It is neither, said with the nearest names.
pub fn parse(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse() {
        let range = 1..4096;
        return if range.contains(&number) {
            Ok(number)
        } else {
            Err(format!("errno {number} is not from 1 to 4095"))
        };
    }
    let wanted = text.to_ascii_uppercase();
    let known = (1..=LAST).map(|number| (name(number), number));
    let aliases = ALIASES.iter().map(|(name, errno)| ((*name).to_owned(), *errno as i32));
    let mut near: Vec<_> = known
        .chain(aliases)
        .map(|(name, number)| (strsim::damerau_levenshtein(&name, &wanted), name, number))
        .collect();
    near.sort_unstable();
    match near.first() {
        Some((0, _, number)) => Ok(*number),
        _ => {
            let names: Vec<_> = near.iter().take(3).map(|(_, name, _)| name.as_str()).collect();
            Err(format!("unknown errno '{text}'; nearest: {}", names.join(", ")))
        }
    }
}

/// The name of an errno, e.g. `EIO`; its number where it has none.
pub fn name(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::UnknownErrno => number.to_string(),
        errno => format!("{errno:?}"),
    }
}

/// Reads a number or a name.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    struct Either;
    impl Visitor<'_> for Either {
        type Value = i32;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an errno, as a number or by name")
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<i32, E> {
            i32::try_from(number).map_err(E::custom)
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<i32, E> {
            i32::try_from(number).map_err(E::custom)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<i32, E> {
            parse(text).map_err(E::custom)
        }
    }
    from.deserialize_any(Either)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(parse("EIO"), Ok(5));
        assert_eq!(parse("enospc"), Ok(28));
        assert_eq!(parse("ENOTSUP"), Ok(95));
        assert_eq!(parse("117"), Ok(117));
        assert_eq!(name(117), "EUCLEAN");
        assert_eq!(name(4000), "4000");
        assert!(parse("ENOSP").unwrap_err().contains("nearest: ENOSPC"));
        assert!(parse("0").is_err() && parse("4096").is_err());
    }
}
