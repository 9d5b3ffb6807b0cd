// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs push`.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use peerfs_format::Digest;
use peerfs_oci::{conversion_of, BlobInfo};
use peerfs_registry::{Content, Document, Options, Push, PushProgress, Remote};
use peerfs_store::{sha256, CopyBlob, Envelope, Reference, RegistryReference, Store};
use peerfs_sys::interrupt;
use serde::Serialize;

use crate::arguments::{PushArguments, RegistryArguments};
use crate::error::{Error, Result};
use crate::output::{size, tell, Output};
use crate::progress::show_while;

/// How often it is looked whether somebody wants the command to end.
const TICK: Duration = Duration::from_millis(100);
/// What an image is called for which no tag is written.
const DEFAULT_TAG: &str = "latest";

/// The output of `--json`.
#[derive(Serialize)]
struct Pushed {
    manifest: String,
    reference: String,
    digest: String,
    blobs_sent: u64,
    blobs_mounted: u64,
    blobs_present: u64,
    bytes_sent: u64,
}

/// Puts an image into a registry.
pub(crate) fn run(arguments: &PushArguments) -> Result<()> {
    put(arguments, &destination(arguments)?, None)
}

/// Puts an image beside the one of a registry that it was made of, by that one's OCI image manifest.
pub(crate) fn beside(
    arguments: &PushArguments,
    image: &RegistryReference,
    original: &BlobInfo,
) -> Result<()> {
    put(arguments, image, Some(original))
}

fn put(
    arguments: &PushArguments,
    destination: &RegistryReference,
    original: Option<&BlobInfo>,
) -> Result<()> {
    let _ = interrupt::watch();
    let store = Arc::new(Store::open(&arguments.store.root_dir)?);
    let manifest = store.resolve(&arguments.image)?;
    let copy = store.copy_of(&arguments.image, &manifest)?;
    let total: u64 = copy.blobs.iter().map(|blob| blob.length).sum();
    let content = |blob: CopyBlob| -> Arc<dyn Content> {
        let store = Arc::clone(&store);
        Arc::new(StoreBlob { store, blob })
    };
    let documents = copy.documents.into_iter().map(|document| Document {
        digest: document.digest,
        media_type: document.media_type,
        bytes: document.bytes,
    });
    let mut documents: Vec<Document> = documents.collect();
    let mut tag = destination.tag.clone().unwrap_or(DEFAULT_TAG.to_owned());
    if let (Some(original), Some(top)) = (original, documents.last_mut()) {
        let conversion = conversion_of(&top.bytes, original);
        top.bytes = conversion.map_err(|source| Error::Container {
            path: arguments.store.root_dir.clone(),
            source,
        })?;
        top.digest = sha256(&top.bytes);
        tag = format!("sha256:{}", top.digest);
    }
    let push = Push {
        blobs: copy.blobs.into_iter().map(content).collect(),
        documents,
        elsewhere: elsewhere(&store, destination)?,
        tag,
    };
    let signatures = store.certified_signatures(&manifest)?;
    let envelope = match store.key_of(&manifest)? {
        Some(key) => store.envelope(&key)?,
        None => Envelope::default(),
    };
    let remote = Remote::repository(destination, &options(&arguments.registry))?;
    let progress = PushProgress::default();
    let done = show_while(
        |bar| {
            let sent = progress.sent_bytes.load(Ordering::Relaxed);
            bar.set_length(total);
            bar.set_position(sent + progress.spared_bytes.load(Ordering::Relaxed));
        },
        || {
            block_on(async {
                push.run(&remote, &progress).await?;
                for signature in &signatures {
                    remote.put_certified_signature(&manifest, signature).await?;
                }
                remote.put_envelope(&manifest, &envelope).await?;
                match (original, push.documents.last()) {
                    (Some(original), Some(top)) => {
                        remote.list_conversion(&original.digest, &top.bytes).await
                    }
                    _ => Ok(()),
                }
            })
        },
    );
    if matches!(done, Err(Error::Cancelled)) {
        tell("peerfs: interrupted; what has arrived is not sent again by another `peerfs push`");
    }
    done?;
    // Only what pushes and the daemon do better for it is lost if it can't be written.
    let top = push.documents.last().map(|top| top.digest);
    let here = top.filter(|top| store.has_blob(top));
    if let Err(error) = store.add_origin(&manifest, here.as_ref(), remote.name()) {
        tracing::debug!(error = %peerfs_text::Causes(&error), "cannot note where the image is");
    }
    let digest = top.unwrap_or(manifest).to_string();
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let pushed = Pushed {
        manifest: manifest.to_string(),
        reference: format!("{}@sha256:{digest}", remote.name()),
        digest,
        blobs_sent: count(&progress.sent),
        blobs_mounted: count(&progress.mounted),
        blobs_present: count(&progress.present),
        bytes_sent: count(&progress.sent_bytes),
    };
    let mut output = Output::new();
    if arguments.json {
        output.json(&pushed)?;
    } else {
        tell(&format!(
            "{} blobs sent ({}), {} were there",
            pushed.blobs_sent,
            size(pushed.bytes_sent),
            pushed.blobs_present + pushed.blobs_mounted
        ));
        output.line(&pushed.reference)?;
    }
    output.finish()
}

/// Where the image is to go.
fn destination(arguments: &PushArguments) -> Result<RegistryReference> {
    check_destination(arguments.destination.as_ref().unwrap_or(&arguments.image))
}

/// Fails if this is no place that an image can go to.
pub(crate) fn check_destination(wanted: &Reference) -> Result<RegistryReference> {
    match wanted {
        Reference::Registry(reference) if reference.digest.is_none() => Ok(reference.clone()),
        Reference::Registry(_) => Err(Error::Destination(
            "a digest is no place to push to; name a tag".to_owned(),
        )),
        other => Err(Error::Destination(format!(
            "{other} is no image of a registry; say where to push it to, such as registry.example/team/name:tag"
        ))),
    }
}

/// The repositories of the same registry that have blobs which the store has too, by these.
fn elsewhere(store: &Store, destination: &RegistryReference) -> Result<HashMap<Digest, String>> {
    let mut found = HashMap::new();
    for (manifest, origin) in store.origins()? {
        let Ok(Reference::Registry(other)) = origin.parse::<Reference>() else {
            continue;
        };
        let is_other =
            other.registry == destination.registry && other.repository != destination.repository;
        if !is_other {
            continue;
        }
        // One that can't be read says nothing.
        let blobs = store.inventory(&manifest).map(|inventory| inventory.blobs);
        for blob in blobs.unwrap_or_default() {
            found.insert(blob.digest, other.repository.clone());
        }
    }
    Ok(found)
}

/// How the user wants registries to be asked.
pub(crate) fn options(arguments: &RegistryArguments) -> Options {
    Options {
        all_insecure: !arguments.tls_verify,
        plain_http: arguments.plain_http,
        auth_file: arguments.authfile.clone(),
        ..Options::default()
    }
}

/// Waits for something, until somebody wants the command to end.
pub(crate) async fn until_interrupted<T, E>(
    work: impl Future<Output = std::result::Result<T, E>>,
) -> Result<T>
where
    Error: From<E>,
{
    let interrupted = async {
        while !interrupt::is_requested() {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        done = work => done.map_err(Error::from),
        () = interrupted => Err(Error::Cancelled),
    }
}

/// Waits for something that is done in this process, until somebody wants the command to end.
pub(crate) fn block_on<T, E>(work: impl Future<Output = std::result::Result<T, E>>) -> Result<T>
where
    Error: From<E>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let done = runtime.block_on(until_interrupted(work));
    // A disk that does not answer is not waited for.
    runtime.shutdown_background();
    done
}

/// A blob of the store, wherever it lies there.
struct StoreBlob {
    store: Arc<Store>,
    blob: CopyBlob,
}

impl Content for StoreBlob {
    fn digest(&self) -> Digest {
        self.blob.digest
    }

    fn length(&self) -> u64 {
        self.blob.length
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let opened = self.store.open_copy(&self.blob);
        opened.map_err(io::Error::other)
    }
}
