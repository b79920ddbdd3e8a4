//! Longest times. They end what hangs and never make a pass, so they may be long, and on a slow machine they must be.

use std::sync::LazyLock;
use std::time::Duration;

/// Every instruction is translated: QEMU without KVM.
const EMULATED: u32 = 4;
/// Every access to memory is checked.
const KASAN: u32 = 2;

/// How many times slower than usual this machine is, from what it says of itself.
pub fn slowness() -> u32 {
    static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        of(&read("/proc/cpuinfo"), &read("/proc/kallsyms"))
    });
    *SLOWNESS
}

/// The same of a machine with these processors and kernel symbols (proc(5)).
fn of(cpuinfo: &str, kallsyms: &str) -> u32 {
    let is_model = |line: &str| line.starts_with("model name") && line.contains("QEMU TCG");
    let is_emulated = cpuinfo.lines().any(is_model);
    let has_kasan = kallsyms.lines().any(|line| line.ends_with(" kasan_report"));
    let times = |applies, times| if applies { times } else { 1 };
    times(is_emulated, EMULATED) * times(has_kasan, KASAN)
}

/// A time that was chosen for a usual machine.
pub fn scaled(time: Duration) -> Duration {
    time * slowness()
}

/// Longest that anything may take that must happen: 10 s. Its end is a HANG or BROKEN.
pub fn bound() -> Duration {
    scaled(Duration::from_secs(10))
}

/// Longest that a request may take to come to the gate: 5 s.
pub fn rendezvous() -> Duration {
    scaled(Duration::from_secs(5))
}

/// How long something may take that may also have to wait for what is parked: 2 s.
pub fn patience() -> Duration {
    scaled(Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn a_machine_that_is_emulated_or_checks_its_memory_is_slow() {
        let tcg = "processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\n";
        let real = "processor\t: 0\nmodel name\t: Some Processor\n";
        let kasan = "ffffffff81000000 T _stext\nffffffff81400000 T kasan_report\n";
        let plain = "ffffffff81000000 T _stext\n0000000000000000 t kasan_report_later\n";
        let all = [of(real, plain), of(tcg, plain), of(real, kasan), of(tcg, kasan)];
        assert_eq!(all, [1, 4, 2, 8]);
    }
}
