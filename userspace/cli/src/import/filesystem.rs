// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of filesystems, through what reads them well: squashfs by `sqfs2tar`, which needs no privileges and makes an
//! archive of all but sockets; EROFS by the kernel, since no program keeps all that is in one.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};

use peerfs_build::{ArchiveTree, Blob, Layer, Promise, Result as BuildResult};
use peerfs_store::printable_bytes;
use peerfs_sys::loop_device::LoopDevice;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, FsMountFlags,
    FsOpenFlags, MountAttrFlags,
};
use rustix::process::{prlimit, Pid, Resource, Rlimit};

use super::source::Format;
use crate::error::{Error, Result};
use crate::mount::kernel_log;
use crate::output::tell;

/// What squashfs begins with.
const SQUASHFS_MAGIC: &[u8] = b"hsqs";
/// What the superblock of EROFS begins with, and where that is.
const EROFS_MAGIC: &[u8] = &0xe0f5_e1e2_u32.to_le_bytes();
const EROFS_SUPERBLOCK: u64 = 1024;
/// The program that reads squashfs, and its address space at most.
const SQFS2TAR: &str = "sqfs2tar";
const ADDRESS_SPACE_MAX: u64 = 4 << 30;
/// The most bytes of a program's messages that are kept.
const SAID_MAX: u64 = 64 * 1024;

/// What a file is, if it is the image of a filesystem.
pub(super) fn format_of(file: &File) -> Option<Format> {
    let begins = |offset, magic: &[u8]| {
        let mut bytes = vec![0; magic.len()];
        let read = file.read_exact_at(&mut bytes, offset);
        read.is_ok() && bytes == magic
    };
    if begins(0, SQUASHFS_MAGIC) {
        Some(Format::Squashfs)
    } else if begins(EROFS_SUPERBLOCK, EROFS_MAGIC) {
        Some(Format::Erofs)
    } else {
        None
    }
}

/// Reads a squashfs image as the archive that `sqfs2tar` makes of it. `read` reads an archive.
pub(super) fn squashfs(
    file: File,
    path: &Path,
    read: impl FnOnce(Layer) -> BuildResult<ArchiveTree>,
) -> Result<ArchiveTree> {
    let mut program = Program::start(file).map_err(|source| Error::Program {
        program: SQFS2TAR,
        package: "squashfs-tools-ng",
        source,
    })?;
    let archive = program.child.stdout.take();
    let outcome = read(Layer {
        path: path.to_owned(),
        blob: Blob::Stream(Box::new(|| {
            let archive = archive.ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(Box::new(archive))
        })),
        promise: Promise::default(),
    });
    let (is_done, said) = program.end(outcome.is_ok());
    let said = said.trim_ascii();
    match outcome {
        // What it complained of comes first: that is why the archive ends.
        Ok(_) | Err(peerfs_build::Error::Archive { .. }) if !is_done => Err(Error::Unreadable {
            path: path.to_owned(),
            program: SQFS2TAR,
            said: printable_bytes(said).to_string(),
        }),
        Ok(tree) => {
            for line in said
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                tell(&format!(
                    "peerfs: warning: {SQFS2TAR}: {}",
                    printable_bytes(line)
                ));
            }
            Ok(tree)
        }
        Err(error) => Err(error.into()),
    }
}

/// A program that runs, and is ended when this is dropped.
struct Program {
    child: Child,
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Program {
    /// Starts `sqfs2tar` with an image as its standard input, so that it is the file that was looked at, whatever it is
    /// called.
    fn start(image: File) -> io::Result<Self> {
        let mut command = Command::new(SQFS2TAR);
        command.args(["--root-becomes", ".", "/dev/stdin"]);
        command.env("LC_ALL", "C").stdin(image);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = child.stderr.take();
        let program = Program {
            said: said.map(|said| thread::spawn(|| listen(said))),
            child,
        };
        let limit = Rlimit {
            current: Some(ADDRESS_SPACE_MAX),
            maximum: Some(ADDRESS_SPACE_MAX),
        };
        // It has ended already if there is no such process.
        let _ = prlimit(Some(Pid::from_child(&program.child)), Resource::As, limit);
        Ok(program)
    }

    /// Waits for its end, or brings it about; says whether all went well, and what it has said.
    fn end(&mut self, may_finish: bool) -> (bool, Vec<u8>) {
        if !may_finish {
            // It may have ended just now. What it has said until then is of interest.
            let _ = self.child.kill();
        }
        let is_done = self.child.wait().is_ok_and(|status| status.success());
        let said = self.said.take().and_then(|said| said.join().ok());
        (is_done, said.unwrap_or_default())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// What a program says, at most so much of it.
fn listen(mut said: ChildStderr) -> Vec<u8> {
    let mut text = Vec::new();
    // What can't be read was not said.
    let _ = said.by_ref().take(SAID_MAX).read_to_end(&mut text);
    let _ = io::copy(&mut said, &mut io::sink());
    text
}

/// An image that the kernel has mounted where no path leads to. It is unmounted when this is dropped, or the process ends.
pub(super) struct Mounted {
    mount: OwnedFd,
}

impl Mounted {
    /// Mounts an EROFS image.
    pub(super) fn erofs(file: &File, path: &Path) -> Result<Self> {
        let failed = |log: String, source: io::Error| Error::Filesystem {
            path: path.to_owned(),
            log,
            source,
        };
        let hint = |error: io::Error| {
            let log = match error.kind() {
                io::ErrorKind::PermissionDenied => "only root may have the kernel read it",
                io::ErrorKind::NotFound => "there are no loop devices here",
                _ => "the kernel does not read it",
            };
            failed(log.to_owned(), error)
        };
        let device = LoopDevice::new(file.as_fd()).map_err(hint)?;
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
            let log = "this kernel has no EROFS, or only root may mount";
            failed(log.to_owned(), errno.into())
        })?;
        let configure = || {
            fsconfig_set_string(&context, "source", device.path())?;
            fsconfig_set_flag(&context, "ro")?;
            fsconfig_create(&context)
        };
        configure().map_err(|errno| failed(kernel_log(context.as_fd()), errno.into()))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        let mount = mount.map_err(|errno| hint(errno.into()))?;
        Ok(Mounted { mount })
    }

    /// A path by which this process reaches its root.
    pub(super) fn root(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.mount.as_raw_fd()).into()
    }
}
