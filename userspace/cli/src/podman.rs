// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs podman`: images in peerfs form for podman, in what it calls an additional image store (containers-storage.conf(5)).
//!
//! podman itself fetches what stands for an image, 2 KiB, into the store, and keeps its configuration there; the image is
//! mounted over the one layer that this has. What is under the mount says which image it is, so that nothing else need be
//! noted.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand, ValueHint};
use peerfs_format::Digest;
use peerfs_store::{printable, unpacked_stub, Reference, Store, Tag};
use peerfs_sys::mount_point::is_mounted;
use rustix::fs::{flock, FlockOperation};
use rustix::mount::{unmount, UnmountFlags};
use serde::Deserialize;

use crate::arguments::{RegistryArguments, StoreArguments};
use crate::error::{Error, Result};
use crate::fuse::Stay;
use crate::mount::MountRequest;
use crate::mount_options::MountOptions;
use crate::output::{one_line, tell, Output};
use crate::pull;
use crate::rootless::{be_root, data_folder, run_folder, Entrance};

/// The name of the folders with images for podman, unless another one is said, and with what podman needs meanwhile.
const FOLDER: &str = "peerfs-podman";
/// What is shown of what podman says.
const SAYING_MAX: usize = 1000;
/// What an ordinary user's containers, and so the mounts for them, are in.
const USERS: Entrance = Entrance {
    program: "podman",
    options: &["unshare"],
    package: "podman",
};

/// Give podman images that come when they are read.
///
/// The images are in a store of their own, which podman looks into if `/etc/containers/storage.conf` says so:
/// `[storage.options]`, `additionalimagestores = ["/var/lib/peerfs-podman"]`. It runs containers of them and builds upon them as
/// of its own.
#[derive(Args)]
pub(crate) struct PodmanArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Where peerfsd listens.
    #[arg(long, global = true, value_name = "PATH", default_value = peerfs_control::DEFAULT_SOCKET, value_hint = ValueHint::FilePath)]
    socket: PathBuf,
    /// Where the images for podman are kept [default: /var/lib/peerfs-podman, for ordinary users ~/.local/share/peerfs-podman].
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    image_store: Option<PathBuf>,
    /// Mount options for the images, such as `fuse`.
    #[arg(short = 'o', global = true, value_name = "OPTIONS")]
    mount_options: Vec<std::ffi::OsString>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add an image of a registry. Prints podman's id of it.
    Add {
        #[command(flatten)]
        registry: RegistryArguments,
        /// The image, in peerfs form: REGISTRY/NAME:TAG.
        #[arg(value_name = "IMAGE")]
        image: Reference,
    },
    /// Mount all images that are not mounted, as after a start of the machine.
    Mount,
    /// Remove an image. Containers of it must be gone.
    Rm {
        /// The image, as podman calls it.
        #[arg(value_name = "IMAGE")]
        image: String,
    },
}

/// Does it.
pub(crate) fn run(arguments: &PodmanArguments) -> Result<()> {
    be_root(&USERS)?;
    let images = Images {
        arguments,
        image_store: match &arguments.image_store {
            Some(folder) => folder.clone(),
            None => data_folder(FOLDER),
        },
    };
    // One after the other: what is mounted twice could not be removed.
    let _lock = images.lock()?;
    match &arguments.action {
        Action::Add { registry, image } => images.add(image, registry),
        Action::Mount => images.mount_all(),
        Action::Rm { image } => images.remove(image),
    }
}

struct Images<'a> {
    arguments: &'a PodmanArguments,
    image_store: PathBuf,
}

/// What is read of `podman image inspect`.
#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "RootFS")]
    root: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

impl Images<'_> {
    fn add(&self, image: &Reference, registry: &RegistryArguments) -> Result<()> {
        let Reference::Registry(_) = image else {
            return Err(Error::Run(format!(
                "{image} is no image of a registry, such as registry.example/team/name:tag"
            )));
        };
        let name = image.to_string();
        let before = self.podman(&["images", "--quiet", "--no-trunc"])?;
        let insecure = registry.plain_http || !registry.tls_verify;
        let verify = format!("--tls-verify={}", !insecure);
        let mut pull = vec!["pull", "--quiet", &verify];
        let authfile = registry
            .authfile
            .as_ref()
            .map(|path| format!("--authfile={}", path.display()));
        pull.extend(authfile.as_deref());
        pull.push(&name);
        let id = self.podman(&pull)?;
        let id = id.trim();
        let give_up = || {
            // What was here before stays.
            if !before.contains(id) {
                let _ = self.podman(&["rmi", id]);
            }
        };
        let layer = self.layer(id)?;
        let Some(manifest) = layer.as_deref().and_then(stub) else {
            // One that was added before is mounted.
            if layer.as_deref().is_some_and(is_mounted) {
                return say(id);
            }
            give_up();
            return Err(Error::Run(format!(
                "{} is an ordinary image; `peerfs convert` makes one in peerfs form of it, and podman itself takes it as it is",
                printable(&name)
            )));
        };
        let mounted = pull::lazily(&self.arguments.socket, &name)
            .and_then(|found| match found == manifest {
                true => Ok(()),
                // The tag leads elsewhere by now; it is the digest that podman's configuration belongs to.
                false => {
                    let image = manifest.to_string();
                    pull::lazily_as(&self.arguments.socket, &image, Some(&name)).map(drop)
                }
            })
            .and_then(|()| self.mount(layer.as_deref().unwrap_or(Path::new("")), &manifest));
        if let Err(error) = mounted {
            give_up();
            return Err(error);
        }
        say(id)
    }

    fn mount_all(&self) -> Result<()> {
        let mut failed = None;
        for layer in self.layers()? {
            let Some(manifest) = stub(&layer) else {
                continue;
            };
            // The next one may be there.
            if let Err(error) = self.mount(&layer, &manifest) {
                tell(&format!("peerfs: {}", peerfs_text::Causes(&error)));
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn remove(&self, image: &str) -> Result<()> {
        let Some(layer) = self.layer(image)? else {
            return Err(Error::Run(format!(
                "{} is none of the images of peerfs",
                printable(image)
            )));
        };
        if is_mounted(&layer) {
            unmount(&layer, UnmountFlags::NOFOLLOW).map_err(|errno| Error::Unmount {
                mountpoint: layer.clone(),
                hint: " while a container uses it",
                source: errno.into(),
            })?;
        }
        let manifest = stub(&layer);
        let removed = self.podman(&["rmi", image]);
        match manifest {
            // It has another name, or podman keeps it.
            Some(manifest) if layer.exists() => self.mount(&layer, &manifest)?,
            Some(manifest) => {
                let store = Store::open(&self.arguments.store.root_dir)?;
                match store.untag(&tag(&manifest).to_string()) {
                    Ok(()) | Err(peerfs_store::Error::UnknownImage { .. }) => (),
                    Err(error) => return Err(error.into()),
                }
            }
            None => (),
        }
        removed.map(drop)
    }

    /// Waits until nobody else changes the images.
    fn lock(&self) -> Result<File> {
        let path = &self.image_store;
        let lock = || {
            let mut folder = DirBuilder::new();
            folder.recursive(true).mode(0o700).create(path)?;
            let lock = File::open(path)?;
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(lock)
        };
        lock().map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })
    }

    /// Mounts an image over the layer that stands for it, and has the store keep it.
    fn mount(&self, layer: &Path, manifest: &Digest) -> Result<()> {
        let mut options = MountOptions::default();
        for list in &self.arguments.mount_options {
            options.add(list)?;
        }
        options.socket.clone_from(&self.arguments.socket);
        Store::open(&self.arguments.store.root_dir)?.tag(manifest, &tag(manifest))?;
        let request = MountRequest {
            source: manifest.to_string(),
            root_dir: self.arguments.store.root_dir.clone(),
            mountpoint: layer.to_owned(),
            options,
        };
        request.mount(Stay::Behind)
    }

    /// Where the files of an image lie that has one layer.
    fn layer(&self, image: &str) -> Result<Option<PathBuf>> {
        let text = self.podman(&["image", "inspect", image])?;
        let inspected: Vec<Inspected> = serde_json::from_str(&text)
            .map_err(|error| Error::Run(format!("podman's answer is not understood: {error}")))?;
        let layers = inspected
            .into_iter()
            .next()
            .map(|one| one.root.layers)
            .unwrap_or_default();
        let [layer] = layers.as_slice() else {
            return Ok(None);
        };
        let digits = layer.strip_prefix("sha256:").unwrap_or(layer);
        // It becomes a part of a path.
        let is_digest = digits.parse::<Digest>().is_ok();
        Ok(is_digest.then(|| self.image_store.join("overlay").join(digits).join("diff")))
    }

    /// Where the files of all layers lie.
    fn layers(&self) -> Result<Vec<PathBuf>> {
        let overlay = self.image_store.join("overlay");
        let failed = |source| Error::Read {
            path: overlay.clone(),
            source,
        };
        let entries = match fs::read_dir(&overlay) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        entries
            .map(|entry| Ok(entry.map_err(failed)?.path().join("diff")))
            .collect()
    }

    /// Runs podman over the image store; returns what it prints.
    fn podman(&self, arguments: &[&str]) -> Result<String> {
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(&self.image_store);
        podman.arg("--runroot").arg(run_folder(FOLDER));
        podman.args(["--storage-driver", "overlay", "--events-backend", "none"]);
        // Its own configuration names this store as an additional one, which it can't be of itself.
        podman
            .args(["--storage-opt", ""])
            .args(arguments)
            .stdin(Stdio::null());
        let output = podman.output().map_err(|source| Error::Program {
            program: "podman",
            package: "podman",
            source,
        })?;
        if !output.status.success() {
            // It repeats what registries say.
            let said = one_line(&output.stderr, SAYING_MAX);
            return Err(Error::Run(format!("podman says: {said}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn say(id: &str) -> Result<()> {
    let mut output = Output::new();
    output.line(id)?;
    output.finish()
}

/// The manifest of the image that a layer stands for; None if it stands for none, or the image is mounted over it.
fn stub(layer: &Path) -> Option<Digest> {
    if is_mounted(layer) {
        return None;
    }
    unpacked_stub(layer).ok().flatten()
}

/// The tag by which the store keeps an image.
fn tag(manifest: &Digest) -> Tag {
    format!("peerfs-podman/{manifest}")
        .parse()
        .expect("a name and a digest are a tag")
}
