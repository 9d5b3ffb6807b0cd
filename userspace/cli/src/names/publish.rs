// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs publish`.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use data_encoding::BASE64;
use peerfs_control::{NameStatus, Request};
use peerfs_format::upcall::Workload;
use peerfs_format::Digest;
use peerfs_names::{Grant, Name, PublisherKey, Record, SecretKey, SignedRecord};
use peerfs_oci::Reference as AnyReference;
use peerfs_registry::Remote;
use peerfs_replica::account::ACCOUNT_NAME;
use peerfs_store::{Reference, RegistryReference, Store};
use peerfs_trace::NoTrace;

use super::ask_name;
use super::key::SigningKeyArguments;
use super::replicas::{Signing, EXPIRES};
use super::time_text::{parse_span, time_text};
use crate::arguments::{DaemonArguments, RegistryArguments, StoreArguments};
use crate::error::{Error, Result};
use crate::output::{tell, Output};
use crate::push::{block_on, options};
use crate::trace::parse_workload;

/// Who signs a record, for how long it holds, and whom it is told.
#[derive(Args)]
pub(crate) struct SignerArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
    #[command(flatten)]
    key: SigningKeyArguments,
    /// For how long it holds: a number with s, m, h, d or w behind it. Publish it again before.
    #[arg(long, value_name = "SPAN", default_value = "30d", value_parser = parse_span)]
    expires: Duration,
    /// A repository of a registry, REGISTRY/NAME, to put the record into as well, for peerfsd that ask it ([names] registries in
    /// their configuration). May be repeated.
    #[arg(long, value_name = "REPOSITORY", value_parser = parse_repository)]
    registry: Vec<RegistryReference>,
    #[command(flatten)]
    pub(crate) access: RegistryArguments,
}

/// Sign what a name stands for, and tell everybody.
///
/// From now on KEY/NAME is IMAGE, for all who ask a peerfsd that can be reached from here, until the record expires or a newer
/// one is published. Prints the whole name.
#[derive(Args)]
pub(crate) struct PublishArguments {
    #[command(flatten)]
    signer: SignerArguments,
    /// How many willing nodes are to keep the image, at most 8: as `peerfs replicas add` does, in the place of the image that the
    /// name stood for before if that was published so too.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=8))]
    replicas: u8,
    /// Have the trace of the image that this store has (`peerfs trace list`) go with it, of mounts for this workload, or without one
    /// for nothing in particular: who starts the image by its name has it.
    #[arg(long, value_name = "WORKLOAD", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = workload_or_none)]
    trace: Option<Workload>,
    /// Somebody else whose key may sign records of this name from now on; of those who could before, only who is named
    /// here can still. May be repeated. Without it that stays as it is.
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    writer: Vec<PublisherKey>,
    /// From now on nobody else may sign records of this name.
    #[arg(long, conflicts_with = "writer")]
    no_writers: bool,
    /// The name: what follows the slash behind your key, or KEY/NAME for who may write it.
    #[arg(value_name = "NAME")]
    name: String,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
}

/// The key of others, as `peerfs key export` prints it.
fn parse_key(text: &str) -> std::result::Result<PublisherKey, String> {
    match format!("{text}/x").parse() {
        Ok(AnyReference::Published { key, .. }) => Ok(key),
        _ => Err("a public key is expected, as `peerfs key export` prints it".to_owned()),
    }
}

fn parse_repository(text: &str) -> std::result::Result<RegistryReference, String> {
    match text.parse() {
        Ok(AnyReference::Registry(found)) if found.tag.is_none() && found.digest.is_none() => {
            Ok(found)
        }
        _ => Err("a repository is expected, such as registry.example/team/names".to_owned()),
    }
}

fn workload_or_none(text: &str) -> std::result::Result<Workload, String> {
    match text {
        "" => Ok(Workload::default()),
        name => parse_workload(name),
    }
}

/// Publishes a record.
pub(crate) fn run(arguments: &PublishArguments) -> Result<()> {
    let signer = Signer::new(&arguments.signer, &arguments.name)?;
    if signer.name.text() == ACCOUNT_NAME {
        let problem = "this name is for the images that others are to keep: `peerfs replicas add`";
        return Err(Error::Key(problem.to_owned()));
    }
    let store = Store::open(&arguments.signer.store.root_dir)?;
    let manifest = store.resolve(&arguments.image)?;
    // Nobody could mount what is nowhere.
    store.read_manifest(&manifest)?;
    let trace = arguments
        .trace
        .map(|workload| keep_trace(&store, manifest, workload));
    let terms = Terms {
        trace: trace.transpose()?,
        replicas: arguments.replicas,
        writers: arguments.writer.iter().copied().collect(),
        no_writers: arguments.no_writers,
    };
    signer.publish(manifest, terms)
}

/// Puts the trace of an image as it is now where peers find it.
fn keep_trace(store: &Store, image: Digest, workload: Workload) -> Result<Digest> {
    let trace = store.trace(&image, workload)?;
    let trace = trace.ok_or(NoTrace { image, workload })?;
    Ok(store.add_blob(&trace.encode())?)
}

/// What a record says beside the image.
#[derive(Default)]
pub(crate) struct Terms {
    trace: Option<Digest>,
    replicas: u8,
    /// Who else may sign from now on; nobody is named: who could before.
    writers: BTreeSet<PublisherKey>,
    /// Nobody else may.
    no_writers: bool,
}

/// A key, and the name that it signs a record of.
pub(crate) struct Signer<'a> {
    arguments: &'a SignerArguments,
    key: SecretKey,
    name: Name,
}

impl<'a> Signer<'a> {
    /// The key that the arguments name, for this name of its own, or this whole one of somebody else.
    ///
    /// # Errors
    /// If there is no such key, or that is no name.
    pub(crate) fn new(arguments: &'a SignerArguments, name: &str) -> Result<Self> {
        let key = arguments.key.load()?;
        let name = name
            .parse()
            .or_else(|_| Name::new(key.public(), name))
            .map_err(|error| Error::Key(error.to_string()))?;
        Ok(Signer {
            arguments,
            key,
            name,
        })
    }

    /// The image of the newest record that the daemon knows of the name, or finds.
    ///
    /// # Errors
    /// What the daemon says.
    pub(crate) fn published(&self) -> Result<Option<Digest>> {
        let newest = newest(&ask_name(&self.arguments.daemon.socket, &self.known())?)?;
        Ok(newest.map(|newest| newest.record().manifest))
    }

    fn known(&self) -> Request {
        Request::Name {
            name: self.name.to_string(),
            search: true,
        }
    }

    /// Signs that the name stands for this image from now on, tells everybody, and prints the name.
    ///
    /// # Errors
    /// What the daemon or a registry refuses.
    pub(crate) fn publish(self, manifest: Digest, terms: Terms) -> Result<()> {
        let known = self.known();
        let Signer {
            arguments,
            key,
            name,
        } = self;
        let socket = &arguments.daemon.socket;
        let newest = newest(&ask_name(socket, &known)?)?;
        let issued = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let grant = grant(&terms, &name, newest.as_ref(), &key)?;
        let record = Record {
            signer: key.public(),
            sequence: next_sequence(newest.as_ref(), grant.as_ref())?,
            issued: issued.as_secs(),
            expires: (issued + arguments.expires).as_secs(),
            manifest,
            trace: terms.trace,
            replicas: terms.replicas,
            grant,
            name,
        };
        let told = format!(
            "peerfs: record {} of {} is {manifest}, until {} UTC",
            record.sequence,
            record.name,
            time_text(record.expires)
        );
        let signed = record
            .sign(&key)
            .map_err(|error| Error::Key(error.to_string()))?;
        let publish = Request::Publish {
            record: BASE64.encode(signed.bytes()),
        };
        let status = ask_name(socket, &publish)?;
        tell(&told);
        for repository in &arguments.registry {
            let remote = Remote::repository(repository, &options(&arguments.access))?;
            block_on(remote.put_name_record(&signed))?;
        }
        if terms.replicas > 0 {
            let before = newest.as_ref().map(SignedRecord::record);
            let before = before.filter(|before| before.replicas > 0);
            let before = before.map(|before| before.manifest);
            let signing = Signing {
                socket,
                key,
                expires: EXPIRES,
            };
            let store = Store::open(&arguments.store.root_dir)?;
            signing.keep(&store, &manifest, terms.replicas, before)?;
        }
        let mut output = Output::new();
        output.line(&status.name)?;
        output.finish()
    }
}

/// The newest record that the daemon knows.
pub(super) fn newest(status: &NameStatus) -> Result<Option<SignedRecord>> {
    let Some(newest) = status.history.last() else {
        return Ok(None);
    };
    let bytes = BASE64.decode(newest.record.as_bytes());
    let record = bytes
        .ok()
        .and_then(|bytes| SignedRecord::parse(&bytes).ok());
    record.map(Some).ok_or(Error::UnexpectedReply)
}

/// The sequence of the next record. It begins anew with a new list of writers, or one who is not on it any more could have used
/// up all of them.
pub(super) fn next_sequence(newest: Option<&SignedRecord>, grant: Option<&Grant>) -> Result<u64> {
    let before = newest.map(SignedRecord::record);
    let generation = grant.map_or(0, Grant::generation);
    let before = before.filter(|before| before.generation() == generation);
    let next = before.map_or(0, |before| before.sequence).checked_add(1);
    next.ok_or_else(|| {
        let problem = "a writer has used up all sequences of the name; publish it with another list of writers (--writer, or \
                       --no-writers)";
        Error::Key(problem.to_owned())
    })
}

/// Who else may sign from now on.
fn grant(
    terms: &Terms,
    name: &Name,
    newest: Option<&SignedRecord>,
    key: &SecretKey,
) -> Result<Option<Grant>> {
    let before = newest.and_then(|newest| newest.record().grant.clone());
    let writers = &terms.writers;
    let stays = before
        .as_ref()
        .is_some_and(|before| before.writers() == writers);
    if stays || writers.is_empty() && !(terms.no_writers && before.is_some()) {
        return Ok(before);
    }
    let generation = before
        .map_or(0, |before| before.generation())
        .saturating_add(1);
    let grant = Grant::new(name, generation, writers.clone(), key);
    grant
        .map(Some)
        .map_err(|error| Error::Key(error.to_string()))
}
