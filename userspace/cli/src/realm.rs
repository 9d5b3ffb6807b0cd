// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The keys of realms: what commands read encrypted images with, and `peerfs key realm` and `peerfs key import`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{stdin, Read};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use peerfs_format::{Digest, KeyId};
use peerfs_grant::Identities;
use peerfs_realm::GRANT_MAX;
use peerfs_store::{printable, RealmKey, Reference, Store};
use peerfs_sys::keyring::{add_logon_key, invalidate, Key, Keyring};

use crate::arguments::StoreArguments;
use crate::error::{Error, Result};
use crate::mount_options::MountOptions;
use crate::names::key::leave_no_core_dump;
use crate::output::{tell, Output};

/// The keys of the encrypted images that a command reads.
#[derive(Args)]
pub(crate) struct ReadingKeys {
    /// The file of the key that an encrypted image is read with (`peerfs key realm`), "-" for the standard input. May be
    /// repeated.
    #[arg(long = "key", value_name = "FILE", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// The file of an identity (`peerfs key identity`) that the key of an encrypted image was granted to, "-" for the standard
    /// input. The key is in the image's envelope then, which the store has from a registry or from `peerfs key grant`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    identity: Option<PathBuf>,
}

impl ReadingKeys {
    /// The keys for these images.
    pub(crate) fn read(&self, store: &Store, images: &[Digest]) -> Result<Vec<RealmKey>> {
        let mut keys = self.read_files()?;
        if let Some(identity) = &self.identity {
            let identities = read_identities(identity)?;
            for image in images {
                let wanted = store.key_of(image)?;
                if let Some(wanted) = wanted.filter(|wanted| !has(&keys, wanted)) {
                    keys.push(granted(store, wanted, &identities)?);
                }
            }
        }
        Ok(keys)
    }

    /// The keys for all images of a store, as far as they can be had.
    pub(crate) fn read_for_all(&self, store: &Store) -> Result<Vec<RealmKey>> {
        let mut keys = self.read_files()?;
        if let Some(identity) = &self.identity {
            let identities = read_identities(identity)?;
            let images = store.images()?;
            let wanted = images.iter().map(|image| store.key_of(&image.manifest));
            // Of what can't be read more is said by who reads it whole.
            let wanted: HashSet<KeyId> = wanted.filter_map(|key| key.ok().flatten()).collect();
            for wanted in wanted {
                if !has(&keys, &wanted) {
                    keys.extend(granted(store, wanted, &identities).ok());
                }
            }
        }
        Ok(keys)
    }

    fn read_files(&self) -> Result<Vec<RealmKey>> {
        self.files.iter().map(|file| read(file)).collect()
    }
}

fn has(keys: &[RealmKey], wanted: &KeyId) -> bool {
    keys.iter().any(|key| key.id() == *wanted)
}

/// The key of a realm that the store has encrypted for one of the identities.
fn granted(store: &Store, wanted: KeyId, identities: &Identities) -> Result<RealmKey> {
    let envelope = store.envelope(&wanted)?;
    peerfs_grant::open_envelope(&envelope, identities, wanted).map_err(|source| Error::Granted {
        from: format!("the envelope of the key {wanted}"),
        source,
    })
}

/// The identities in a file, or on the standard input.
pub(crate) fn read_identities(file: &Path) -> Result<Identities> {
    leave_no_core_dump();
    Ok(match file.as_os_str() == STANDARD_INPUT {
        true => peerfs_grant::read_stream(stdin().lock())?,
        false => peerfs_grant::read(file)?,
    })
}

/// The key that the options of a mount name: that of a file, or one that was granted to an identity. None if they name none.
pub(crate) fn of_mount(
    options: &MountOptions,
    root_dir: &Path,
    manifest: &Digest,
) -> Result<Option<RealmKey>> {
    if let Some(file) = &options.key {
        return read(file).map(Some);
    }
    let Some(identity) = &options.identity else {
        return Ok(None);
    };
    let identities = read_identities(identity)?;
    let store = Store::open(root_dir)?;
    let wanted = store.key_of(manifest)?;
    wanted
        .map(|wanted| granted(&store, wanted, &identities))
        .transpose()
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
/// is told the file (`peerfs mount -o key=FILE`). A mount that is there keeps the key until it is unmounted. Prints what it is
/// called.
#[derive(Args)]
pub(crate) struct ImportKeyArguments {
    /// The keyring.
    #[arg(long, value_name = "KEYRING", value_enum, default_value_t)]
    keyring: KeyringChoice,
    #[command(flatten)]
    store: StoreArguments,
    /// The file of an identity (`peerfs key identity`), "-" for the standard input: the key was granted to it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    identity: Option<PathBuf>,
    /// The image of the store whose key was granted to the identity, in the place of a file.
    #[arg(
        long,
        value_name = "IMAGE",
        requires = "identity",
        conflicts_with = "file"
    )]
    image: Option<Reference>,
    /// A new file for the key, which its owner alone may read, in the place of the keyring. Prints the key's id.
    #[arg(short, long, value_name = "FILE", conflicts_with = "keyring", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// The file of the key, "-" for the standard input; with an identity, of a key that is encrypted for it.
    #[arg(value_name = "FILE", required_unless_present = "image", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

impl ImportKeyArguments {
    fn key(&self) -> Result<RealmKey> {
        match (&self.identity, &self.image, &self.file) {
            (Some(identity), Some(image), _) => {
                let store = Store::open(&self.store.root_dir)?;
                let manifest = store.resolve(image)?;
                let wanted = store.key_of(&manifest)?.ok_or_else(|| {
                    Error::Key(format!("{image} is not encrypted, and needs no key"))
                })?;
                granted(&store, wanted, &read_identities(identity)?)
            }
            (Some(identity), None, Some(file)) => {
                let bytes = sealed_file(file)?;
                let key = peerfs_grant::open(&bytes, &read_identities(identity)?);
                key.map_err(|source| Error::Granted {
                    from: printable(file).to_string(),
                    source,
                })
            }
            (None, _, Some(file)) if is_sealed(file) => Err(Error::Key(format!(
                "{} is encrypted: name the identity that it is for with --identity FILE",
                printable(file)
            ))),
            (_, _, file) => read(file.as_deref().unwrap_or(Path::new(STANDARD_INPUT))),
        }
    }
}

/// What somebody has sent: no secret, and not too long for what it should be.
pub(crate) fn sealed_file(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = GRANT_MAX as u64 + 1;
    let read = match file.as_os_str() == STANDARD_INPUT {
        true => stdin().lock().take(limit).read_to_end(&mut bytes),
        false => File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map(|_| bytes).map_err(|source| Error::Read {
        path: file.to_owned(),
        source,
    })
}

/// Whether a file is one of age. Of the standard input that is not known before it is read.
fn is_sealed(file: &Path) -> bool {
    file.as_os_str() != STANDARD_INPUT
        && sealed_file(file).is_ok_and(|bytes| peerfs_grant::is_sealed(&bytes))
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
    let key = arguments.key()?;
    if let Some(file) = &arguments.output {
        peerfs_realm::write(file, &key)?;
        return output.line(&key.id().to_string());
    }
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
    /// Puts it there.
    pub(crate) fn lend(key: &RealmKey) -> Result<Self> {
        add(key, Keyring::Process).map(LentKey)
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
