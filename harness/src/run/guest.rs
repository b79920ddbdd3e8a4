//! The machine of its own that a run is played in, as its command line names it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A kernel and what it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
pub struct Guest {
    /// Kernel: `debian:6.1` from the cache that scripts/kernels fills, `debian:6.1-amd64` of another flavour than
    /// `cloud-amd64`, or the path of a bzImage, of a vmlinux with CONFIG_PVH, or of a tree that was built.
    #[arg(long, value_name = "SPEC")]
    pub kernel: String,
    /// Folder of its modules, or the INSTALL_MOD_PATH of `make modules_install` (default: beside the image, or
    /// /lib/modules/RELEASE; where neither is there, everything counts as built in).
    #[arg(long, value_name = "DIR")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<PathBuf>,
    /// Words for the end of the kernel's command line.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// Memory in MiB, half of it on each of two nodes (default: 2048).
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(512..))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processors, on two nodes (default: 2).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smp: Option<u32>,
}

impl Guest {
    /// A kernel with what is usual.
    pub fn of(kernel: &str) -> Guest {
        Guest { kernel: kernel.to_owned(), ..Guest::default() }
    }

    /// The words of a command line that choose it.
    pub fn words(&self) -> Vec<String> {
        let modules = self.modules.as_ref().map(|folder| folder.display().to_string());
        let (memory, smp) = (self.memory.map(|n| n.to_string()), self.smp.map(|n| n.to_string()));
        let kernel = Some(self.kernel.clone());
        let named = [("kernel", kernel), ("modules", modules), ("memory", memory), ("smp", smp)];
        named
            .into_iter()
            .chain([("append", self.append.clone())])
            .filter_map(|(name, value)| Some([format!("--{name}"), value?]))
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Guest;

    #[test]
    fn the_words_name_what_is_not_usual() {
        assert_eq!(Guest::of("debian:6.1").words(), ["--kernel", "debian:6.1"]);
        let (memory, append) = (Some(4096), Some("slub_debug=FZ kasan.fault=panic".to_owned()));
        let guest = Guest { memory, append, smp: Some(4), ..Guest::of("my tree") };
        let wanted = ["--kernel", "my tree", "--memory", "4096", "--smp", "4", "--append"];
        assert_eq!(guest.words(), [&wanted[..], &["slub_debug=FZ kasan.fault=panic"]].concat());
    }
}
