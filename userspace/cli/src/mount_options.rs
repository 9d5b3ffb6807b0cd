// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mount options, as `-o` and fstab have them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::mount::MountAttrFlags;

use crate::error::{Error, Result};

/// Mount options, sorted by who cares for them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct MountOptions {
    /// `root_dir=`.
    pub(crate) root_dir: Option<PathBuf>,
    /// `manifest=`.
    pub(crate) manifest: Option<String>,
    /// What the filesystem knows itself, such as `timeout=`: names and values.
    pub(crate) others: Vec<(String, Option<String>)>,
    /// What the kernel knows of every mount.
    pub(crate) attributes: Attributes,
}

/// The attributes of a mount.
#[derive(Debug, PartialEq)]
pub(crate) struct Attributes(pub(crate) MountAttrFlags);

impl Default for Attributes {
    fn default() -> Self {
        Attributes(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }
}

impl MountOptions {
    /// Adds options from a comma-separated list.
    pub(crate) fn add(&mut self, list: &OsStr) -> Result<()> {
        let options = list.as_bytes().split(|&byte| byte == b',');
        for option in options.filter(|option| !option.is_empty()) {
            self.add_one(option)?;
        }
        Ok(())
    }

    fn add_one(&mut self, option: &[u8]) -> Result<()> {
        if let Some(path) = option.strip_prefix(b"root_dir=") {
            self.root_dir = Some(PathBuf::from(OsStr::from_bytes(path)));
            return Ok(());
        }
        let text = std::str::from_utf8(option).map_err(|_| {
            let option = String::from_utf8_lossy(option);
            Error::MountOption(format!("the mount option {option:?} is not UTF-8"))
        })?;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let attributes = &mut self.attributes.0;
        match (name, value) {
            ("manifest", Some(value)) => self.manifest = Some(value.to_owned()),
            ("nosuid", None) => *attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            ("suid", None) => *attributes -= MountAttrFlags::MOUNT_ATTR_NOSUID,
            ("nodev", None) => *attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            ("dev", None) => *attributes -= MountAttrFlags::MOUNT_ATTR_NODEV,
            ("noexec", None) => *attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            ("exec", None) => *attributes -= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            ("nosymfollow", None) => *attributes |= MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
            ("noatime", None) => *attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            ("nodiratime", None) => *attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            // For mount(8), systemd and fstab, or the default anyway. mount(8) says rw to a helper
            // unless it is told otherwise; images are read-only all the same.
            (
                "ro" | "rw" | "defaults" | "auto" | "noauto" | "user" | "nouser" | "users"
                | "group" | "owner" | "nofail" | "_netdev" | "relatime" | "atime" | "diratime"
                | "async" | "silent" | "symfollow",
                None,
            ) => (),
            ("comment", _) => (),
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => (),
            (name, value) => self
                .others
                .push((name.to_owned(), value.map(str::to_owned))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_by_who_cares() {
        let mut options = MountOptions::default();
        let list = "rw,root_dir=/a=b,timeout=5,nosuid,noauto,x-systemd.automount,,manifest=ff,new";
        options.add(OsStr::new(list)).unwrap();
        assert_eq!(
            options,
            MountOptions {
                root_dir: Some("/a=b".into()),
                manifest: Some("ff".into()),
                others: vec![("timeout".into(), Some("5".into())), ("new".into(), None)],
                attributes: Attributes(
                    MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID
                ),
            }
        );
    }
}
