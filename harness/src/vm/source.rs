//! Where a kernel to boot comes from: a file, or the cache that `scripts/kernels` fills.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::kit::kernel::{Kernel, Version};
use crate::kit::verdict::not_run;
use crate::run::guest::Guest;

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Source {
    /// The bzImage or vmlinux.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`, where there is one.
    pub modules: Option<PathBuf>,
    /// `uname -r`, from the image itself.
    pub release: String,
    /// `uname -v`, likewise.
    pub build: String,
}

/// What `scripts/kernels` notes beside a kernel.
#[derive(Clone, Debug, Deserialize)]
struct About {
    /// Version of the package.
    version: String,
    /// `uname -r`.
    release: String,
    /// `cloud-amd64` or `amd64`.
    flavour: String,
}

impl Source {
    /// Finds a kernel: `debian:6.1`, `debian:6.18.5`, `debian:6.1-amd64` of another flavour, `debian:` and a whole package
    /// version, the path of an image, or of a tree with one. The modules of a path are looked for beside the image and
    /// in `/lib/modules`.
    ///
    /// # Errors
    /// NOTRUN: there is no such kernel, or the file is none.
    pub fn find(guest: &Guest) -> anyhow::Result<Source> {
        let (image, folder) = match guest.kernel.strip_prefix("debian:") {
            Some(wanted) => cached(wanted)?,
            None => (image(Path::new(&guest.kernel))?, None),
        };
        let (release, build) = version(&image)?;
        let near = image.parent().unwrap_or(Path::new("."));
        let places = [
            near.join("lib/modules"),
            near.to_owned(),
            "/lib/modules".into(),
            "/usr/lib/modules".into(),
        ];
        let found = places.into_iter().map(|place| place.join(&release));
        let named = guest.modules.as_deref().map(|folder| installed(folder, &release));
        let modules = named.or(folder);
        let modules = modules.or_else(|| found.into_iter().find(|place| place.is_dir()));
        if let Some(folder) = &modules
            && !folder.join("modules.dep").is_file()
        {
            let folder = folder.display();
            return Err(not_run(format!(
                "{folder} has no modules.dep; `depmod {release}` makes it"
            )));
        }
        Ok(Source { image, modules, release, build })
    }

    /// The kernel as far as it is known without booting it.
    pub fn kernel(&self) -> Kernel {
        let (release, build) = (self.release.clone(), self.build.clone());
        Kernel { release, build, machine: "x86_64".to_owned() }
    }
}

/// The image of a tree that was built, or a file itself.
fn image(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let image = path.join("arch/x86/boot/bzImage");
    let there = image.is_file();
    there.then_some(image).ok_or_else(|| {
        not_run(format!("{} has no arch/x86/boot/bzImage: `make bzImage`", path.display()))
    })
}

/// The folder of one kernel's modules below what `make modules_install` calls INSTALL_MOD_PATH, or that folder itself.
fn installed(folder: &Path, release: &str) -> PathBuf {
    let below = folder.join("lib/modules").join(release);
    if below.is_dir() { below } else { folder.to_owned() }
}

/// The cache: `$INFLIGHT_KERNELS`, else below `$XDG_CACHE_HOME` or `~/.cache`.
pub fn cache() -> PathBuf {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("INFLIGHT_KERNELS").unwrap_or_else(|| {
        let home = || named("HOME").unwrap_or_default().join(".cache");
        named("XDG_CACHE_HOME").unwrap_or_else(home).join("inflight/kernels")
    })
}

/// Every kernel in the cache as a spec that names it exactly, the oldest first.
pub fn all() -> Vec<String> {
    folders().into_iter().map(|(_, about)| format!("debian:{}", about.name())).collect()
}

fn folders() -> Vec<(PathBuf, About)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache()).into_iter().flatten().flatten() {
        let about = fs::read(entry.path().join("kernel.json"));
        if let Some(about) = about.ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            found.push((entry.path(), about));
        }
    }
    found.sort_by_key(|(_, about): &(_, About)| about.order());
    found
}

/// Image and modules of the newest cached kernel of that name.
fn cached(wanted: &str) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let Some((folder, about)) = folders().into_iter().rfind(|(_, about)| about.is(wanted)) else {
        let place = cache();
        let place = place.display();
        let get = wanted
            .split_once('-')
            .map_or(wanted.to_owned(), |(series, flavour)| format!("{series} --flavour {flavour}"));
        let text =
            format!("no kernel '{wanted}' in {place}: `scripts/kernels get {get}` brings it");
        return Err(not_run(text));
    };
    Ok((folder.join("vmlinuz"), Some(folder.join("lib/modules").join(about.release))))
}

impl About {
    fn name(&self) -> String {
        format!("{}-{}", self.version, self.flavour)
    }

    /// Also a later revision of a package is newer, and of equals the one that boots faster is preferred.
    fn order(&self) -> (Version, Vec<u32>, bool) {
        let revision = self.version.split_once('-').map_or("", |(_, revision)| revision);
        let numbers = revision.split(|letter: char| !letter.is_ascii_digit());
        let numbers = numbers.filter_map(|number| number.parse().ok()).collect();
        (Version::parse(&self.version), numbers, self.flavour.starts_with("cloud"))
    }

    fn is(&self, wanted: &str) -> bool {
        let parts = |text: &str| text.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>();
        let own = self.version.split('-').next().unwrap_or("");
        let series = wanted.strip_suffix(&format!("-{}", self.flavour)).unwrap_or(wanted);
        let starts = match (parts(own), parts(series)) {
            (Ok(own), Ok(wanted)) => own.starts_with(&wanted),
            _ => false,
        };
        starts || wanted == self.version || wanted == self.name()
    }
}

/// `uname -r` and `uname -v` of an image, from the image itself.
fn version(image: &Path) -> anyhow::Result<(String, String)> {
    let name = image.display();
    let bytes = fs::read(image).map_err(|error| not_run(format!("kernel {name}: {error}")))?;
    let text = match bytes.starts_with(b"\x7FELF") {
        true => banner(&bytes),
        false => setup_text(&bytes),
    };
    let text = text.map_err(|error| not_run(format!("kernel {name} is none for x86: {error}")))?;
    let (release, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let build = rest.find('#').map_or("", |at| rest[at..].trim_end());
    Ok((release.to_owned(), build.to_owned()))
}

/// Release, builder and build of a bzImage, from its setup header (Documentation/arch/x86/boot.rst).
fn setup_text(bytes: &[u8]) -> anyhow::Result<String> {
    const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
    const VERSION_POINTER: usize = 0x20E;
    const SETUP: usize = 0x200;
    let (at, magic) = MAGIC;
    ensure!(bytes.get(at..at + magic.len()) == Some(magic), "no setup header");
    let pointer = bytes.get(VERSION_POINTER..VERSION_POINTER + 2).context("cut short")?;
    let at = SETUP + usize::from(u16::from_le_bytes([pointer[0], pointer[1]]));
    text_at(bytes, at)
}

/// The same of a vmlinux, from what it will say of itself (`linux_banner` in init/version.c).
fn banner(bytes: &[u8]) -> anyhow::Result<String> {
    const BEGIN: &[u8] = b"Linux version ";
    // The text of a format comes first in some kernels: a version begins with a digit.
    let is_version = |at: &usize| bytes.get(at + BEGIN.len()).is_some_and(u8::is_ascii_digit);
    let found = memchr::memmem::find_iter(bytes, BEGIN).find(is_version);
    text_at(bytes, found.context("an ELF file that says no version")? + BEGIN.len())
}

fn text_at(bytes: &[u8], at: usize) -> anyhow::Result<String> {
    let text = bytes.get(at..).context("cut short")?;
    let end = text.iter().position(|&byte| byte == 0).context("no version")?;
    Ok(String::from_utf8_lossy(&text[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(version: &str, flavour: &str) -> About {
        let release = String::new();
        About { version: version.to_owned(), release, flavour: flavour.to_owned() }
    }

    #[test]
    fn a_kernel_is_found_by_series_by_version_and_by_name() {
        let kernel = about("6.18.15-1~bpo13+1", "cloud-amd64");
        let exact = ["6.18.15-1~bpo13+1", "6.18.15-1~bpo13+1-cloud-amd64"];
        for wanted in ["6", "6.18", "6.18.15", "6.18-cloud-amd64"].into_iter().chain(exact) {
            assert!(kernel.is(wanted), "{wanted}");
        }
        for wanted in ["", "6.1", "6.18.1", "6.18.15-1", "7", "6.18.x", "6.18-amd64"] {
            assert!(!kernel.is(wanted), "{wanted}");
        }
    }

    #[test]
    fn a_newer_kernel_sorts_last_and_of_equals_the_cloud_one() {
        let mut all = [
            about("6.12.117-1", "cloud-amd64"),
            about("6.1.192-2", "cloud-amd64"),
            about("6.1.192-10", "amd64"),
            about("6.12.117-1", "amd64"),
            about("5.10.262-1", "amd64"),
        ];
        all.sort_by_key(About::order);
        let names = all.map(|about| about.name());
        let wanted = [
            "5.10.262-1-amd64",
            "6.1.192-2-cloud-amd64",
            "6.1.192-10-amd64",
            "6.12.117-1-amd64",
            "6.12.117-1-cloud-amd64",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn what_is_not_a_kernel_is_refused_in_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![0; 4096]).unwrap();
        let text = version(file.path()).unwrap_err().to_string();
        assert!(text.ends_with("is none for x86: no setup header"), "{text}");
        let mut header = vec![0; 0x300];
        header[0x202..0x206].copy_from_slice(b"HdrS");
        header[0x20E] = 0x20;
        let text = b"6.1.0-x (me) #1 SMP Debian 6.1.192-2";
        header[0x220..0x220 + text.len()].copy_from_slice(text);
        fs::write(file.path(), &header).unwrap();
        let wanted = ("6.1.0-x".to_owned(), "#1 SMP Debian 6.1.192-2".to_owned());
        assert_eq!(version(file.path()).unwrap(), wanted);
        assert!(
            version(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere: No such")
        );
    }
}
