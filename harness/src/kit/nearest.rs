//! The nearest names to one that is not known.

/// Up to three of `known`, nearest first, comma separated.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let wanted = wanted.to_lowercase();
    let distance = |name: &str| {
        let name = name.to_lowercase();
        let inside = name.contains(&wanted) || wanted.contains(&name);
        (!inside, strsim::damerau_levenshtein(&name, &wanted))
    };
    let mut near: Vec<_> = known.into_iter().map(|name| (distance(name), name)).collect();
    near.sort();
    near.dedup();
    let names: Vec<_> = near.into_iter().take(3).map(|(_, name)| name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_comes_first() {
        assert!(nearest("ext5", ["xfs", "ext4", "tmpfs"]).starts_with("ext4"));
        assert!(nearest("fork", ["truncate-read", "fork-touch"]).starts_with("fork-touch"));
        assert!(nearest("fk9", ["SP1", "FK1", "TR1"]).starts_with("FK1"));
    }
}
