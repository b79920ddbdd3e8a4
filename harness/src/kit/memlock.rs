//! What an ordinary user may lock: the limit that io_uring counts registered buffers against.

/// Bit of CAP_IPC_LOCK in `CapEff`, with which the limit does not count (capabilities(7)).
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Why locking memory may have been refused with ENOMEM, which then says nothing of the subject; `None` for a
/// process that has no limit.
pub fn limit() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |text: &str| u64::from_str_radix(text.trim(), 16).ok();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).and_then(field);
    if capabilities.is_none_or(|set| set & CAP_IPC_LOCK != 0) {
        return None;
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let words = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let bytes: u64 = words?.split_whitespace().next()?.parse().ok()?;
    Some(format!(
        "no more memory may be locked: the limit of this user is {} KiB for all processes together (ulimit -l)",
        bytes >> 10
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_a_process_without_the_capability_has_a_limit() {
        if nix::unistd::geteuid().is_root() {
            return;
        }
        let unlimited = std::fs::read_to_string("/proc/self/limits")
            .unwrap()
            .lines()
            .any(|line| line.starts_with("Max locked memory") && line.contains("unlimited"));
        assert_eq!(super::limit().is_none(), unlimited);
    }
}
