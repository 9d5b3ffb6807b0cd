// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What containerd is to mount for a snapshot.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::folder::Place;
use crate::record::Kind;

/// A mount, as mount(8) is told it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// The filesystem's type.
    pub kind: &'static str,
    /// What is mounted.
    pub source: String,
    /// The options.
    pub options: Vec<String>,
}

/// What this machine's overlayfs is to be told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Overlay {
    options: Vec<String>,
}

impl Overlay {
    /// Looks at the machine.
    pub fn of_this_machine() -> Self {
        let mut options = Vec::new();
        // A snapshot is mounted in more than one place at times; an index would refuse that.
        if Path::new("/sys/module/overlay/parameters/index").exists() {
            options.push("index=off".to_owned());
        }
        if is_in_a_user_namespace(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default()) {
            options.push("userxattr".to_owned());
        }
        Overlay { options }
    }

    /// The mounts of a snapshot over `lowers`, the uppermost first.
    pub(crate) fn mounts(&self, kind: Kind, place: &Place, lowers: &[PathBuf]) -> Vec<Mount> {
        let bind = |source: &Path, access: &str| {
            vec![Mount {
                kind: "bind",
                source: text(source),
                options: vec![access.to_owned(), "rbind".to_owned()],
            }]
        };
        let mut options = self.options.clone();
        match (kind, lowers) {
            (Kind::Active, []) => return bind(&place.files(), "rw"),
            (_, []) => return bind(&place.files(), "ro"),
            (Kind::View | Kind::Committed, [lower]) => return bind(lower, "ro"),
            (Kind::View | Kind::Committed, _) => (),
            (Kind::Active, _) => {
                options.push(format!("workdir={}", text(&place.work())));
                options.push(format!("upperdir={}", text(&place.files())));
            }
        }
        let lowers: Vec<String> = lowers.iter().map(|lower| text(lower)).collect();
        options.push(format!("lowerdir={}", lowers.join(":")));
        vec![Mount {
            kind: "overlay",
            source: "overlay".to_owned(),
            options,
        }]
    }
}

/// Fails if overlayfs could not be told of a folder below this one.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_path(path: &Path) -> Result<()> {
    let is_fit = path.is_absolute()
        && path.to_str().is_some()
        && !path
            .as_os_str()
            .as_bytes()
            .iter()
            .any(|byte| b":,\\".contains(byte));
    if is_fit {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{} must be absolute, of UTF-8, and without a comma, a colon or a backslash, for it is part of mount options",
        path.display()
    )))
}

/// A path that was checked.
fn text(path: &Path) -> String {
    OsStr::to_string_lossy(path.as_os_str()).into_owned()
}

/// Whether this map of user ids leaves out some, as that of the first user namespace does not.
fn is_in_a_user_namespace(uid_map: &str) -> bool {
    let fields: Vec<&str> = uid_map.split_ascii_whitespace().collect();
    fields != ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_lies_over_what_is_below_it() {
        let overlay = Overlay {
            options: vec!["index=off".to_owned()],
        };
        let place = Place::new(Path::new("/r"), 7);
        let lowers = ["/r/snapshots/3/fs", "/r/snapshots/1/fs"].map(PathBuf::from);
        let mounts = |kind, lowers| {
            let mounts = overlay.mounts(kind, &place, lowers);
            assert_eq!(mounts.len(), 1);
            let mount = &mounts[0];
            format!(
                "{} {} {}",
                mount.kind,
                mount.source,
                mount.options.join(",")
            )
        };
        assert_eq!(mounts(Kind::Active, &[]), "bind /r/snapshots/7/fs rw,rbind");
        assert_eq!(mounts(Kind::View, &[]), "bind /r/snapshots/7/fs ro,rbind");
        assert_eq!(
            mounts(Kind::View, &lowers[1..]),
            "bind /r/snapshots/1/fs ro,rbind"
        );
        assert_eq!(
            mounts(Kind::View, &lowers),
            "overlay overlay index=off,lowerdir=/r/snapshots/3/fs:/r/snapshots/1/fs"
        );
        assert_eq!(
            mounts(Kind::Active, &lowers[1..]),
            "overlay overlay index=off,workdir=/r/snapshots/7/work,upperdir=/r/snapshots/7/fs,\
             lowerdir=/r/snapshots/1/fs"
        );
    }

    #[test]
    fn a_path_that_overlayfs_would_take_apart_is_refused() {
        for path in ["/a:b", "/a,b", "/a\\b", "a"] {
            assert!(check_path(Path::new(path)).is_err(), "{path}");
        }
        assert!(check_path(Path::new("/var/lib/peerfs-snapshotter")).is_ok());
    }

    #[test]
    fn a_user_namespace_is_told_by_its_map() {
        assert!(!is_in_a_user_namespace(
            "         0          0 4294967295\n"
        ));
        assert!(is_in_a_user_namespace("         0       1000          1\n"));
    }
}
