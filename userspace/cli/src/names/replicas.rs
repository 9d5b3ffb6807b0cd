// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs replicas`: the images that willing nodes are to keep.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use data_encoding::BASE64;
use peerfs_control::{PublisherStatus, ReplicaHere, ReplicasStatus, Reply, Request};
use peerfs_format::{BlobTable, Digest};
use peerfs_names::{PublisherKey, Record, SecretKey, SignedRecord};
use peerfs_replica::account::{account_name, Account, Entry, COPIES};
use peerfs_store::{printable, Reference, Store};

use super::ask_name;
use super::key::SigningKeyArguments;
use super::publish::{newest, next_sequence};
use super::time_text::{parse_span, time_text};
use crate::arguments::{DaemonArguments, StoreArguments};
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::{digest, size, tell, Align, Output};

/// How long the daemon may take to have the account that its newest record names.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long an account holds, unless somebody says otherwise.
pub(super) const EXPIRES: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Have willing nodes keep images, and see how many do.
///
/// A publisher lists the images that are to be kept in an account, which a key of `peerfs key new` signs. Nodes whose peerfsd
/// grants that key room ([replicate] in their configuration) keep them, and replace copies that are gone.
#[derive(Args)]
pub(crate) struct ReplicasArguments {
    #[command(subcommand)]
    command: ReplicasCommand,
}

#[derive(Subcommand)]
enum ReplicasCommand {
    /// Have an image be kept.
    ///
    /// Adds it to the account, or changes how many copies are wanted, and signs the account anew. Prints the digest of its manifest.
    Add {
        #[command(flatten)]
        account: AccountArguments,
        /// How many willing nodes are to keep it, at most 8.
        #[arg(long, value_name = "NUMBER", default_value_t = COPIES, value_parser = clap::value_parser!(u8).range(1..=8))]
        copies: u8,
        /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
        #[arg(value_name = "IMAGE")]
        image: Reference,
    },
    /// Do not have an image be kept any more.
    ///
    /// Takes it from the account, and signs that anew. Nodes give it up after a day. Prints the digest of its manifest.
    Remove {
        #[command(flatten)]
        account: AccountArguments,
        /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
        #[arg(value_name = "IMAGE")]
        image: Reference,
    },
    /// Sign the account as it is, so that it holds for longer.
    Renew {
        #[command(flatten)]
        account: AccountArguments,
    },
    /// List the images that are to be kept, as the running peerfsd knows them.
    ///
    /// A line for each: its publisher, the image, its size, how many other nodes have proven that they keep it and how many
    /// copies are wanted, and what is here of it. A publisher of whom nothing new is accepted has a line that says why.
    List {
        #[command(flatten)]
        daemon: DaemonArguments,
        /// Print all that is known as JSON (Documentation/control.md).
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct AccountArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
    #[command(flatten)]
    key: SigningKeyArguments,
    /// For how long the account holds: a number with s, m, h, d or w behind it. Renew it before.
    #[arg(long, value_name = "SPAN", default_value = "90d", value_parser = parse_span)]
    expires: Duration,
}

/// Runs a command of it.
pub(crate) fn run(arguments: &ReplicasArguments) -> Result<()> {
    match &arguments.command {
        ReplicasCommand::Add {
            account,
            copies,
            image,
        } => {
            let store = Store::open(&account.store.root_dir)?;
            let manifest = store.resolve(image)?;
            account.signing()?.keep(&store, &manifest, *copies, None)?;
            print(&manifest.to_string())
        }
        ReplicasCommand::Remove { account, image } => {
            let store = Store::open(&account.store.root_dir)?;
            let manifest = store.resolve(image)?;
            account.signing()?.change(&store, |entries| {
                let before = entries.len();
                entries.retain(|known| known.image != manifest);
                match entries.len() < before {
                    true => Ok(()),
                    false => Err(Error::Refused(format!(
                        "{manifest} is not in the account; `peerfs replicas list` shows what is"
                    ))),
                }
            })?;
            print(&manifest.to_string())
        }
        ReplicasCommand::Renew { account } => {
            let store = Store::open(&account.store.root_dir)?;
            account.signing()?.change(&store, |_| Ok(()))
        }
        ReplicasCommand::List { daemon, json } => list(&daemon.socket, *json),
    }
}

impl AccountArguments {
    fn signing(&self) -> Result<Signing<'_>> {
        Ok(Signing {
            socket: &self.daemon.socket,
            key: self.key.load()?,
            expires: self.expires,
        })
    }
}

/// What an account is signed with.
pub(super) struct Signing<'a> {
    /// Whom it is told.
    pub(super) socket: &'a Path,
    /// Whose it is.
    pub(super) key: SecretKey,
    /// For how long it holds.
    pub(super) expires: Duration,
}

impl Signing<'_> {
    /// Has an image be kept, in the place of another one.
    pub(super) fn keep(
        &self,
        store: &Store,
        manifest: &Digest,
        copies: u8,
        before: Option<Digest>,
    ) -> Result<()> {
        let entry = Entry {
            image: *manifest,
            bytes: stored_bytes(store, manifest)?,
            copies,
        };
        self.change(store, |entries| {
            entries.retain(|known| Some(known.image) != before || known.image == *manifest);
            match entries.iter_mut().find(|known| known.image == *manifest) {
                Some(known) => *known = entry,
                None => entries.push(entry),
            }
            Ok(())
        })
    }

    /// Changes the account, and tells everybody.
    fn change(
        &self,
        store: &Store,
        change: impl FnOnce(&mut Vec<Entry>) -> Result<()>,
    ) -> Result<()> {
        let Signing { socket, key, .. } = self;
        let name = account_name(key.public());
        let known = Request::Name {
            name: name.to_string(),
            search: true,
        };
        let newest = newest(&ask_name(socket, &known)?)?;
        let mut entries = entries(socket, key.public(), newest.as_ref())?;
        change(&mut entries)?;
        let account = Account::new(entries).map_err(|error| Error::Key(error.to_string()))?;
        let issued = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let record = Record {
            signer: key.public(),
            sequence: next_sequence(newest.as_ref(), None)?,
            issued: issued.as_secs(),
            expires: (issued + self.expires).as_secs(),
            manifest: store.add_blob(&account.to_bytes())?,
            trace: None,
            replicas: 0,
            grant: None,
            name,
        };
        let told = format!(
            "peerfs: account {} of {}: {} images, until {} UTC",
            record.sequence,
            key.public(),
            account.entries().len(),
            time_text(record.expires)
        );
        let signed = record
            .sign(key)
            .map_err(|error| Error::Key(error.to_string()))?;
        let publish = Request::Publish {
            record: BASE64.encode(signed.bytes()),
        };
        ask_name(socket, &publish)?;
        tell(&told);
        Ok(())
    }
}

/// The images of a publisher's account; none if it has no account.
fn entries(
    socket: &Path,
    publisher: PublisherKey,
    newest: Option<&SignedRecord>,
) -> Result<Vec<Entry>> {
    let Some(newest) = newest.map(SignedRecord::record) else {
        return Ok(Vec::new());
    };
    let begun = Instant::now();
    loop {
        let status = ask_replicas(socket)?;
        let mut publishers = status.publishers.into_iter();
        let known = publishers.find(|known| known.publisher == publisher.to_string());
        let known = known.unwrap_or_default();
        if known.sequence == Some(newest.sequence) {
            let entries = known.images.iter().map(|known| {
                Some(Entry {
                    image: known.image.parse().ok()?,
                    bytes: known.bytes,
                    copies: known.copies.try_into().ok()?,
                })
            });
            return entries.collect::<Option<_>>().ok_or(Error::UnexpectedReply);
        }
        if begun.elapsed() >= ACCOUNT_TIMEOUT {
            let problem = known.problem.unwrap_or_default();
            return Err(Error::Refused(format!(
                "account {} of {publisher} is signed, and what it lists is not here: {problem}",
                newest.sequence
            )));
        }
        sleep(LOOK);
    }
}

/// Bytes of an image's packs, as stored.
fn stored_bytes(store: &Store, manifest: &Digest) -> Result<u64> {
    let read = store.read_manifest(manifest)?;
    let table = store.read_metadata(&read.blob_table, read.blob_table_length.into())?;
    let table = BlobTable::parse(&table, read.inode_count)
        .map_err(peerfs_store::Error::format(read.blob_table))?;
    let bytes = table.packs.iter().map(|pack| pack.stored_length);
    Ok(bytes.fold(0, u64::saturating_add))
}

fn ask_replicas(socket: &Path) -> Result<ReplicasStatus> {
    match ask(socket, &Request::Replicas)? {
        Reply::Replicas(status) => Ok(status),
        _ => Err(Error::UnexpectedReply),
    }
}

fn print(line: &str) -> Result<()> {
    let mut output = Output::new();
    output.line(line)?;
    output.finish()
}

fn list(socket: &Path, json: bool) -> Result<()> {
    let status = ask_replicas(socket)?;
    let mut output = Output::new();
    if json {
        output.json(&status)?;
        return output.finish();
    }
    let nodes = status.willing_nodes;
    output.line(&match status.willing_bytes {
        Some(bytes) => format!(
            "{} of {} kept for others here; willing nodes: {nodes}",
            size(status.used_bytes),
            size(bytes)
        ),
        None => format!("nothing is kept for others here; willing nodes: {nodes}"),
    })?;
    let header = ["PUBLISHER", "IMAGE", "SIZE", "COPIES", "HERE"].map(str::to_owned);
    let rows = status.publishers.iter().flat_map(rows);
    let rows: Vec<_> = [header].into_iter().chain(rows).collect();
    let columns = [
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    output.table(columns, &rows)?;
    for publisher in &status.publishers {
        if let Some(problem) = &publisher.problem {
            let (key, problem) = (printable(&publisher.publisher), printable(problem));
            output.line(&format!("{key}: {problem}"))?;
        }
    }
    output.finish()
}

fn rows(publisher: &PublisherStatus) -> impl Iterator<Item = [String; 5]> + '_ {
    publisher.images.iter().map(|known| {
        let here = match known.here {
            _ if known.refused => "refused",
            ReplicaHere::No => "-",
            ReplicaHere::Coming => "coming",
            ReplicaHere::Kept => "kept",
            ReplicaHere::TooLarge => "too large",
        };
        let proven = known.proven.map_or("-".to_owned(), |proven| {
            (proven + u64::from(known.here == ReplicaHere::Kept)).to_string()
        });
        [
            digest(&publisher.publisher),
            digest(&known.image),
            size(known.bytes),
            format!("{proven}/{}", known.copies),
            here.to_owned(),
        ]
    })
}
