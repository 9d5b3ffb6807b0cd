// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Builds that read only what has changed, and what a build leaves out or takes otherwise.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::fixture::{change, Fixture};
use crate::round_trip::listing;
use crate::running::{drop_privileges, fail, peerfs, public_copy, succeed};

/// A tree, stores, and a folder for what builds note.
struct Updates {
    fixture: Fixture,
    tree: PathBuf,
}

impl Updates {
    fn new() -> Self {
        let fixture = Fixture::new();
        let tree = fixture.folder.path().join("updated");
        for folder in 0..5 {
            let folder = tree.join(format!("folder-{folder}"));
            fs::create_dir_all(&folder).unwrap();
            for file in 0..40 {
                let content = format!("{} {file}\n", folder.display()).repeat(file * 20);
                fs::write(folder.join(format!("file-{file}")), content).unwrap();
            }
        }
        fs::write(tree.join("large"), &fixture.content).unwrap();
        symlink("large", tree.join("link")).unwrap();
        fs::hard_link(tree.join("large"), tree.join("second-name")).unwrap();
        // What was changed just now counts as changed while it was read.
        thread::sleep(Duration::from_millis(2100));
        Updates { fixture, tree }
    }

    fn build(&self, store: &str, tag: &str, options: &[&str]) -> Command {
        let store = self.fixture.folder.path().join(store);
        let mut command = peerfs(&store, "build");
        command
            .arg(&self.tree)
            .args(["--tag", tag])
            .args(options)
            .env("XDG_CACHE_HOME", self.fixture.folder.path().join("cache"));
        command
    }

    fn image(&self, store: &str, tag: &str, options: &[&str]) -> String {
        let output = succeed(&mut self.build(store, tag, options));
        String::from_utf8(output).unwrap().trim().to_owned()
    }

    fn image_and_words(&self, store: &str, tag: &str, options: &[&str]) -> (String, String) {
        let output = self.build(store, tag, options).output().unwrap();
        let [digest, told] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{told}");
        (digest.trim().to_owned(), told)
    }

    fn content(&self, store: &str, image: &str, path: &str) -> Vec<u8> {
        let store = self.fixture.folder.path().join(store);
        succeed(peerfs(&store, "cat").arg(image).arg(path))
    }

    fn verify(&self, store: &str) {
        let store = self.fixture.folder.path().join(store);
        succeed(peerfs(&store, "verify").arg("--complete"));
    }

    /// Changes a file's content, and nothing that is seen of it without reading it but its time of change.
    fn change_secretly(&self, path: &str) {
        let path = self.tree.join(path);
        let modified = path.metadata().unwrap().modified().unwrap();
        let mut content = fs::read(&path).unwrap();
        content[0] ^= 1;
        fs::write(&path, content).unwrap();
        let times = FileTimes::new().set_modified(modified);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(times)
            .unwrap();
    }
}

#[test]
fn what_has_not_changed_is_not_read() {
    let updates = Updates::new();
    let whole = updates.image("store", "one", &[]);
    assert_eq!(updates.image("store", "two", &["--update", "one"]), whole);
    updates.verify("store");

    // A file of each kind, changed in ways that are easy to miss.
    updates.change_secretly("folder-0/file-3");
    updates.change_secretly("large");
    fs::write(updates.tree.join("folder-2/new"), "new\n").unwrap();
    fs::remove_file(updates.tree.join("folder-3/file-9")).unwrap();
    fs::rename(
        updates.tree.join("folder-1/file-7"),
        updates.tree.join("folder-4/moved"),
    )
    .unwrap();
    let updated = updates.image("store", "three", &["--update", "two"]);
    let paranoid = updates.image("store", "four", &["--update", "two", "--paranoid"]);
    let anew = updates.image("other", "three", &[]);
    assert_ne!(updated, whole);
    assert_eq!(paranoid, updates.image("store", "five", &[]));
    assert_eq!(paranoid, anew);
    let all = |store: &str, image: &str| {
        listing(
            &updates.fixture.folder.path().join(store),
            image,
            &["-R"],
            "/",
        )
    };
    assert_eq!(all("store", &updated), all("other", &anew));
    for path in all("store", &updated).keys() {
        let path = String::from_utf8(path.clone()).unwrap();
        let original = updates.tree.join(path.trim_start_matches('/'));
        if original.symlink_metadata().unwrap().is_file() {
            let found = updates.content("store", &updated, &path);
            assert_eq!(found, fs::read(&original).unwrap(), "{path}");
        }
    }
    updates.verify("store");
}

/// What the disk has spoiled of an image is not noticed by a build upon it that reads no files, and mended by one that does.
#[test]
fn what_an_image_is_built_upon_is_read_if_that_is_asked_for() {
    let updates = Updates::new();
    updates.image("store", "one", &[]);
    let store = updates.fixture.folder.path().join("store");
    let blobs = fs::read_dir(store.join("blobs/sha256")).unwrap();
    let blobs = blobs.map(|blob| blob.unwrap().path());
    let pack = blobs.max_by_key(|blob| blob.metadata().unwrap().len());
    change(&pack.unwrap(), |bytes| bytes[500_000] ^= 1);
    updates.image("store", "two", &["--update", "one"]);
    let (found, _) = fail(&mut peerfs(&store, "verify"));
    let found = String::from_utf8(found).unwrap();
    assert!(found.contains("images: one, two"), "{found}");
    updates.image("store", "three", &["--update", "two", "--paranoid"]);
    let expected = fs::read(updates.tree.join("large")).unwrap();
    for image in ["one", "two", "three"] {
        assert!(
            updates.content("store", image, "/large") == expected,
            "{image}"
        );
    }
}

/// A file that its user may not read any more is told of, if it is opened.
#[test]
fn a_file_whose_mode_has_changed_is_opened() {
    // Root reads all: another user builds, in whose folder the program is, too.
    let updates = Updates::new();
    let folder = updates.fixture.folder.path();
    let program = public_copy(folder);
    let build = |options: &[&str]| {
        let mut command = Command::new(&program);
        drop_privileges(&mut command);
        command
            .arg("build")
            .arg(&updates.tree)
            .args(["--tag", "x", "--root-dir"])
            .arg(folder.join("new"))
            .args(options)
            .env("XDG_CACHE_HOME", folder.join("notes"));
        command
    };
    fs::create_dir_all(folder.join("notes")).unwrap();
    fs::set_permissions(folder.join("notes"), Permissions::from_mode(0o777)).unwrap();
    let file = updates.tree.join("folder-0/file-9");
    succeed(&mut build(&[]));
    assert!(updates_are_noted(&folder.join("notes")));
    succeed(&mut build(&["--update", "x"]));
    // That changes the file's time of change: now it is opened.
    fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
    let refused = build(&["--update", "x"]).output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("folder-0/file-9"), "{error}");
}

fn updates_are_noted(cache: &Path) -> bool {
    fs::read_dir(cache.join("peerfs/seen-files")).is_ok_and(|mut files| files.next().is_some())
}

#[test]
fn what_is_noted_is_used_by_who_noted_it_only() {
    let updates = Updates::new();
    let whole = updates.image("store", "one", &[]);
    let folder = updates
        .fixture
        .folder
        .path()
        .join("cache/peerfs/seen-files");
    let note = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let noted = fs::read(&note).unwrap();
    let asked = |what: &str| {
        let (digest, told) = updates.image_and_words("store", "two", &["--update", "one"]);
        assert!(told.contains("all files are read"), "{what}: {told}");
        assert_eq!(digest, whole, "{what}");
        fs::write(&note, &noted).unwrap();
        fs::set_permissions(&note, Permissions::from_mode(0o600)).unwrap();
    };
    fs::set_permissions(&note, Permissions::from_mode(0o666)).unwrap();
    asked("others may write it");
    let mut damaged = noted.clone();
    damaged[100] ^= 1;
    fs::write(&note, damaged).unwrap();
    asked("it is damaged");
    fs::remove_file(&note).unwrap();
    symlink("/dev/zero", &note).unwrap();
    let (_, told) = updates.image_and_words("store", "two", &["--update", "one"]);
    assert!(told.contains("all files are read"), "{told}");
    // Another compression makes other chunks of all files.
    let other = ["--compression", "none"];
    let plain = updates.image("other", "plain", &other);
    let updated = updates.image(
        "store",
        "plain",
        &[&other[..], &["--update", "one"]].concat(),
    );
    assert_eq!(updated, plain);
    // An image that there is not yet.
    let (_, told) = updates.image_and_words("third", "two", &["--update", "one"]);
    assert!(told.contains("there is no one yet"), "{told}");
}

/// An image over packs that are not there any more would not be all there.
#[test]
fn what_is_not_in_the_store_any_more_is_read() {
    let updates = Updates::new();
    let whole = updates.image("lone", "one", &[]);
    let store = updates.fixture.folder.path().join("lone");
    let blobs = store.join("blobs/sha256");
    let largest = fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap())
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap();
    fs::remove_file(largest.path()).unwrap();
    assert_eq!(updates.image("lone", "two", &["--update", "one"]), whole);
    updates.verify("lone");
}

#[test]
fn a_tree_is_taken_as_it_was_asked_for() {
    let updates = Updates::new();
    let options = [
        "--exclude",
        "file-1?",
        "--exclude",
        "/folder-2",
        "--exclude",
        "folder-3/file-[0-8]",
        "--owner",
        "7:8",
        "--xattrs",
        "none",
    ];
    let mut command = updates.build("store", "one", &options);
    let epoch = 1_000_000_000_i64;
    succeed(command.env("SOURCE_DATE_EPOCH", epoch.to_string()));
    let store = updates.fixture.folder.path().join("store");
    let found = listing(&store, "one", &["-R"], "/");
    let has = |path: &str| found.contains_key(path.as_bytes());
    assert!(has("/folder-0/file-1") && !has("/folder-0/file-10") && !has("/folder-1/file-19"));
    assert!(!has("/folder-2") && !has("/folder-2/file-0"));
    assert!(!has("/folder-3/file-4") && has("/folder-3/file-9") && has("/folder-0/file-4"));
    for (path, entry) in &found {
        let shown = String::from_utf8_lossy(path);
        let number = |field: &str| entry.get(field).and_then(Value::as_i64);
        assert_eq!(
            (number("uid"), number("gid")),
            (Some(7), Some(8)),
            "{shown}"
        );
        assert_eq!(number("mtime_seconds"), Some(epoch), "{shown}");
    }
    // Earlier times stay.
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let file = File::options()
        .write(true)
        .open(updates.tree.join("large"))
        .unwrap();
    file.set_times(FileTimes::new().set_modified(old)).unwrap();
    let mut command = updates.build("store", "two", &[]);
    succeed(command.env("SOURCE_DATE_EPOCH", epoch.to_string()));
    let large = &listing(&store, "two", &["-d"], "/large")[&b"/large".to_vec()];
    assert_eq!(large["mtime_seconds"], 5, "{large}");

    let (_, error) = fail(
        updates
            .build("store", "x", &[])
            .env("SOURCE_DATE_EPOCH", "today"),
    );
    assert!(error.contains("SOURCE_DATE_EPOCH"), "{error}");
    let (_, error) = fail(&mut updates.build("store", "x", &["--exclude", "a["]));
    assert!(error.contains("a["), "{error}");
    for wrong in ["me", "1:", ":", "4294967295", "-1"] {
        let status = updates
            .build("store", "x", &[&format!("--owner={wrong}")])
            .output()
            .unwrap();
        assert_eq!(status.status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn an_image_of_a_filesystem_in_the_place_of_another_one_is_read() {
    let can_mount = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !can_mount {
        eprintln!("skipped: only root can mount images");
        return;
    }
    let updates = Updates::new();
    let folder = updates.fixture.folder.path();
    // The two have the same times, as is usual for images that can be made again: by them nobody tells the one from the other.
    let script = r#"
        for content in one two; do
            mkdir $content && echo $content > $content/file
            mksquashfs $content $content.img -all-time 1000000 -mkfs-time 0 -quiet > log
        done
        mkdir mnt
        for content in one two; do
            mount -o loop,ro $content.img mnt
            "$0" build mnt --tag image --update image
            test "$("$0" cat image /file)" = $content
            umount mnt
        done"#;
    let mut shell = Command::new("unshare");
    shell
        .args(["--mount", "bash", "-euc", script])
        .arg(env!("CARGO_BIN_EXE_peerfs"))
        .current_dir(folder)
        .env("PEERFS_ROOT_DIR", folder.join("store"))
        .env("XDG_CACHE_HOME", folder.join("cache"));
    succeed(&mut shell);
}
