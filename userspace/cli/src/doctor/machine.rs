// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The kernel and its clock.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_store::printable;
use peerfs_sys::clock::is_synchronized;
use rustix::system::uname;

use super::Finding;

const MODULE: &str = "kernel module";
const DEVICE: &str = "device";
const CLOCK: &str = "clock";
/// 2026: a clock that says less is wrong.
const OLDEST: Duration = Duration::from_secs(1_767_225_600);

/// The kernel module, and its device if the daemon is to serve one.
pub(super) fn kernel(device: Option<&Path>) -> Vec<Finding> {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_there = has_filesystem(&filesystems);
    let release = uname().release().to_string_lossy().into_owned();
    let release = printable(&release);
    let module = match (is_there, device) {
        (true, _) => Finding::ok(MODULE, format!("Linux {release} has peerfs")),
        (false, None) => Finding::ok(
            MODULE,
            format!("Linux {release} has no peerfs, and the configuration wants none"),
        ),
        (false, Some(_)) => Finding::error(
            MODULE,
            format!("Linux {release} has no peerfs"),
            "load it with `modprobe peerfs`; if there is none, install it (README.md), or set device = \"none\" for \
             a daemon that only serves peers and mounts through FUSE",
        ),
    };
    // Without a module there is no device.
    let device = device.filter(|_| is_there).map(look_at_device);
    [Some(module), device].into_iter().flatten().collect()
}

/// Whether `/proc/filesystems` names peerfs.
fn has_filesystem(filesystems: &str) -> bool {
    filesystems
        .lines()
        .any(|line| line.split_whitespace().last() == Some("peerfs"))
}

fn look_at_device(path: &Path) -> Finding {
    let shown = printable(path);
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            let advice = "udev or devtmpfs makes it when the module is loaded; in a container it has to be given";
            return Finding::error(DEVICE, format!("{shown}: {error}"), advice);
        }
    };
    if !metadata.file_type().is_char_device() {
        let advice = "remove it, and load the module anew";
        return Finding::error(DEVICE, format!("{shown} is no device"), advice);
    }
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::ok(DEVICE, format!("{shown} can be opened")),
        // The daemon is root's.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::ok(
            DEVICE,
            format!("{shown} is there; whether it can be opened, root is told"),
        ),
        Err(error) => Finding::error(
            DEVICE,
            format!("{shown} can't be opened: {error}"),
            "the kernel's log (`dmesg`) may say why",
        ),
    }
}

/// The clock: bans, and records of what is where, end by it.
pub(super) fn clock() -> Finding {
    judge_clock(SystemTime::now(), is_synchronized())
}

fn judge_clock(now: SystemTime, is_synchronized: Option<bool>) -> Finding {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since < OLDEST {
        let advice = "set it: certificates of registries, bans and collections go by it";
        return Finding::error(CLOCK, "the clock is years behind", advice);
    }
    match is_synchronized {
        Some(true) => Finding::ok(CLOCK, "is kept right by the network"),
        Some(false) => Finding::warning(
            CLOCK,
            "nothing keeps it right",
            "start a time service, such as systemd-timesyncd or chrony",
        ),
        None => Finding::ok(CLOCK, "the kernel does not say who keeps it right"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn the_module_is_found_by_its_whole_name() {
        assert!(has_filesystem("nodev\tproc\nnodev\tpeerfs\n\text4\n"));
        assert!(!has_filesystem("nodev\tpeerfs2\n"));
    }

    #[test]
    fn a_clock_of_1970_is_an_error_and_one_without_care_a_warning() {
        let now = UNIX_EPOCH + OLDEST + Duration::from_secs(1);
        for (time, synchronized, level) in [
            (UNIX_EPOCH, Some(true), Level::Error),
            (now, Some(true), Level::Ok),
            (now, Some(false), Level::Warning),
            (now, None, Level::Ok),
        ] {
            assert_eq!(judge_clock(time, synchronized).level, level);
        }
    }

    #[test]
    fn what_is_no_device_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(look_at_device(folder.path()).level, Level::Error);
        let missing = look_at_device(&folder.path().join("missing"));
        assert_eq!(missing.level, Level::Error);
    }
}
