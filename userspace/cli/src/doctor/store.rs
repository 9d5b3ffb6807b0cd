// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store, the directory of what is the daemon's own, and what lets it into its swarm.

use std::fs::{read_to_string, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use peerfs_names::Certificate;
use peerfs_store::{printable, Store};
use peerfs_swarm::{read_of_anybody, KeyFileError};
use peerfs_text::Causes;
use rustix::fs::{fallocate, statfs, statvfs, FallocateFlags, StatFs, StatVfs};
use rustix::process::geteuid;

use super::settings::Settings;
use super::Finding;
use crate::output::size;

const STORE: &str = "store";
const SPACE: &str = "store's space";
const FILESYSTEM: &str = "store's filesystem";
const STATE: &str = "state directory";
const SWARM_KEY: &str = "swarm key";
const CERTIFICATE: &str = "certificate";
/// Before a certificate expires, somebody who issues another one has to be found.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// Where the daemon of the system has what is its own.
const DEFAULT_STATE: &str = "/var/lib/peerfsd";
/// Less free space than this is soon gone.
const SPACE_LOW: u64 = 1 << 30;
/// How large a file is that is tried.
const TRIED: u64 = 64 * 1024;

/// Looks at them, and changes nothing.
pub(super) fn look(settings: &Settings) -> Vec<Finding> {
    let root_dir = &settings.root_dir;
    let mut findings = vec![look_at_store(root_dir)];
    if root_dir.is_dir() {
        findings.extend(statvfs(root_dir).ok().map(|space| judge_space(&space)));
        findings.extend(look_at_filesystem(root_dir));
    }
    // That of an ordinary user's daemon is made with its first start.
    let state = settings.state_dir.as_deref();
    let state = state.or_else(|| geteuid().is_root().then_some(Path::new(DEFAULT_STATE)));
    findings.extend(state.map(look_at_state));
    let swarm_key = settings.peer.swarm_key.as_deref();
    findings.extend(swarm_key.map(look_at_swarm_key));
    let certificate = settings.peer.certificate.as_deref();
    findings.extend(certificate.map(|path| look_at_certificate(path, SystemTime::now())));
    findings
}

fn look_at_store(root_dir: &Path) -> Finding {
    let shown = printable(root_dir);
    if let Err(error) = root_dir.metadata() {
        return match error.kind() {
            io::ErrorKind::NotFound => Finding::ok(
                STORE,
                format!("{shown} does not exist; peerfsd makes it when it starts"),
            ),
            _ => Finding::warning(
                STORE,
                format!("{shown} can't be looked at: {error}"),
                "try as root",
            ),
        };
    }
    match Store::open(root_dir).and_then(|store| store.images()) {
        Ok(images) => Finding::ok(STORE, format!("{shown} has {} images", images.len())),
        Err(peerfs_store::Error::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let text = format!("{shown} can't be read by this user");
            Finding::warning(STORE, text, "try as root")
        }
        Err(error) => Finding::error(
            STORE,
            format!(
                "{shown} can't be used: {}",
                printable(&Causes(&error).to_string())
            ),
            "name another with root_dir, or mend it; `peerfs verify` says more",
        ),
    }
}

fn judge_space(space: &StatVfs) -> Finding {
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let all = space.f_blocks.saturating_mul(space.f_frsize);
    let text = format!("{} free of {}", size(free), size(all));
    let advice = "`peerfs gc` gives back what no image needs, and cache_bytes in peerfsd.toml bounds what is fetched";
    // A filesystem without a number of files has none free either.
    let no_files = space.f_files > 0 && space.f_favail == 0;
    if free == 0 || no_files {
        let what = if no_files {
            "no more files can be made"
        } else {
            "nothing more can be stored"
        };
        return Finding::error(SPACE, format!("{text}: {what}"), advice);
    }
    if free < SPACE_LOW {
        return Finding::warning(SPACE, text, advice);
    }
    Finding::ok(SPACE, text)
}

/// Whether the filesystem can do what a store needs: it is tried with a file that has no name, which leaves nothing.
fn look_at_filesystem(root_dir: &Path) -> Option<Finding> {
    let kind = statfs(root_dir).map_or("unknown", |found| name_of(&found));
    let verity = ["ext4", "btrfs", "f2fs"].contains(&kind)
        && Path::new("/sys/fs")
            .join(kind)
            .join("features/verity")
            .exists();
    let verity = if verity { ", which has fs-verity" } else { "" };
    let text = format!("{kind}{verity}");
    match try_out(root_dir) {
        Ok(()) => Some(Finding::ok(FILESYSTEM, text)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(Finding::ok(
            FILESYSTEM,
            format!("{text}; whether it can be written, its owner is told"),
        )),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Some(Finding::warning(
            FILESYSTEM,
            format!("{text}, mounted read only: what is there is served, and nothing is fetched"),
            "mount it for writing, or name another store with root_dir",
        )),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Some(Finding::warning(
            FILESYSTEM,
            format!("{text} can't give back a part of a file"),
            "`peerfs gc` and cache_bytes give back whole files only; ext4, xfs and btrfs can do it",
        )),
        // It is told with the space.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => None,
        Err(error) => Some(Finding::error(
            FILESYSTEM,
            format!("{text} can't be written: {error}"),
            "the kernel's log (`dmesg`) may say why",
        )),
    }
}

fn try_out(root_dir: &Path) -> io::Result<()> {
    let file: File = tempfile::tempfile_in(root_dir)?;
    file.set_len(TRIED)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(&file, flags, 0, TRIED)?)
}

/// The name of a filesystem, of those that stores are on.
fn name_of(found: &StatFs) -> &'static str {
    match found.f_type {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0xf2f5_2010 => "f2fs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "NFS",
        0x2fc1_2fc1 => "ZFS",
        _ => "another filesystem",
    }
}

fn look_at_state(path: &Path) -> Finding {
    let shown = printable(path);
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{shown} does not exist; peerfsd makes it when it starts");
            return Finding::ok(STATE, text);
        }
        Err(error) => {
            let text = format!("{shown} can't be looked at: {error}");
            return Finding::warning(STATE, text, "try as root");
        }
    };
    if metadata.mode() & 0o022 != 0 {
        let text = format!("others than its owner may change {shown}");
        return Finding::error(STATE, text, "`chmod go-w` it");
    }
    let key = path.join("peer.key");
    match key.metadata() {
        Ok(found) if found.mode() & 0o077 != 0 => Finding::error(
            STATE,
            format!("others may read the node's key {}", printable(&key)),
            "`chmod 600` it, or remove it for a new key if somebody else may have read it",
        ),
        Ok(_) => Finding::ok(STATE, format!("{shown} has the node's key")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::ok(
            STATE,
            format!("{shown} has no key yet; peerfsd makes one when it starts"),
        ),
        Err(_) => Finding::ok(STATE, format!("{shown} is there, and closed to this user")),
    }
}

fn look_at_swarm_key(path: &Path) -> Finding {
    match read_of_anybody(path) {
        Ok(key) => Finding::ok(
            SWARM_KEY,
            format!("its fingerprint is {}", key.fingerprint()),
        ),
        Err(KeyFileError::Read { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let text = format!("{} is closed to this user", printable(path));
            Finding::warning(SWARM_KEY, text, "try as root")
        }
        Err(error) => Finding::error(
            SWARM_KEY,
            Causes(&error).to_string(),
            "peerfsd does not start until that is mended",
        ),
    }
}

fn look_at_certificate(path: &Path, now: SystemTime) -> Finding {
    let shown = printable(path);
    let unusable = |problem: String| {
        let text = format!("{shown} cannot be used: {problem}");
        Finding::error(
            CERTIFICATE,
            text,
            "peerfsd does not start until that is mended",
        )
    };
    let certificate = match read_to_string(path) {
        Ok(text) => Certificate::from_text(&text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let certificate = match certificate {
        Ok(certificate) => certificate,
        Err(problem) => return unusable(problem),
    };
    let advice = format!(
        "`peerfs member issue {}`, where the swarm's key is",
        certificate.node()
    );
    match certificate.expiry().duration_since(now) {
        Err(_) | Ok(Duration::ZERO) => {
            let text = format!("{shown} has expired: other members do not let this node in");
            Finding::error(CERTIFICATE, text, advice)
        }
        Ok(left) if left < EXPIRES_SOON => {
            let text = format!("{shown} expires in {} hours", left.as_secs() / 3600);
            Finding::warning(CERTIFICATE, text, advice)
        }
        Ok(left) => Finding::ok(
            CERTIFICATE,
            format!("it holds for {} more days", left.as_secs() / (24 * 3600)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{set_permissions, write, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use peerfs_names::SecretKey;

    use super::super::Level;
    use super::*;

    #[test]
    fn little_space_is_a_warning_and_none_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut space = statvfs(folder.path()).unwrap();
        space.f_frsize = 4096;
        space.f_files = 0;
        for (free, level) in [
            (0, Level::Error),
            (100, Level::Warning),
            (1 << 20, Level::Ok),
        ] {
            space.f_bavail = free;
            assert_eq!(judge_space(&space).level, level, "{free}");
        }
        space.f_files = 10;
        space.f_favail = 0;
        assert_eq!(judge_space(&space).level, Level::Error);
    }

    #[test]
    fn a_swarm_key_that_cannot_be_used_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swarm.key");
        assert_eq!(look_at_swarm_key(&path).level, Level::Error);
        let key = peerfs_swarm::create(&path).unwrap();
        let found = look_at_swarm_key(&path);
        assert_eq!(found.level, Level::Ok);
        assert!(found.text.contains(&key.fingerprint().to_string()));
        set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(look_at_swarm_key(&path).level, Level::Error);
    }

    #[test]
    fn a_certificate_that_ends_is_told_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("member.pem");
        let level = |day: u64| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 24 * 3600);
            look_at_certificate(&path, now).level
        };
        assert_eq!(level(0), Level::Error);
        let key = SecretKey::parse(&SecretKey::generate().unwrap()).unwrap();
        let certificate = Certificate::issue("12D3KooW", 0, 90 * 24 * 3600, &key).unwrap();
        write(&path, certificate.to_text()).unwrap();
        let levels = [0, 82, 84, 90].map(level);
        use Level::{Error, Ok, Warning};
        assert_eq!(levels, [Ok, Ok, Warning, Error]);
    }

    #[test]
    fn a_key_that_others_may_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(look_at_state(folder.path()).level, Level::Ok);
        let key = folder.path().join("peer.key");
        write(&key, b"secret").unwrap();
        set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(look_at_state(folder.path()).level, Level::Error);
        set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_at_state(folder.path()).level, Level::Ok);
        set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(look_at_state(folder.path()).level, Level::Error);
    }

    #[test]
    fn nothing_is_left_where_it_was_tried() {
        let folder = tempfile::tempdir().unwrap();
        assert!(look_at_filesystem(folder.path()).is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let not_a_store = folder.path().join("other");
        std::fs::create_dir(&not_a_store).unwrap();
        write(not_a_store.join("file"), b"x").unwrap();
        assert_eq!(look_at_store(&not_a_store).level, Level::Error);
    }
}
