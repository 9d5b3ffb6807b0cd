// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Trees to build, a store that has them all, and stores to work on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use peerfs_store::{verify, Store, VerifyReport};
use tempfile::TempDir;

use crate::docker_registry::Registry;
use crate::operation::Operation;
use crate::support::process::{peerfs, succeed};

/// The manifests of images by their tags.
pub type Images = BTreeMap<String, String>;

/// What all operations work with.
pub struct World {
    folder: TempDir,
    /// One that has the images of all trees, once it was needed.
    registry: OnceLock<Registry>,
}

impl World {
    pub fn new() -> Self {
        let world = World {
            folder: tempfile::tempdir().unwrap(),
            registry: OnceLock::new(),
        };
        let first = noise(1, 700_000);
        let mut edited = first.clone();
        edited[400_000..400_010].copy_from_slice(b"ten bytes!");
        let half = [&first[..300_000], &noise(2, 500_000)[..]].concat();
        world.make_tree("one", &[&first, &noise(3, 150_000)]);
        world.make_tree("edited", &[&edited, &noise(3, 150_000)]);
        world.make_tree("half", &[&half]);
        let library = world.library();
        for tree in ["one", "edited", "half"] {
            Operation::Build(tree).run(&world, &library, None).unwrap();
            // Whoever copies from it reads whole packs.
            Operation::Whole(tree).run(&world, &library, None).unwrap();
        }
        world
    }

    fn make_tree(&self, name: &str, files: &[&[u8]]) {
        let tree = self.tree(name);
        fs::create_dir(&tree).unwrap();
        for (number, content) in files.iter().enumerate() {
            fs::write(tree.join(number.to_string()), content).unwrap();
        }
        fs::write(tree.join("small"), name).unwrap();
    }

    pub fn tree(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A compressed archive of a tree, which takes a spool to read.
    pub fn archive(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.tar.gz"));
        if !path.exists() {
            let mut process = Command::new("tar");
            process.arg("-C").arg(self.tree(name)).arg("-czf");
            succeed(process.arg(&path).arg("."));
        }
        path
    }

    /// An image of a registry, of which the repository "library" has those of all trees.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        let reference = |registry: &Registry, repository: &str, tag: &str| {
            format!("{}/{repository}:{tag}", registry.address)
        };
        let registry = self.registry.get_or_init(|| {
            let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
            for tree in ["one", "edited", "half"] {
                let mut process = Command::new(peerfs());
                process.arg("push").arg(tree);
                process.arg(reference(&registry, "library", tree));
                succeed(process.env("PEERFS_ROOT_DIR", self.library().store()));
            }
            registry
        });
        reference(registry, repository, tag)
    }

    /// The store that others pull from.
    pub fn library(&self) -> Sandbox {
        Sandbox::at(self.folder.path().join("library"))
    }

    /// The manifest of a tree's image.
    pub fn manifest(&self, tree: &str) -> String {
        self.library().images()[tree].clone()
    }

    /// A folder in which there is no store yet.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new()
    }
}

/// Bytes that do not compress, others for each number.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut state = number;
    let next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A folder with a store, and with what a daemon needs beside it.
pub struct Sandbox {
    root: PathBuf,
    /// None for one that somebody else removes.
    _folder: Option<TempDir>,
}

impl Sandbox {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Sandbox {
            root: folder.path().to_owned(),
            _folder: Some(folder),
        }
    }

    fn at(root: PathBuf) -> Self {
        fs::create_dir_all(&root).unwrap();
        Sandbox {
            root,
            _folder: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What no other one is called, as registries allow it.
    pub fn name(&self) -> String {
        let name = self.root.as_os_str().as_encoded_bytes();
        name.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Another one with the same content, holes included.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        let mut process = Command::new("cp");
        process.args(["--archive", "--sparse=always"]);
        succeed(process.arg(self.root.join(".")).arg(&copy.root));
        copy
    }

    /// Collects, when what was left in `tmp` is old.
    pub fn settle(&self) {
        let before = SystemTime::now() - Duration::from_secs(3600);
        for entry in fs::read_dir(self.store().join("tmp")).unwrap() {
            let file = File::open(entry.unwrap().path()).unwrap();
            file.set_modified(before).unwrap();
        }
        succeed(
            Command::new(peerfs())
                .arg("gc")
                .env("PEERFS_ROOT_DIR", self.store()),
        );
    }

    /// The images that have tags; none if there is no store.
    pub fn images(&self) -> Images {
        let Ok(store) = Store::open(&self.store()) else {
            return Images::new();
        };
        let images = store.images().unwrap().into_iter();
        images
            .flat_map(|image| {
                let manifest = image.manifest.to_string();
                image
                    .tags
                    .into_iter()
                    .map(move |tag| (tag, manifest.clone()))
            })
            .collect()
    }

    /// What is wrong with the store; nothing if there is none.
    pub fn verify(&self) -> VerifyReport {
        match Store::open(&self.store()) {
            Ok(store) => verify(&Arc::new(store), &[], &Default::default()).unwrap(),
            Err(_) => VerifyReport::default(),
        }
    }

    /// Bytes on the disk.
    pub fn occupied(&self) -> u64 {
        let usage = Store::open(&self.store()).unwrap().usage().unwrap();
        usage.blob_bytes + usage.partial_bytes + usage.loose_bytes + usage.table_bytes
    }

    pub fn temporary_files(&self) -> usize {
        fs::read_dir(self.store().join("tmp")).unwrap().count()
    }

    /// The files that have something of images.
    pub fn files(&self) -> Vec<String> {
        let folders = ["blobs/sha256", "partial", "loose", "places"];
        let names = folders.iter().flat_map(|folder| {
            let entries = fs::read_dir(self.store().join(folder)).unwrap();
            entries.map(move |entry| {
                let name = entry.unwrap().file_name();
                format!("{folder}/{}", name.to_string_lossy())
            })
        });
        names.collect()
    }
}
