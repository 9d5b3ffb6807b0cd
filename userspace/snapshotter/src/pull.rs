// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Pulls: what peerfsd brings into the store for snapshots.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use peerfs_control::{Connection, Next, Reply, Request};
use peerfs_fetch::{check_stored, read_policy};
use peerfs_format::Digest;
use peerfs_store::{Reference, Store, Tag};
use peerfs_text::Causes;

use crate::images::ImageConfig;
use crate::record::Image;

/// How long peerfsd may take to accept or answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether nobody waits any more.
const TICK: Duration = Duration::from_millis(100);
/// Between two attempts to reach peerfsd, which may just start again.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// What is set when nobody waits any more.
#[derive(Default)]
pub(crate) struct Abandoned(pub(crate) Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The tag by which the store keeps an image.
pub(crate) fn tag(manifest: &Digest) -> Tag {
    let text = format!("peerfs-snapshotter/{manifest}");
    text.parse().expect("a name and a digest are a tag")
}

/// A pull of what a mount needs, in a thread of its own.
pub(crate) struct Pull {
    pub(crate) config: ImageConfig,
    pub(crate) image: Image,
    pub(crate) is_abandoned: Arc<AtomicBool>,
}

impl Pull {
    /// Pulls it.
    pub(crate) fn run(&self) -> Result<(), String> {
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
            convert: false,
            platform: None,
        };
        let deadline = Instant::now() + self.config.timeout;
        loop {
            let problem = match ask(
                &self.config.socket,
                &request,
                self.config.timeout,
                &self.is_abandoned,
            ) {
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

/// Asks peerfsd once for a pull, of which something must come within `patience` again and again; returns the manifest of the image that
/// it is. The outer error is one of the connection, the inner one what the daemon says.
pub(crate) fn ask(
    socket: &Path,
    request: &Request,
    patience: Duration,
    is_abandoned: &AtomicBool,
) -> Result<Result<String, String>, String> {
    let text = |error: peerfs_control::Error| Causes(&error).to_string();
    let opened = Connection::open(socket, request, ANSWER_MAX);
    let mut connection = opened.map_err(text)?;
    let mut heard = Instant::now();
    loop {
        if is_abandoned.load(Ordering::Relaxed) {
            return Ok(Err("nobody waits for it any more".to_owned()));
        }
        // It says by itself when nothing comes, unless it hangs; everybody who wants the image waits for this one.
        if heard.elapsed() > patience + ANSWER_MAX {
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
                catalogues: Vec::new(),
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
