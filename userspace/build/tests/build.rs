// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Properties of whole builds.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::Arc;
use std::thread;

use peerfs_build::{
    build, BuiltImage, ChunkSizes, Compression, DirectorySource, Error, GiveUp, Layout, Options,
    PackSizes, Progress, Result,
};
use peerfs_format::{PackRecord, CHUNK_MAX};
use peerfs_store::{Image, Store};
use tempfile::TempDir;

struct Fixture {
    folder: TempDir,
    store: Arc<Store>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tree")).unwrap();
        let store = Store::create(&folder.path().join("store")).unwrap();
        Fixture {
            folder,
            store: Arc::new(store),
        }
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn build(&self, options: &Options) -> BuiltImage {
        self.try_build(options).unwrap()
    }

    fn try_build(&self, options: &Options) -> Result<BuiltImage> {
        let source = DirectorySource::new(self.tree(), &self.store);
        build(source, &self.store, options, &Progress::default())
    }

    fn read(&self, image: &BuiltImage, path: &str) -> Vec<u8> {
        let image = Image::open(self.store.clone(), &image.manifest).unwrap();
        let file = image.lookup(path.as_bytes(), false).unwrap();
        let mut content = Vec::new();
        image
            .read(&file, 0, u64::MAX, |bytes| {
                content.extend_from_slice(bytes);
                Ok::<_, peerfs_store::Error>(())
            })
            .unwrap();
        content
    }
}

/// Bytes that do not compress.
fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    });
    bytes.take(length).collect()
}

fn write(path: impl AsRef<Path>, content: &[u8]) {
    fs::write(path, content).unwrap();
}

fn stored(packs: &[PackRecord]) -> u64 {
    packs.iter().map(|pack| pack.stored_length).sum()
}

#[test]
fn an_image_with_many_packs_does_not_depend_on_the_threads() {
    let fixture = Fixture::new();
    let large = random(1, 150_000_000);
    write(fixture.tree().join("large"), &large);
    for number in 0..500 {
        let content = random(number, 100 * number as usize);
        write(fixture.tree().join(format!("small-{number}")), &content);
    }
    let one = Options {
        threads: NonZeroUsize::MIN,
        ..Options::default()
    };
    let image = fixture.build(&one);
    assert!(image.packs.len() >= 3);
    for threads in [2, 8] {
        let options = Options {
            threads: NonZeroUsize::new(threads).unwrap(),
            ..Options::default()
        };
        assert_eq!(fixture.build(&options).manifest, image.manifest);
    }
    // Over the borders of the packs.
    assert!(fixture.read(&image, "large") == large);
    assert!(fixture.read(&image, "small-499") == random(499, 49_900));
}

#[test]
fn equal_content_is_stored_once() {
    let fixture = Fixture::new();
    let large = random(1, 3_000_000);
    write(fixture.tree().join("one"), &large);
    write(fixture.tree().join("same"), &large);
    write(
        fixture.tree().join("shifted"),
        &[b"shifted", large.as_slice()].concat(),
    );
    for number in 0..50 {
        write(
            fixture.tree().join(format!("small-{number}")),
            &large[..20_000],
        );
    }
    let image = fixture.build(&Options::default());
    let stored = stored(&image.packs);
    assert!((3_000_000..3_400_000).contains(&stored), "{stored}");
    assert_eq!(image.content_bytes, 9_000_007 + 50 * 20_000);
}

#[test]
fn any_layout_can_be_read() {
    let fixture = Fixture::new();
    let large = random(1, 1_000_000);
    write(fixture.tree().join("large"), &large);
    write(fixture.tree().join("small"), &large[..3000]);
    let mut options = Options {
        layout: Layout {
            chunks: ChunkSizes {
                min: 4096,
                average: 8192,
                max: 16_384,
            },
            large_file: 1024,
            pack: PackSizes {
                min: 50_000,
                more: 50_000,
                max: 100_000,
            },
            shard: 1,
        },
        ..Options::default()
    };
    let image = fixture.build(&options);
    assert!(image.packs.len() >= 10);
    assert!(image.packs.iter().all(|pack| pack.stored_length <= 100_000));
    assert!(fixture.read(&image, "large") == large);
    assert!(fixture.read(&image, "small") == large[..3000]);
    options.layout.chunks.max = CHUNK_MAX + 1;
    let outcome = fixture.try_build(&options);
    assert!(matches!(outcome, Err(Error::ChunkSizes(_))));
}

#[test]
fn an_edit_leaves_the_packs_before_and_behind_it() {
    let fixture = Fixture::new();
    let mut options = Options::default();
    options.layout.pack = PackSizes {
        min: 500_000,
        more: 500_000,
        max: 2_000_000,
    };
    let mut large = random(1, 12_000_000);
    write(fixture.tree().join("large"), &large);
    let first = fixture.build(&options);
    assert!(first.packs.len() >= 8, "{}", first.packs.len());
    let new_packs = |large: &[u8]| {
        write(fixture.tree().join("large"), large);
        let image = fixture.build(&options);
        let new = image
            .packs
            .iter()
            .filter(|pack| !first.packs.contains(pack));
        (new.count(), image.packs.last() == first.packs.last())
    };
    for byte in &mut large[6_000_000..6_000_010] {
        *byte ^= 1;
    }
    assert_eq!(new_packs(&large), (1, true));
    // All that follows moves by a byte.
    large.insert(3_000_000, 7);
    assert_eq!(new_packs(&large), (2, true));
}

#[test]
fn an_edit_costs_little_upon_a_base() {
    let fixture = Fixture::new();
    // All is one pack.
    let mut large = random(1, 6_000_000);
    write(fixture.tree().join("large"), &large);
    write(fixture.tree().join("other"), &random(2, 1_000_000));
    let first = fixture.build(&Options::default());
    for byte in &mut large[3_000_000..3_000_010] {
        *byte ^= 1;
    }
    write(fixture.tree().join("large"), &large);
    let alone = fixture.build(&Options::default());
    let upon = fixture.build(&Options {
        base: vec![first.manifest],
        ..Options::default()
    });
    assert_eq!(upon.packs.len(), 2);
    assert_eq!(upon.packs[0], first.packs[0]);
    assert!(upon.packs[1].stored_length <= 2 * 256 * 1024);
    assert!(alone.packs.iter().all(|pack| *pack != first.packs[0]));
    assert!(fixture.read(&upon, "large") == large);
    assert!(fixture.read(&upon, "other") == random(2, 1_000_000));
    // A base that nothing is used of is not part of the image.
    fs::remove_file(fixture.tree().join("large")).unwrap();
    fs::remove_file(fixture.tree().join("other")).unwrap();
    let empty = fixture.build(&Options::default());
    let upon = fixture.build(&Options {
        base: vec![first.manifest, alone.manifest],
        ..Options::default()
    });
    assert_eq!(upon.manifest, empty.manifest);
    assert!(upon.packs.is_empty());
}

#[test]
fn a_file_that_changes_is_named() {
    let fixture = Fixture::new();
    let path = fixture.tree().join("changing");
    write(&path, &random(1, 30_000_000));
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().append(true).open(&path).unwrap();
            while !is_done.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
            }
        });
        let outcome = fixture.try_build(&Options::default());
        is_done.store(true, Ordering::Relaxed);
        match outcome {
            Err(Error::Changed(changed)) => assert_eq!(changed, path),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_large_directory_has_several_shards() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.tree().join("many")).unwrap();
    for number in 0..9000 {
        write(fixture.tree().join(format!("many/{number:05}")), b"");
    }
    write(fixture.tree().join("zz"), b"behind it");
    let built = fixture.build(&Options::default());
    assert!(built.shards.len() > 3);
    let image = Image::open(fixture.store.clone(), &built.manifest).unwrap();
    let directory = image.lookup(b"/many", false).unwrap();
    let mut names = Vec::new();
    image
        .for_each_entry(&directory, |entry| {
            names.push(String::from_utf8(entry.name).unwrap());
            Ok::<_, peerfs_store::Error>(())
        })
        .unwrap();
    let expected: Vec<String> = (0..9000).map(|number| format!("{number:05}")).collect();
    assert!(names == expected);
    for name in ["00000", "04321", "08999"] {
        assert!(image.child(&directory, name.as_bytes()).unwrap().is_some());
    }
    for name in ["", "0", "09000", "zz"] {
        assert!(image.child(&directory, name.as_bytes()).unwrap().is_none());
    }
    assert_eq!(fixture.read(&built, "many/../zz"), b"behind it");
}

#[test]
fn a_build_can_be_given_up_at_any_time() {
    static QUESTIONS: AtomicI64 = AtomicI64::new(0);
    let fixture = Fixture::new();
    write(fixture.tree().join("large"), &random(1, 20_000_000));
    for number in 0..100 {
        write(fixture.tree().join(format!("small-{number}")), b"small");
    }
    let base = fixture.build(&Options::default()).manifest;
    let options = Options {
        threads: NonZeroUsize::new(3).unwrap(),
        base: vec![base],
        compression: Compression::None,
        give_up: GiveUp::when(|| QUESTIONS.fetch_sub(1, Ordering::Relaxed) <= 0),
        ..Options::default()
    };
    let mut answers = 0;
    let outcome = loop {
        QUESTIONS.store(answers, Ordering::Relaxed);
        write(
            fixture.tree().join("new"),
            &random(answers as u64, 3_000_000),
        );
        match fixture.try_build(&options) {
            Err(Error::Cancelled) => (),
            outcome => break outcome,
        }
        let left = fs::read_dir(fixture.store.root_dir().join("tmp")).unwrap();
        assert_eq!(left.count(), 0);
        answers += 1 + answers / 8;
    };
    outcome.unwrap();
    assert!(answers > 100, "{answers}");
}
