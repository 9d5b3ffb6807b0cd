// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs key`: the keys that sign, those of private swarms, and those of realms.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use peerfs_names::{SecretKey, SigningKey};
use peerfs_store::printable;
use peerfs_swarm::{create, read_of_anybody};
use peerfs_sys::secret_file::{self, SecretError};
use rustix::process::{geteuid, set_dumpable_behavior, DumpableBehavior};
use zeroize::Zeroizing;

use crate::certified::{self, TrustArguments};
use crate::error::{Error, Result};
use crate::grants::{self, GrantArguments, GrantsArguments, IdentityArguments};
use crate::output::{tell, Align, Output};
use crate::realm::{self, ImportKeyArguments, RealmArguments};

/// What files of keys are called.
const EXTENSION: &str = "pem";
/// The most bytes of one.
const LENGTH_MAX: u64 = 64 * 1024;

/// Where keys are.
#[derive(Args)]
pub(crate) struct KeyFolder {
    /// The directory of the keys; by default /etc/peerfs/keys for root, and peerfs/keys in the user's directory of
    /// configurations for others.
    #[arg(long, value_name = "DIR", env = "PEERFS_KEYS", value_hint = ValueHint::DirPath)]
    keys: Option<PathBuf>,
}

/// A key that signs.
#[derive(Args)]
pub(crate) struct SigningKeyArguments {
    #[command(flatten)]
    folder: KeyFolder,
    /// The key that signs: what it is called, or the path of its file.
    #[arg(long, value_name = "KEY", default_value = DEFAULT_KEY)]
    key: String,
}

impl SigningKeyArguments {
    /// The key.
    ///
    /// # Errors
    /// Those of [`KeyFolder::load`].
    pub(crate) fn load(&self) -> Result<SecretKey> {
        self.folder.load(&self.key)
    }
}

/// Make, list and export keys that sign names and images, and make those of private swarms and of encrypted images and hand
/// these out.
///
/// A key is a file that its owner alone may read; it is not encrypted. Who has one that signs can sign in your name.
#[derive(Args)]
pub(crate) struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key.
    ///
    /// Prints its public half, the KEY of the names that it signs.
    New {
        #[command(flatten)]
        folder: KeyFolder,
        /// What to call it.
        #[arg(value_name = "KEY", default_value = DEFAULT_KEY)]
        name: String,
    },
    /// List the keys: what each is called, and its public half.
    List {
        #[command(flatten)]
        folder: KeyFolder,
    },
    /// Print the public half of a key, for others who are to verify what it signs.
    Export {
        #[command(flatten)]
        folder: KeyFolder,
        /// As PEM, as OpenSSL and cosign take it.
        #[arg(long)]
        pem: bool,
        /// What it is called, or the path of its file.
        #[arg(value_name = "KEY", default_value = DEFAULT_KEY)]
        name: String,
    },
    /// Make the key of a private swarm.
    ///
    /// All its nodes get a copy of the file (`swarm_key` in the configuration of peerfsd); others can neither speak with
    /// them nor see what they exchange. Prints its fingerprint, which tells it from others and is no secret.
    Swarm {
        /// Print the fingerprint of a key that is there.
        #[arg(long)]
        show: bool,
        /// Its file, in a directory that exists.
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    Trust(TrustArguments),
    Realm(RealmArguments),
    Identity(IdentityArguments),
    Grant(GrantArguments),
    Grants(GrantsArguments),
    Import(ImportKeyArguments),
}

/// What a key is called that is not called otherwise.
pub(crate) const DEFAULT_KEY: &str = "default";

/// Does what is asked with keys.
pub(crate) fn run(arguments: &KeyArguments) -> Result<()> {
    let mut output = Output::new();
    match &arguments.command {
        KeyCommand::New { folder, name } => {
            let path = folder.path(name)?;
            let text = SecretKey::generate().map_err(|source| invalid(&path, source))?;
            save(&path, &text)?;
            tell(&format!("peerfs: {} has the new key", path.display()));
            output.line(&folder.load(name)?.public().to_string())?;
        }
        KeyCommand::List { folder } => {
            let rows = folder.list()?;
            output.table([Align::Left; 2], &rows)?;
        }
        KeyCommand::Export { folder, pem, name } => {
            let path = folder.path(name)?;
            let public = folder.load_signing(name)?.public();
            let public = public.map_err(|source| invalid(&path, source))?;
            match pem {
                true => output.bytes(public.to_pem().as_bytes())?,
                false => output.line(&public.to_string())?,
            }
        }
        KeyCommand::Swarm { show, file } => {
            leave_no_core_dump();
            let key = match show {
                true => read_of_anybody(file)?,
                false => {
                    let key = create(file)?;
                    tell(&format!("peerfs: {} has the new key", printable(file)));
                    key
                }
            };
            output.line(&key.fingerprint().to_string())?;
        }
        KeyCommand::Trust(arguments) => certified::trust(arguments)?,
        KeyCommand::Realm(arguments) => realm::run(arguments, &mut output)?,
        KeyCommand::Identity(arguments) => grants::identity(arguments, &mut output)?,
        KeyCommand::Grant(arguments) => grants::grant(arguments, &mut output)?,
        KeyCommand::Grants(arguments) => grants::list(arguments, &mut output)?,
        KeyCommand::Import(arguments) => realm::import(arguments, &mut output)?,
    }
    output.finish()
}

/// What crashes is not to leave a key on a disk. If the kernel refuses, it is no worse than before.
pub(crate) fn leave_no_core_dump() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

impl KeyFolder {
    /// The key that is called so, or that is in this file: one that signs names.
    pub(crate) fn load(&self, name: &str) -> Result<SecretKey> {
        let path = self.path(name)?;
        SecretKey::parse(&read(&path)?).map_err(|source| invalid(&path, source))
    }

    /// The same, of any kind that signs images.
    pub(crate) fn load_signing(&self, name: &str) -> Result<SigningKey> {
        let path = self.path(name)?;
        SigningKey::parse(&read(&path)?).map_err(|source| invalid(&path, source))
    }

    /// The file of a key.
    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        if name.contains('/') {
            return Ok(name.into());
        }
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric())
            || !name.chars().all(is_name)
        {
            return Err(Error::Key(format!(
                "{name:?} can't be what a key is called: letters, digits and -._ are allowed, with a letter or digit first"
            )));
        }
        Ok(self.folder()?.join(format!("{name}.{EXTENSION}")))
    }

    fn folder(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.keys {
            return Ok(folder.clone());
        }
        if geteuid().is_root() {
            return Ok("/etc/peerfs/keys".into());
        }
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let of_user = variable("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| Some(variable("HOME")?.join(".config")));
        let unknown =
            || Error::Key("where keys are is not known; name the directory with --keys".to_owned());
        Ok(of_user.ok_or_else(unknown)?.join("peerfs/keys"))
    }

    fn list(&self) -> Result<Vec<[String; 2]>> {
        let folder = self.folder()?;
        let failed = |source| Error::Read {
            path: folder.clone(),
            source,
        };
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut rows = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let is_key = path
                .extension()
                .is_some_and(|extension| extension == EXTENSION);
            if let Some(name) = name.filter(|_| is_key) {
                // Other kinds may lie there, too.
                if let Ok(key) = self.load(name) {
                    rows.push([name.to_owned(), key.public().to_string()]);
                }
            }
        }
        rows.sort();
        Ok(rows)
    }
}

fn invalid(path: &Path, source: peerfs_names::InvalidKey) -> Error {
    Error::Key(format!("{}: {source}", path.display()))
}

/// The text of a file that others than its owner can't read.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>> {
    leave_no_core_dump();
    let is_private = |metadata: &Metadata| metadata.mode() & 0o077 == 0;
    secret_file::read(path, LENGTH_MAX, is_private).map_err(|error| {
        let shown = path.display();
        match error {
            SecretError::Missing => Error::Key(format!(
                "there is no key {shown}; `peerfs key new` makes one"
            )),
            SecretError::NoFile => Error::Key(format!("{shown} is no key")),
            SecretError::Exposed => Error::Key(format!(
                "others may read the key {shown}; `chmod 600` it, or make a new one if somebody may have"
            )),
            SecretError::Io(source) => Error::Read {
                path: path.to_owned(),
                source,
            },
        }
    })
}

/// Writes a file that its owner alone may read, whole or not at all, and never over another one.
fn save(path: &Path, text: &str) -> Result<()> {
    let write = || {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(secret_file::directory_of(path))?;
        secret_file::create(path, text.as_bytes())
    };
    write().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Key(format!(
            "{} exists, and a key is never written over",
            path.display()
        )),
        _ => Error::Write {
            path: path.to_owned(),
            source,
        },
    })
}
