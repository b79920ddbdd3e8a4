//! Mount options as `-o` and fstab(5) write them.

use inflight_fuse::mount::{MS_NOSYMFOLLOW, MountOptions};
use nix::mount::MsFlags;

/// Options of the VFS: what sets which flag, and what takes it back.
const FLAGS: [(&str, &str, MsFlags); 8] = [
    ("ro", "rw", MsFlags::MS_RDONLY),
    ("nosuid", "suid", MsFlags::MS_NOSUID),
    ("nodev", "dev", MsFlags::MS_NODEV),
    ("noexec", "exec", MsFlags::MS_NOEXEC),
    ("noatime", "atime", MsFlags::MS_NOATIME),
    ("sync", "async", MsFlags::MS_SYNCHRONOUS),
    ("dirsync", "", MsFlags::MS_DIRSYNC),
    ("nosymfollow", "symfollow", MS_NOSYMFOLLOW),
];

/// Reads them into `options`. What is not known here is the kernel's to know.
///
/// # Errors
/// A number that is none.
pub fn parse(text: &str, options: &mut MountOptions) -> anyhow::Result<()> {
    for word in text.split(',').filter(|word| !word.is_empty()) {
        if let Some((set, _, flag)) =
            FLAGS.iter().find(|(set, unset, _)| [*set, *unset].contains(&word))
        {
            options.flags.set(*flag, word == *set);
            continue;
        }
        match word.split_once('=') {
            Some(("fsname", name)) => options.source = name.into(),
            Some(("subtype", name)) => options.subtype = Some(name.to_owned()),
            Some(("max_read", bytes)) => match bytes.parse() {
                Ok(bytes) => options.max_read = Some(bytes),
                Err(_) => anyhow::bail!("mount option max_read={bytes}: not a number of bytes"),
            },
            None if word == "allow_other" => options.allow_other = true,
            None if word == "default_permissions" => options.default_permissions = true,
            _ => options.more.push(word.to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_what_the_kernel_takes() {
        let mut options = MountOptions::default();
        parse("ro,suid,allow_other,max_read=4096,fsname=x,context=y", &mut options).unwrap();
        assert_eq!(options.flags, MsFlags::MS_RDONLY | MsFlags::MS_NODEV);
        assert!(options.allow_other && !options.default_permissions);
        assert_eq!((options.max_read, options.source.to_str()), (Some(4096), Some("x")));
        assert_eq!(options.more, ["context=y"]);
        parse("rw", &mut options).unwrap();
        assert!(!options.flags.contains(MsFlags::MS_RDONLY));
        assert!(parse("max_read=all", &mut options).is_err());
    }
}
