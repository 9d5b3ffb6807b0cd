// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The keys of realms: what commands read encrypted images with, and `peerfs key realm` and `peerfs key import`.

use std::io::stdin;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use peerfs_store::{printable, RealmKey};
use peerfs_sys::keyring::{add_logon_key, invalidate, Key, Keyring};

use crate::error::{Error, Result};
use crate::names::key::leave_no_core_dump;
use crate::output::{tell, Output};

/// The keys of the encrypted images that a command reads.
#[derive(Args)]
pub(crate) struct ReadingKeys {
    /// The file of the key that an encrypted image is read with (`peerfs key realm`), "-" for the standard input. May be
    /// repeated.
    #[arg(long = "key", value_name = "FILE", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
}

impl ReadingKeys {
    /// The keys.
    pub(crate) fn read(&self) -> Result<Vec<RealmKey>> {
        self.files.iter().map(|file| read(file)).collect()
    }
}

/// A key from its file, or from the standard input.
pub(crate) fn read(file: &Path) -> Result<RealmKey> {
    leave_no_core_dump();
    Ok(match file.as_os_str() == STANDARD_INPUT {
        true => peerfs_realm::read_stream(stdin().lock())?,
        false => peerfs_realm::read(file)?,
    })
}

/// What stands for the standard input.
const STANDARD_INPUT: &str = "-";

/// Make the key of a realm, which encrypts images.
///
/// Whoever has a copy of the file reads all images that are encrypted with it, and can make more; without it nobody can, and
/// what it has encrypted is lost if all copies are. Prints the key's id, which images name it by and which is no secret.
#[derive(Args)]
pub(crate) struct RealmArguments {
    /// Print the id of a key that is there.
    #[arg(long)]
    show: bool,
    /// Its file, in a directory that exists.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Makes a key, or shows one.
pub(crate) fn run(arguments: &RealmArguments, output: &mut Output) -> Result<()> {
    leave_no_core_dump();
    let file = &arguments.file;
    let key = match arguments.show {
        true => peerfs_realm::read(file)?,
        false => {
            let key = peerfs_realm::create(file)?;
            tell(&format!("peerfs: {} has the new key", printable(file)));
            key
        }
    };
    output.line(&key.id().to_string())
}

/// Put the key of a realm into the kernel's keyring, so that its images can be mounted.
///
/// It is a key of the type logon, which the kernel can read and no process, and is called peerfs:ID. Not needed if the mount
/// is told the file (`peerfs mount -o key=FILE`). A mount that is there keeps the key until it is unmounted.
#[derive(Args)]
pub(crate) struct ImportKeyArguments {
    /// The keyring.
    #[arg(long, value_name = "KEYRING", value_enum, default_value_t)]
    keyring: KeyringChoice,
    /// The file of the key, "-" for the standard input.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Where the kernel finds a key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum KeyringChoice {
    /// That of the user, for all sessions of his
    #[default]
    User,
    /// That of the session, if it has one: of the processes that were started from one login
    Session,
}

/// Imports a key, and prints what it is called.
pub(crate) fn import(arguments: &ImportKeyArguments, output: &mut Output) -> Result<()> {
    let key = read(&arguments.file)?;
    let keyring = match arguments.keyring {
        KeyringChoice::Session => Keyring::Session,
        KeyringChoice::User => Keyring::User,
    };
    add(&key, keyring)?;
    output.line(&description(&key))
}

/// A key that the kernel finds when this process mounts something, and nobody else does; gone when this is dropped.
pub(crate) struct LentKey(Key);

impl LentKey {
    /// The key of a file.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        add(&read(file)?, Keyring::Process).map(LentKey)
    }
}

impl Drop for LentKey {
    fn drop(&mut self) {
        // What a mount does is done with the mounter's credentials, which have the keyring. If the kernel refuses, the key
        // is gone with the mount.
        let _ = invalidate(self.0);
    }
}

fn add(key: &RealmKey, keyring: Keyring) -> Result<Key> {
    add_logon_key(keyring, &description(key), key.bytes()).map_err(Error::Keyring)
}

/// What the kernel looks for.
fn description(key: &RealmKey) -> String {
    format!("peerfs:{}", key.id())
}
