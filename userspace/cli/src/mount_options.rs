// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mount options, as `-o` and fstab have them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use peerfs_store::{printable, printable_bytes};
use rustix::mount::MountAttrFlags;

use crate::error::{Error, Result};

/// Mount options, sorted by who cares for them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MountOptions {
    /// `root_dir=`.
    pub(crate) root_dir: Option<PathBuf>,
    /// `manifest=`.
    pub(crate) manifest: Option<String>,
    /// `key=`: the file of an encrypted image's key.
    pub(crate) key: Option<PathBuf>,
    /// `identity=`: the file of an identity that the key was granted to.
    pub(crate) identity: Option<PathBuf>,
    /// `fuse`.
    pub(crate) fuse: bool,
    /// `socket=`: where the daemon listens.
    pub(crate) socket: PathBuf,
    /// Options that the filesystem knows itself, such as `timeout=`: names and values.
    pub(crate) others: Vec<(String, Option<String>)>,
    /// Attributes that the kernel knows of every mount.
    pub(crate) attributes: Attributes,
}

/// The attributes of a mount.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attributes(pub(crate) MountAttrFlags);

impl Default for Attributes {
    fn default() -> Self {
        Attributes(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            root_dir: None,
            manifest: None,
            key: None,
            identity: None,
            fuse: false,
            socket: peerfs_control::DEFAULT_SOCKET.into(),
            others: Vec::new(),
            attributes: Attributes::default(),
        }
    }
}

impl MountOptions {
    /// Adds options from a comma-separated list. As mount(8) and overlayfs have it, a comma after a backslash or
    /// between double quotes belongs to the value.
    pub(crate) fn add(&mut self, list: &OsStr) -> Result<()> {
        let mut option = Vec::new();
        let mut is_quoted = false;
        let mut bytes = list.as_bytes().iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => {
                    let escaped = bytes.next_if(|next| b"\\,\"".contains(next));
                    option.push(escaped.unwrap_or(byte));
                }
                b'"' => is_quoted = !is_quoted,
                b',' if !is_quoted => self.add_one(&std::mem::take(&mut option))?,
                _ => option.push(byte),
            }
        }
        if is_quoted {
            let list = printable(list);
            let reason = format!("a double quote is not closed in the mount options {list}");
            return Err(Error::MountOption(reason));
        }
        self.add_one(&option)
    }

    /// The options as a list that means the same, without `root_dir=` and `manifest=`.
    pub(crate) fn to_text(&self) -> OsString {
        let mut list = Vec::new();
        add_path(&mut list, "socket=", &self.socket);
        if let Some(key) = &self.key {
            list.push(b',');
            add_path(&mut list, "key=", key);
        }
        if let Some(identity) = &self.identity {
            list.push(b',');
            add_path(&mut list, "identity=", identity);
        }
        let attributes = [
            (MountAttrFlags::MOUNT_ATTR_NOSUID, "nosuid"),
            (MountAttrFlags::MOUNT_ATTR_NODEV, "nodev"),
            (MountAttrFlags::MOUNT_ATTR_NOEXEC, "noexec"),
            (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
            (MountAttrFlags::MOUNT_ATTR_NOATIME, "noatime"),
            (MountAttrFlags::MOUNT_ATTR_NODIRATIME, "nodiratime"),
        ];
        for (_, name) in attributes
            .into_iter()
            .filter(|(flag, _)| self.attributes.0.contains(*flag))
        {
            list.push(b',');
            list.extend_from_slice(name.as_bytes());
        }
        for (name, value) in &self.others {
            list.push(b',');
            list.extend_from_slice(name.as_bytes());
            if let Some(value) = value {
                list.push(b'=');
                list.extend_from_slice(value.as_bytes());
            }
        }
        OsString::from_vec(list)
    }

    fn add_one(&mut self, option: &[u8]) -> Result<()> {
        if option.is_empty() {
            return Ok(());
        }
        if let Some(path) = option.strip_prefix(b"root_dir=") {
            self.root_dir = Some(PathBuf::from(OsStr::from_bytes(path)));
            return Ok(());
        }
        if let Some(path) = option.strip_prefix(b"key=") {
            self.key = Some(PathBuf::from(OsStr::from_bytes(path)));
            return Ok(());
        }
        if let Some(path) = option.strip_prefix(b"identity=") {
            self.identity = Some(PathBuf::from(OsStr::from_bytes(path)));
            return Ok(());
        }
        if let Some(path) = option.strip_prefix(b"socket=") {
            self.socket = PathBuf::from(OsStr::from_bytes(path));
            return Ok(());
        }
        let text = std::str::from_utf8(option).map_err(|_| {
            let option = printable_bytes(option);
            Error::MountOption(format!("the mount option {option} is not UTF-8"))
        })?;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let attributes = &mut self.attributes.0;
        match (name, value) {
            ("manifest", Some(value)) => self.manifest = Some(value.to_owned()),
            ("fuse", None) => self.fuse = true,
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

/// Adds an option whose value is a path.
fn add_path(list: &mut Vec<u8>, name: &str, path: &Path) {
    list.extend_from_slice(name.as_bytes());
    for &byte in path.as_os_str().as_bytes() {
        if b"\\,\"".contains(&byte) {
            list.push(b'\\');
        }
        list.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_by_who_cares() {
        let mut options = MountOptions::default();
        let list = "rw,root_dir=/a=b,timeout=5,nosuid,noauto,x-systemd.automount,,manifest=ff,new,key=/k\\,1,identity=/i";
        options.add(OsStr::new(list)).unwrap();
        assert_eq!(
            options,
            MountOptions {
                root_dir: Some("/a=b".into()),
                manifest: Some("ff".into()),
                key: Some("/k,1".into()),
                identity: Some("/i".into()),
                others: vec![("timeout".into(), Some("5".into())), ("new".into(), None)],
                attributes: Attributes(
                    MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID
                ),
                ..MountOptions::default()
            }
        );
        let mut again = MountOptions {
            root_dir: options.root_dir.clone(),
            manifest: options.manifest.clone(),
            ..MountOptions::default()
        };
        again.add(&options.to_text()).unwrap();
        assert_eq!(again, options);
    }

    #[test]
    fn a_path_may_have_commas() {
        for (list, root_dir) in [
            (r"ro,root_dir=/a\,b,timeout=5", "/a,b"),
            (r#"root_dir="/a,b",timeout=5"#, "/a,b"),
            (r#""root_dir=/a,b",timeout=5"#, "/a,b"),
            (r#"root_dir=/a\\,timeout=5"#, r"/a\"),
            (r#"root_dir=/a\"b\x2d,timeout=5"#, r#"/a"b\x2d"#),
        ] {
            let mut options = MountOptions::default();
            options.add(OsStr::new(list)).unwrap();
            assert_eq!(options.root_dir, Some(root_dir.into()), "{list}");
            assert_eq!(options.others, [("timeout".into(), Some("5".into()))]);
        }
        let unclosed = MountOptions::default().add(OsStr::new("root_dir=\"/a"));
        assert!(unclosed.is_err());
    }
}
