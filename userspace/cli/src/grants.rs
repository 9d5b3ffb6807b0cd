// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Handing out the keys of realms: `peerfs key identity`, `peerfs key grant` and `peerfs key grants`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use peerfs_format::KeyId;
use peerfs_grant::{kinds, InvalidRecipient, Recipient};
use peerfs_realm::{Envelope, Grant, GRANTS_MAX};
use peerfs_store::{printable, Reference, Store};
use peerfs_text::Causes;
use serde::Serialize;

use crate::arguments::StoreArguments;
use crate::error::{Error, Result};
use crate::names::key::leave_no_core_dump;
use crate::output::{tell, Align, Output};
use crate::realm::{self, sealed_file};

/// The most bytes of a file of recipients.
const RECIPIENTS_FILE_MAX: u64 = 64 * 1024;
/// What stands before the file of recipients.
const FILE: char = '@';

/// Make an identity, to which others grant keys of encrypted images.
///
/// It is an X25519 identity of age, in a file that `age` and `age-keygen` take, too. Who has a copy of the file reads what was
/// granted to it. Prints the recipient that belongs to it (age1...), which is no secret: give it to who has the key.
#[derive(Args)]
pub(crate) struct IdentityArguments {
    /// Print the recipients of an identity that is there.
    #[arg(long)]
    show: bool,
    /// Its file, in a directory that exists; with --show "-" for the standard input.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Makes an identity, or shows the recipients of one.
pub(crate) fn identity(arguments: &IdentityArguments, output: &mut Output) -> Result<()> {
    leave_no_core_dump();
    let file = &arguments.file;
    if arguments.show {
        let identities = realm::read_identities(file)?;
        let mut recipients = identities.recipients().iter();
        return recipients.try_for_each(|recipient| output.line(recipient));
    }
    let recipient = peerfs_grant::create(file)?;
    tell(&format!("peerfs: {} has the new identity", printable(file)));
    output.line(&recipient)
}

/// Encrypt the key of a realm for those who may have it.
///
/// Each of them decrypts it by an identity of theirs (`peerfs key import --identity`, or `age -d -i`). With an image it is put into
/// the store beside all images of the realm that are there, and `peerfs push` and `peerfs pull` take it along: who has the identity
/// needs the image alone. It is put beside what was granted before, of which nothing can be taken back: who could read goes on to
/// be able to. Without an image it is printed, or written to a file.
#[derive(Args)]
pub(crate) struct GrantArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Who may have it: a recipient, as `peerfs key identity` or `age-keygen` prints it (age1...), or a file of them, one a line. May be
    /// repeated.
    #[arg(long = "to", value_name = "RECIPIENT|@FILE", required = true)]
    recipients: Vec<String>,
    /// A new file for it.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Put it in the place of all grants of the key that the store has. What others have of these stays.
    #[arg(long, requires = "images")]
    replace: bool,
    /// The file of the key (`peerfs key realm`), "-" for the standard input.
    #[arg(value_name = "KEYFILE", value_hint = ValueHint::FilePath)]
    key: PathBuf,
    /// An image of the store that is encrypted with it.
    #[arg(value_name = "IMAGE")]
    images: Vec<Reference>,
}

/// Encrypts a key for recipients.
pub(crate) fn grant(arguments: &GrantArguments, output: &mut Output) -> Result<()> {
    let lists = arguments.recipients.iter().map(|text| recipients(text));
    let lists: Vec<Vec<Recipient>> = lists.collect::<Result<_>>()?;
    let key = realm::read(&arguments.key)?;
    let grant = peerfs_grant::seal(&key, &lists.concat())?;
    let store = match arguments.images.as_slice() {
        [] => None,
        images => Some(store_for(&arguments.store.root_dir, images, &key.id())?),
    };
    if let Some(file) = &arguments.output {
        write(file, &grant)?;
    }
    match store {
        Some(store) if arguments.replace => store.replace_grants(&key.id(), &[grant])?,
        Some(store) => {
            // What was granted is not to be lost without a word.
            let is_full = |envelope: Envelope| envelope.grants().len() >= GRANTS_MAX;
            if store.envelope(&key.id()).is_ok_and(is_full) {
                return Err(Error::Key(format!(
                    "the store has {GRANTS_MAX} grants of the key already, and has room for no more; name all recipients, and \
                     have it take their place with --replace"
                )));
            }
            store.add_grants(&key.id(), &[grant])?;
        }
        None if arguments.output.is_none() => return output.bytes(grant.text().as_bytes()),
        None => (),
    }
    output.line(&key.id().to_string())
}

/// The store with images, all of which are encrypted with this key.
fn store_for(root_dir: &Path, images: &[Reference], key: &KeyId) -> Result<Store> {
    let store = Store::open(root_dir)?;
    for image in images {
        let problem = match store.key_of(&store.resolve(image)?)? {
            Some(found) if found == *key => continue,
            Some(found) => format!("{image} is encrypted with the key {found}, and not with {key}"),
            None => format!("{image} is not encrypted, and everybody reads it"),
        };
        return Err(Error::Key(problem));
    }
    Ok(store)
}

/// The recipients that an argument names.
fn recipients(text: &str) -> Result<Vec<Recipient>> {
    let invalid = |from: String| move |source: InvalidRecipient| Error::Recipient { from, source };
    let Some(path) = text.strip_prefix(FILE) else {
        return text
            .parse()
            .map(|recipient| vec![recipient])
            .map_err(invalid("--to".to_owned()));
    };
    let mut list = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(RECIPIENTS_FILE_MAX + 1).read_to_string(&mut list));
    read.map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    if list.len() as u64 > RECIPIENTS_FILE_MAX {
        let path = printable(path);
        return Err(Error::Key(format!(
            "{path} has more than {RECIPIENTS_FILE_MAX} bytes, and is no file of recipients"
        )));
    }
    Recipient::parse_list(&list).map_err(invalid(printable(path).to_string()))
}

/// Writes a grant to a new file.
fn write(path: &Path, grant: &Grant) -> Result<()> {
    let file = File::create_new(path);
    let written = file.and_then(|mut file| file.write_all(grant.text().as_bytes()));
    written.map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Show to how many a key was granted.
///
/// For each time that it was granted, the newest first, how many recipients there are of each kind. Who they are is not in it, nor
/// is which key it is before it is decrypted.
#[derive(Args)]
pub(crate) struct GrantsArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Print a line of JSON for each time.
    #[arg(long)]
    json: bool,
    /// An image of the store: what was granted of its key.
    #[arg(long, value_name = "IMAGE", conflicts_with = "file")]
    image: Option<Reference>,
    /// A file that `peerfs key grant` or `age` has written, "-" for the standard input.
    #[arg(value_name = "FILE", required_unless_present = "image", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// The output of `--json` for a grant.
#[derive(Serialize)]
struct GrantInfo {
    /// The key of which it should be; of a file that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// How many there are of each kind.
    recipients: BTreeMap<String, usize>,
    /// The reason that this is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Shows grants.
pub(crate) fn list(arguments: &GrantsArguments, output: &mut Output) -> Result<()> {
    let grants = match (&arguments.image, &arguments.file) {
        (Some(image), _) => of_image(&arguments.store.root_dir, image)?,
        (None, Some(file)) => vec![of_file(file)?],
        (None, None) => Vec::new(),
    };
    if arguments.json {
        return grants.iter().try_for_each(|grant| output.json(grant));
    }
    let mut rows = vec![["KEY", "RECIPIENTS"].map(str::to_owned)];
    rows.extend(grants.into_iter().map(|grant| {
        let counts = grant.recipients.iter();
        let counts = counts.map(|(kind, count)| format!("{count} {}", printable(kind)));
        let recipients = grant
            .problem
            .unwrap_or(counts.collect::<Vec<_>>().join(", "));
        [grant.key.unwrap_or("-".to_owned()), recipients]
    }));
    output.table([Align::Left; 2], &rows)
}

fn of_image(root_dir: &Path, image: &Reference) -> Result<Vec<GrantInfo>> {
    let store = Store::open(root_dir)?;
    let key = store.key_of(&store.resolve(image)?)?;
    let key = key.ok_or_else(|| Error::Key(format!("{image} is not encrypted, and has no key")))?;
    let envelope = store.envelope(&key)?;
    let grants = envelope.grants().iter().map(|grant| {
        let found = kinds(grant.text().as_bytes());
        GrantInfo {
            key: Some(key.to_string()),
            problem: found.as_ref().err().map(|error| Causes(error).to_string()),
            recipients: found.unwrap_or_default(),
        }
    });
    Ok(grants.collect())
}

fn of_file(file: &Path) -> Result<GrantInfo> {
    let recipients = kinds(&sealed_file(file)?).map_err(|source| Error::Granted {
        from: printable(file).to_string(),
        source,
    })?;
    Ok(GrantInfo {
        key: None,
        recipients,
        problem: None,
    })
}
