//! The kernel under test: its exact release, for the table of expected failures.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// A kernel by its release and its exact build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`, e.g. `6.1.0-53-amd64`.
    pub release: String,
    /// `uname -v`; on Debian it names the package version, which the release does not.
    pub build: String,
    /// Machine, e.g. `x86_64`.
    pub machine: String,
}

impl Kernel {
    /// The running kernel.
    ///
    /// # Errors
    /// uname(2) failed.
    pub fn running() -> anyhow::Result<Kernel> {
        let name = nix::sys::utsname::uname()?;
        let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
        Ok(Kernel {
            release: text(name.release()),
            build: text(name.version()),
            machine: text(name.machine()),
        })
    }

    /// The exact version: the first three numbers of Debian's package version if the build names one
    /// (its release says `6.1.0` for every 6.1), otherwise of the release.
    pub fn version(&self) -> Version {
        Version::parse(self.package().unwrap_or(&self.release))
    }

    /// The version of Debian's package, if the build names one.
    pub fn package(&self) -> Option<&str> {
        self.build.split_whitespace().skip_while(|word| *word != "Debian").nth(1)
    }

    /// A kernel of this release, about which nothing else is known.
    #[cfg(test)]
    pub(crate) fn of(release: &str) -> Kernel {
        let (build, machine) = (String::new(), String::new());
        Kernel { release: release.to_owned(), build, machine }
    }

    /// What its release says behind the numbers, e.g. `cloud-amd64`.
    pub fn flavour(&self) -> String {
        let is_number = |part: &&str| part.starts_with(|first: char| first.is_ascii_digit());
        self.release.split('-').skip_while(is_number).collect::<Vec<_>>().join("-")
    }
}

/// Three numbers, compared in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads the leading numbers of a release; what is missing is 0.
    pub fn parse(text: &str) -> Version {
        let mut parts = text
            .split(['.', '-', '+', '~'])
            .map_while(|part| part.parse::<u32>().ok())
            .chain(std::iter::repeat(0));
        let mut next = || parts.next().unwrap_or(0);
        Version(next(), next(), next())
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        (self.0, self.1, self.2).cmp(&(other.0, other.1, other.2))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_the_package_where_there_is_one() {
        let kernel =
            |release, build: &str| Kernel { build: build.to_owned(), ..Kernel::of(release) };
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-08-01)";
        assert_eq!(kernel("6.1.0-53-amd64", debian).version(), Version(6, 1, 176));
        assert_eq!(kernel("6.1.0-53-amd64", debian).package(), Some("6.1.176-1"));
        assert_eq!(kernel("6.1.0-53-cloud-amd64", debian).flavour(), "cloud-amd64");
        assert_eq!(kernel("7.2.13+deb14-amd64", debian).flavour(), "amd64");
        assert_eq!(kernel("6.18.44-fc-v669", "#1 SMP").version(), Version(6, 18, 44));
        assert_eq!(kernel("7.2", "#1").version(), Version(7, 2, 0));
        assert!(Version(6, 9, 0) < Version(6, 12, 117));
    }
}
