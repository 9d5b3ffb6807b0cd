// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong with a command.

use std::io;
use std::path::PathBuf;

use peerfs_store::printable;

/// The result of a command.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] peerfs_store::Error),
    #[error(transparent)]
    Build(#[from] peerfs_build::Error),
    #[error(transparent)]
    Export(#[from] peerfs_export::Error),
    #[error(transparent)]
    Control(#[from] peerfs_control::Error),
    #[error(transparent)]
    Registry(#[from] peerfs_registry::Error),
    #[error(transparent)]
    Origin(#[from] peerfs_fetch::source::OriginError),
    #[error(transparent)]
    Policy(#[from] peerfs_fetch::PolicyError),
    #[error(transparent)]
    Begin(#[from] peerfs_fetch::BeginError),
    /// Not all of an image came.
    #[error("{0}")]
    Pull(String),
    /// What the daemon alone decides.
    #[error("peerfsd pulls the image, and how it asks registries is set by {0} in its configuration; with --root-dir this command pulls by itself")]
    OfDaemon(&'static str),
    /// An image is to go to a place that is none.
    #[error("{0}")]
    Destination(String),
    /// The threads for the network can't be started.
    #[error("can't start threads")]
    Runtime(#[source] io::Error),
    /// A text that should name an image is no reference.
    #[error(transparent)]
    Reference(#[from] peerfs_store::InvalidReference),
    /// The key of a private swarm can't be made or shown.
    #[error(transparent)]
    SwarmKey(#[from] peerfs_swarm::KeyFileError),
    /// The key of a realm can't be made, shown or used.
    #[error(transparent)]
    RealmKey(#[from] peerfs_realm::KeyFileError),
    /// An identity can't be made, shown or used.
    #[error(transparent)]
    Identity(#[from] peerfs_grant::IdentityError),
    /// Somebody who should get a key is no recipient.
    #[error("can't grant the key to what {from} names")]
    Recipient {
        from: String,
        source: peerfs_grant::InvalidRecipient,
    },
    /// A key can't be encrypted.
    #[error(transparent)]
    Seal(#[from] peerfs_grant::SealError),
    /// Nothing that was granted has the key.
    #[error("{from} gives no key")]
    Granted {
        from: String,
        source: peerfs_grant::OpenError,
    },
    /// The kernel takes no key.
    #[error("can't put the key into the kernel's keyring")]
    Keyring(#[source] io::Error),
    /// A key or a name can't be used.
    #[error("{0}")]
    Key(String),
    /// The daemon refused a request.
    #[error("peerfsd says: {0}")]
    Refused(String),
    /// The daemon went away in the middle.
    #[error("peerfsd has ended before it was done; start it again, and then this command")]
    DaemonEnded,
    /// The daemon has said nothing for long.
    #[error("peerfsd does not say anything any more; its log may say why")]
    DaemonSilent,
    /// The daemon answered another question.
    #[error("peerfsd's answer is not understood; do peerfs and peerfsd have the same version?")]
    UnexpectedReply,
    /// Somebody wanted the command to end.
    #[error("interrupted")]
    Cancelled,
    /// Nothing was noted of an image.
    #[error(transparent)]
    NoTrace(#[from] peerfs_trace::NoTrace),
    /// A file is no trace.
    #[error("{} can't be imported as a trace", printable(path))]
    Trace {
        path: PathBuf,
        source: peerfs_trace::TraceError,
    },
    #[error("can't read {}", printable(path))]
    Read { path: PathBuf, source: io::Error },
    /// Something can't be imported.
    #[error("can't import {}: {problem}", printable(path))]
    Import {
        path: PathBuf,
        problem: &'static str,
    },
    /// A program that is needed can't be started.
    #[error("can't run {program}; install {package}, which has it")]
    Program {
        program: &'static str,
        package: &'static str,
        source: io::Error,
    },
    /// A program refused a file.
    #[error("can't import {}: {program} says: {said}", printable(path))]
    Unreadable {
        path: PathBuf,
        program: &'static str,
        said: String,
    },
    /// The kernel refused the image of a filesystem.
    #[error("can't import {}: {log}", printable(path))]
    Filesystem {
        path: PathBuf,
        log: String,
        source: io::Error,
    },
    /// An image of a container can't be imported.
    #[error("can't import {}", printable(path))]
    Container {
        path: PathBuf,
        source: peerfs_oci::Error,
    },
    /// A container can't be made, run or found.
    #[error("{0}")]
    Run(String),
    /// The output can't be written.
    #[error("can't write the output")]
    Output(#[source] io::Error),
    /// The output would be bytes that a terminal obeys.
    #[error(
        "an archive is not written to a terminal; name a file with -o, or send it to a program"
    )]
    Terminal,
    #[error("can't write {}", printable(path))]
    Write { path: PathBuf, source: io::Error },
    /// A mount failed; the kernel's messages are in `log`, or a hint.
    #[error("can't mount {} on {}: {log}", printable(image), printable(mountpoint))]
    Mount {
        image: String,
        mountpoint: PathBuf,
        log: String,
        source: io::Error,
    },
    /// A mount through FUSE failed, for this reason.
    #[error("{0}")]
    Fuse(String),
    #[error("can't unmount {}{hint}", printable(mountpoint))]
    Unmount {
        mountpoint: PathBuf,
        hint: &'static str,
        source: io::Error,
    },
    /// `--exclude` is not what it should be.
    #[error(transparent)]
    Pattern(#[from] peerfs_build::PatternError),
    /// The environment has something that can't be understood.
    #[error("SOURCE_DATE_EPOCH is {0:?}, and should be a number of seconds since 1970")]
    SourceDate(std::ffi::OsString),
    /// A mount option is not what it should be.
    #[error("{0}")]
    MountOption(String),
    /// Files could not be extracted; the reasons were printed.
    #[error("{0} things could not be done as they are in the image; see above")]
    NotAsInImage(u64),
    /// Two images are not the same, which the output says.
    #[error("the images differ")]
    Different,
    /// `peerfs doctor` found something, which the output says.
    #[error("something is wrong")]
    Unwell,
    /// `peerfs verify` found something; it was printed.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl Error {
    /// Whether somebody wanted the command to end.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Error::Cancelled
                | Error::Build(peerfs_build::Error::Cancelled)
                | Error::Export(peerfs_export::Error::Cancelled)
        )
    }

    /// Whether there is nothing more to say: nobody reads the output, or it says all.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Error::Different | Error::Unwell)
            || matches!(
                self,
                Error::Output(error) | Error::Export(peerfs_export::Error::Output(error))
                    if error.kind() == io::ErrorKind::BrokenPipe
            )
    }
}
