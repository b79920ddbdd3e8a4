//! Security contexts and groups at the end of a request that creates something.

use super::Malformed;
use crate::abi::{EXT_GROUPS, ExtHeader, MAX_NR_SECCTX, Secctx, SuppGroups};
use crate::name::Name;
use crate::request::{Extensions, Security};
use zerocopy::FromBytes;

/// Extensions, and what is in them and in front of each other, are multiples of this many bytes.
pub(crate) const UNIT: usize = 8;

/// `total` is the length in units by the request's header. Linux before 6.3 leaves it zero and
/// sends a security context all the same.
pub(super) fn extensions(mut bytes: &[u8], total: u16) -> Result<Extensions, Malformed> {
    if total != 0 && bytes.len() != usize::from(total) * UNIT {
        return Err(Malformed::Extension);
    }
    let mut extensions = Extensions::default();
    while !bytes.is_empty() {
        let header = take::<ExtHeader>(&mut { bytes })?;
        let size = header.size as usize;
        if size < size_of::<ExtHeader>() || size > bytes.len() {
            return Err(Malformed::Extension);
        }
        let (extension, rest) = bytes.split_at(size);
        let content = &extension[size_of::<ExtHeader>()..];
        bytes = rest;
        match header.r#type {
            0..=MAX_NR_SECCTX => security(content, header.r#type, &mut extensions.security)?,
            EXT_GROUPS => groups(content, &mut extensions.groups)?,
            // Of a newer kernel, which sends it only where it was agreed upon.
            _ => {}
        }
    }
    Ok(extensions)
}

fn security(mut bytes: &[u8], count: u32, list: &mut Vec<Security>) -> Result<(), Malformed> {
    for _ in 0..count {
        let size = take::<Secctx>(&mut bytes)?.size as usize;
        let end = bytes.iter().position(|byte| *byte == 0).ok_or(Malformed::Extension)?;
        let name = Name::new(&bytes[..end]);
        bytes = &bytes[end + 1..];
        let value = bytes.get(..size).ok_or(Malformed::Extension)?.to_vec();
        bytes = &bytes[size..];
        list.push(Security { name, value });
    }
    Ok(())
}

fn groups(mut bytes: &[u8], list: &mut Vec<u32>) -> Result<(), Malformed> {
    let count = take::<SuppGroups>(&mut bytes)?.nr_groups as usize;
    if count > bytes.len() / size_of::<u32>() {
        return Err(Malformed::Extension);
    }
    for _ in 0..count {
        list.push(take::<u32>(&mut bytes)?);
    }
    Ok(())
}

fn take<T: FromBytes>(bytes: &mut &[u8]) -> Result<T, Malformed> {
    let (value, rest) = T::read_from_prefix(bytes).map_err(|_| Malformed::Extension)?;
    *bytes = rest;
    Ok(value)
}
