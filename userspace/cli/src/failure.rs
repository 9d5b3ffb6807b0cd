// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Messages of commands that fail, and warnings of those that do not.

use std::io;
use std::process::ExitCode;

use peerfs_store::Error as StoreError;
use peerfs_text::Causes;

use crate::error::Error;
use crate::output::tell;

/// The program whose messages these are.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The option by which it is told where the store is.
    root_dir: &'static str,
    /// The one by which it is told a realm's key.
    key: &'static str,
    /// The one by which it is told whom a key was granted to.
    identity: &'static str,
}

pub(crate) const PEERFS: Program = Program {
    name: "peerfs",
    root_dir: "--root-dir",
    key: "--key FILE",
    identity: "--identity FILE",
};
pub(crate) const MOUNT_HELPER: Program = Program {
    name: "mount.peerfs",
    root_dir: "-o root_dir=",
    key: "-o key=FILE",
    identity: "-o identity=FILE",
};

impl Program {
    /// Prints what is wrong with the arguments, or the help that they ask for.
    pub(crate) fn explain(&self, error: &clap::Error, misused: u8) -> ExitCode {
        let text = error.render().to_string();
        // It repeats arguments, which may be names that somebody else chose.
        if error.use_stderr() && text.contains(|letter: char| letter.is_control() && letter != '\n')
        {
            tell(&text);
            return ExitCode::from(misused);
        }
        match error.print() {
            // If this can't be printed, the status tells.
            _ if error.use_stderr() => ExitCode::from(misused),
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.report(&Error::Output(error));
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        }
    }

    /// Prints an error with its causes as one line, of a command that goes on.
    pub(crate) fn tell(&self, error: &dyn std::error::Error) {
        tell(&format!("{}: {}", self.name, Causes(error)));
    }

    /// Prints an error with its causes, and what to do about it, as one line, unless it is a list.
    pub(crate) fn report(&self, error: &Error) {
        if error.is_silent() {
            return;
        }
        let advice = self.advice(error);
        let separator = if advice.is_empty() { "" } else { "; " };
        tell(&format!(
            "{}: {}{separator}{advice}",
            self.name,
            Causes(error)
        ));
    }

    /// What the user of a command can do about an error. The libraries do not know what commands there are.
    fn advice(&self, error: &Error) -> String {
        let root_dir = self.root_dir;
        let error = match error {
            Error::Store(error)
            | Error::Build(peerfs_build::Error::Store(error))
            | Error::Export(
                peerfs_export::Error::Image(error)
                | peerfs_export::Error::Content { source: error, .. },
            ) => error,
            Error::Export(peerfs_export::Error::NotEmpty(_)) => {
                return "name another directory, or have it written over with --overwrite"
                    .to_owned()
            }
            Error::Build(peerfs_build::Error::StoreInTree(_)) => {
                return format!("name another with {root_dir}");
            }
            _ => return String::new(),
        };
        match error {
            StoreError::NotAStore(_) => {
                format!("name one with {root_dir}, or make one with `peerfs build`")
            }
            StoreError::NotEmpty(_) => format!("name another directory with {root_dir}"),
            StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!("try as root, or name another store with {root_dir}")
            }
            StoreError::TooLarge { .. } => {
                format!("use another store ({root_dir}), or make several images of the tree")
            }
            StoreError::KeyNeeded { .. } => format!(
                "name the file that has it with {}, or your identity with {} if it was granted to you",
                self.key, self.identity
            ),
            StoreError::NotAnImage(_) => "build one with `peerfs build`".to_owned(),
            StoreError::NotPulled(_) => "`peerfs pull` fetches it from its registry".to_owned(),
            StoreError::OfPublisher(_) => {
                "`peerfs history` asks peerfsd, and prints the digests of its images".to_owned()
            }
            StoreError::NoIndex(_) => {
                "name images by their digests, or build them again: `peerfs build` makes a new one, and finds the \
                 content that is here"
                    .to_owned()
            }
            StoreError::BlobMissing(_) | StoreError::ChunkMissing { .. } => {
                "`peerfs pull` brings it, if peerfsd runs; to mount the image fetches what is read".to_owned()
            }
            StoreError::BlobDamaged(_) | StoreError::ChunkDamaged { .. } => {
                "`peerfs verify` says more".to_owned()
            }
            _ => String::new(),
        }
    }
}
