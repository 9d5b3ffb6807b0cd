// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The images of snapshots: peerfsd brings them, `peerfs mount` mounts them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use peerfs_control::{Connection, Next, Reply, Request};
use peerfs_fetch::{check_stored, read_policy};
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_oci::stub_layer;
use peerfs_store::{Reference, Store, Tag};
use peerfs_sys::mount_point::is_mounted;
use peerfs_text::Causes;
use tokio::process::Command;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::record::Image;

/// How long peerfsd may take to accept or answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a mount may take whose image is there.
const MOUNT_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether nobody waits any more.
const TICK: Duration = Duration::from_millis(100);
/// Between two attempts to reach peerfsd, which may just start again.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// How long sizes are good. The kubelet asks for all of them every 10 seconds.
const SIZES_AGE_MAX: Duration = Duration::from_secs(5);

/// Where images come from, and how they are mounted.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// The store.
    pub root_dir: PathBuf,
    /// The control socket of the peerfsd that fills it.
    pub socket: PathBuf,
    /// The program `peerfs`.
    pub program: PathBuf,
    /// More options for its `mount`.
    pub mount_options: Option<String>,
    /// The file of the policy, in the place of the usual one.
    pub policy: Option<PathBuf>,
    /// How long a container waits for an image of which nothing comes.
    pub timeout: Duration,
}

/// The images of snapshots.
pub struct Images {
    config: ImageConfig,
    /// The mount points at which somebody is at work.
    turns: Mutex<HashMap<PathBuf, Arc<AsyncMutex<()>>>>,
    sizes: Mutex<Option<(Instant, HashMap<String, u64>)>>,
}

impl Images {
    /// Nothing is asked or mounted yet.
    pub fn new(config: ImageConfig) -> Self {
        Images {
            config,
            turns: Mutex::default(),
            sizes: Mutex::default(),
        }
    }

    /// Brings what a mount needs of an image into the store, and a tag that keeps it.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub async fn fetch(&self, image: &Image) -> Result<()> {
        let abandoned = Abandoned::default();
        let pull = Pull {
            config: self.config.clone(),
            image: image.clone(),
            is_abandoned: Arc::clone(&abandoned.0),
        };
        let done = spawn_blocking(move || pull.run()).await;
        let done = done.map_err(|_| Error::Ending)?;
        done.map_err(|reason| Error::Image {
            manifest: image.manifest,
            reason,
        })
    }

    /// Fails unless `layer` is what containerd calls the layer that stands for an image which was fetched.
    ///
    /// A first layer is called by the digest of its tar, and who publishes an image says so themselves, as they say which image
    /// the layer stands for. Without this, an image could have its content taken for the layer of any other one.
    ///
    /// # Errors
    /// [`Error::Image`], also if the store can't be read.
    pub async fn check_layer(&self, image: &Image, layer: &str) -> Result<()> {
        let (root_dir, manifest) = (self.config.root_dir.clone(), image.manifest);
        let read =
            spawn_blocking(move || Store::open(&root_dir)?.read_metadata(&manifest, METADATA_MAX));
        let failed = |reason: String| Error::Image { manifest, reason };
        let read = read.await.map_err(|_| Error::Ending)?;
        let bytes = read.map_err(|error| failed(Causes(&error).to_string()))?;
        if layer.strip_prefix("sha256:") == Some(&stub_layer(&bytes).to_string()) {
            return Ok(());
        }
        Err(failed(format!(
            "the layer {layer} does not stand for it, whatever its label says"
        )))
    }

    /// Mounts an image, unless that is done. Whoever wants the same at once waits for the first.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Mount`].
    pub async fn mount(&self, image: &Image, target: &Path) -> Result<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(target.to_owned()).or_default())
        };
        let _turn = turn.lock().await;
        let looked = target.to_owned();
        let is_mounted = spawn_blocking(move || is_mounted(&looked));
        // One that answers slowly is there.
        if !matches!(timeout(ANSWER_MAX, is_mounted).await, Ok(Ok(false))) {
            return Ok(());
        }
        self.fetch(image).await?;
        let failed = |reason: String| Error::Mount {
            manifest: image.manifest,
            reason,
        };
        let mut command = Command::new(&self.config.program);
        command
            .args(["mount", "--root-dir"])
            .arg(&self.config.root_dir);
        command.arg("--socket").arg(&self.config.socket);
        if let Some(options) = &self.config.mount_options {
            command.arg("-o").arg(options);
        }
        command.arg(image.manifest.to_string()).arg(target);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(MOUNT_MAX, command.output()).await;
        let program = self.config.program.display();
        let output = output
            .map_err(|_| failed(format!("{program} did not end")))?
            .map_err(|error| failed(format!("{program} cannot be started: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(
            said.trim().trim_start_matches("peerfs: ").to_owned(),
        ))
    }

    /// Lets an image go that no snapshot is any more: the store may give it up.
    pub fn forget(&self, manifest: &Digest) {
        let forget = || {
            let store = Store::open(&self.config.root_dir)?;
            store.remove_image(&Reference::Tag(tag(manifest)))
        };
        if let Err(error) = forget() {
            // It was never here, or the store is gone.
            tracing::debug!(%manifest, error = %Causes(&error), "the image is not let go");
        }
    }

    /// Bytes of an image that are in the store; 0 if nobody knows.
    pub async fn size(self: &Arc<Self>, manifest: &Digest) -> u64 {
        let images = Arc::clone(self);
        let manifest = manifest.to_string();
        let sizes = spawn_blocking(move || images.size_of(&manifest));
        sizes.await.unwrap_or_default()
    }

    fn size_of(&self, manifest: &str) -> u64 {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes
            .as_ref()
            .is_none_or(|(asked, _)| asked.elapsed() > SIZES_AGE_MAX)
        {
            let answer = peerfs_control::ask(&self.config.socket, &Request::Images, ANSWER_MAX);
            let images = match answer {
                Ok(Reply::Images(images)) => images,
                _ => Vec::new(),
            };
            let by_manifest = images
                .into_iter()
                .map(|one| (one.manifest, one.present_bytes));
            *sizes = Some((Instant::now(), by_manifest.collect()));
        }
        let found = sizes.as_ref().and_then(|(_, sizes)| sizes.get(manifest));
        found.copied().unwrap_or_default()
    }
}

/// What is set when nobody waits any more.
#[derive(Default)]
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The tag by which the store keeps an image.
fn tag(manifest: &Digest) -> Tag {
    let text = format!("peerfs-snapshotter/{manifest}");
    text.parse().expect("a name and a digest are a tag")
}

/// A pull of what a mount needs, in a thread of its own.
struct Pull {
    config: ImageConfig,
    image: Image,
    is_abandoned: Arc<AtomicBool>,
}

impl Pull {
    fn run(&self) -> Result<(), String> {
        let manifest = self.image.manifest.to_string();
        // The registry's name may by now mean another image. Where it was found is noted all the same.
        let names: Vec<&str> = self.image.reference.iter().map(String::as_str).collect();
        let mut reasons = Vec::new();
        let mut seen = HashSet::new();
        for name in names.into_iter().chain([manifest.as_str()]) {
            match self.pull(name) {
                Ok(found) if found == manifest => return Ok(()),
                Ok(found) => reasons.push(format!("{name} is {found} now")),
                Err(reason) if seen.insert(reason.clone()) => reasons.push(reason),
                Err(_) => (),
            }
        }
        Err(reasons.join("; "))
    }

    /// Has the daemon pull what is called so, and returns the image that it is.
    fn pull(&self, name: &str) -> Result<String, String> {
        let request = Request::Pull {
            image: name.to_owned(),
            tag: Some(tag(&self.image.manifest).to_string()),
            timeout: u32::try_from(self.config.timeout.as_secs()).ok(),
            lazy: true,
            used_as: self.image.reference.clone(),
        };
        let deadline = Instant::now() + self.config.timeout;
        loop {
            let problem = match self.attempt(&request) {
                Ok(outcome) => return outcome,
                Err(problem) => problem,
            };
            // Nobody else asks the policy then.
            if self.keep()? {
                return Ok(self.image.manifest.to_string());
            }
            if Instant::now() >= deadline || self.is_abandoned.load(Ordering::Relaxed) {
                return Err(problem);
            }
            thread::sleep(RETRY_INTERVAL);
        }
    }

    /// Asks once. The error is one of the connection, not what the daemon says.
    fn attempt(&self, request: &Request) -> Result<Result<String, String>, String> {
        let text = |error: peerfs_control::Error| Causes(&error).to_string();
        let opened = Connection::open(&self.config.socket, request, ANSWER_MAX);
        let mut connection = opened.map_err(text)?;
        let mut heard = Instant::now();
        loop {
            if self.is_abandoned.load(Ordering::Relaxed) {
                return Ok(Err("nobody waits for it any more".to_owned()));
            }
            // It says by itself when nothing comes, unless it hangs; everybody who wants the image waits for this one.
            if heard.elapsed() > self.config.timeout + ANSWER_MAX {
                return Ok(Err("peerfsd says nothing".to_owned()));
            }
            match connection.next(TICK).map_err(text)? {
                Next::Nothing => continue,
                Next::End => return Err("peerfsd has ended".to_owned()),
                Next::Reply(reply) => match *reply {
                    Reply::Done(status) => return Ok(Ok(status.image)),
                    Reply::Error(problem) => return Ok(Err(problem)),
                    _ => heard = Instant::now(),
                },
            }
        }
    }

    /// Keeps an image that the store has without any daemon; false if it has not. The error is that of the policy, or that it
    /// refuses what the image is used as.
    fn keep(&self) -> Result<bool, String> {
        let manifest = self.image.manifest;
        let Ok(store) = Store::open(&self.config.root_dir) else {
            return Ok(false);
        };
        if store.read_manifest(&manifest).is_err() {
            return Ok(false);
        }
        if let Some(used_as) = &self.image.reference {
            let reference: Reference = used_as
                .parse()
                .map_err(|error| Causes(&error).to_string())?;
            read_policy(self.config.policy.as_deref())
                .and_then(|policy| check_stored(&store, &policy, &reference, &manifest))
                .map_err(|error| Causes(&error).to_string())?;
        }
        Ok(store.tag(&manifest, &tag(&manifest)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use peerfs_build::{build, DirectorySource, Options, Progress};

    use super::*;

    fn pull(folder: &Path, manifest: Digest, reference: Option<&str>) -> Pull {
        Pull {
            config: ImageConfig {
                root_dir: folder.join("store"),
                socket: folder.join("control"),
                program: "/nowhere".into(),
                mount_options: None,
                policy: Some(folder.join("policy.toml")),
                timeout: Duration::from_secs(1),
            },
            image: Image {
                manifest,
                reference: reference.map(str::to_owned),
            },
            is_abandoned: Arc::default(),
        }
    }

    #[test]
    fn without_a_daemon_the_policy_is_asked_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("tree")).unwrap();
        let store = Arc::new(Store::create(&path("store")).unwrap());
        let source = DirectorySource::new(path("tree"), &store);
        let image = build(source, &store, &Options::default(), &Progress::default()).unwrap();
        let run = |reference: Option<&str>| pull(folder.path(), image.manifest, reference).run();
        let rule = "[[rule]]\nimages = 'registry.example/secret'\nrequire = 'refused'\n";
        let unread = "[[rule]]\nimages = 7\n";
        let used = |name: &str| Some(format!("registry.example/{name}:1"));
        for (policy, reference, problem) in [
            (rule, used("secret"), Some("the policy refuses")),
            (rule, used("team"), None),
            (rule, None, None),
            (unread, used("team"), Some("is not valid")),
        ] {
            fs::write(path("policy.toml"), policy).unwrap();
            let done = run(reference.as_deref());
            match problem {
                Some(problem) => {
                    let refused = done.unwrap_err();
                    assert!(refused.contains(problem), "{refused}");
                }
                None => done.unwrap(),
            }
        }
    }

    #[test]
    fn a_daemon_that_hangs_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let _daemon = UnixListener::bind(folder.path().join("control")).unwrap();
        let manifest = "0a".repeat(32).parse().unwrap();
        let pull = pull(folder.path(), manifest, None);
        assert_eq!(pull.run().unwrap_err(), "peerfsd says nothing");
    }
}
