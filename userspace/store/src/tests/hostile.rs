// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Stores in which somebody has put something that does not belong there.

use std::fs::{self, File, FileTimes};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{mknodat, FileType, Mode, CWD};

use super::Source;
use crate::{verify, Error, Result, Store, VerifyProgress};

/// What may be at the place of a file.
const KINDS: [&str; 4] = ["fifo", "socket", "directory", "link"];

/// Puts something there in the place of what is there.
fn plant(kind: &str, path: &Path, victim: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
    match kind {
        "fifo" => mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap(),
        "socket" => mknodat(CWD, path, FileType::Socket, Mode::from_raw_mode(0o666), 0).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "link" => symlink(victim, path).unwrap(),
        _ => panic!("{kind}"),
    }
}

/// Does something that must not wait for anybody.
fn soon<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(act());
    });
    receiver
        .recv_timeout(Duration::from_secs(30))
        .expect("within half a minute")
}

/// Everything that a program does with a store, to its end or an error.
fn use_store(root_dir: PathBuf, source: &Source) -> Vec<Result<()>> {
    let (record, index, chunks) = (source.record, source.index.clone(), source.chunks.clone());
    soon(move || {
        let mut done = vec![Store::open(&root_dir).map(drop)];
        let store = match Store::create(&root_dir) {
            Ok(store) => store,
            Err(error) => return vec![Err(error)],
        };
        done.push(store.images().map(drop));
        done.push(store.add_blob(b"a blob").map(drop));
        done.push(
            store
                .read_metadata(&crate::sha256(b"a blob"), 100)
                .map(drop),
        );
        done.push(store.usage().map(drop));
        done.push(store.find_pack(&record, index.clone()).map(drop));
        done.push(store.remember_image(&record.digest, 1));
        let filled = store.pack(&record, index).and_then(|pack| {
            pack.write_chunk(0, &chunks[0])?;
            pack.read_chunk(0)?;
            pack.complete()?;
            pack.discard(0)
        });
        done.push(filled);
        done.push(verify(&store.into(), &[], &VerifyProgress::default()).map(drop));
        done
    })
}

#[test]
fn nothing_is_waited_for_or_followed_wherever_it_is() {
    let source = Source::new(3);
    let (pack, index) = (source.record.digest, source.record.index_digest);
    let blob = crate::sha256(b"a blob");
    let places = [
        "oci-layout".to_owned(),
        "index.json".to_owned(),
        "lock".to_owned(),
        "tmp".to_owned(),
        "partial".to_owned(),
        "blobs".to_owned(),
        "blobs/sha256".to_owned(),
        format!("blobs/sha256/{blob}"),
        format!("blobs/sha256/{pack}"),
        format!("partial/{pack}-{index}"),
        format!("partial/{pack}-{index}.map"),
    ];
    for place in &places {
        for kind in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let root_dir = folder.path().join("store");
            drop(Store::create(&root_dir).unwrap());
            let victims = folder.path().join("victims");
            fs::create_dir(&victims).unwrap();
            let old = victims.join("1-1.new");
            fs::write(&old, b"precious").unwrap();
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            let times = FileTimes::new().set_modified(long_ago);
            File::open(&old).unwrap().set_times(times).unwrap();
            let is_directory = root_dir.join(place).is_dir();
            if is_directory && kind == "directory" {
                continue;
            }
            let victim = if is_directory { &victims } else { &old };
            plant(kind, &root_dir.join(place), victim);
            for done in use_store(root_dir, &source) {
                if let Err(error) = done {
                    // Only what is in the way is complained of.
                    assert!(
                        matches!(error, Error::NotARegularFile(_) | Error::NotAStore(_)),
                        "{kind} for {place}: {error:?}"
                    );
                }
            }
            assert_eq!(fs::read(&old).unwrap(), b"precious", "{kind} for {place}");
            let names = fs::read_dir(&victims).unwrap().count();
            assert_eq!(names, 1, "{kind} for {place}");
        }
    }
}

#[test]
fn what_has_the_name_of_a_blob_or_a_map_and_is_no_file_is_replaced() {
    for kind in ["fifo", "socket", "link"] {
        let source = Source::new(3);
        let store = source.store();
        let victim = source.folder.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        let digest = crate::sha256(b"a blob");
        plant(kind, &store.blob_path(&digest), &victim);
        assert!(!store.has_blob(&digest), "{kind}");
        let refused = store.read_metadata(&digest, 100);
        assert!(matches!(refused, Err(Error::NotARegularFile(_))), "{kind}");
        store.put_blob(&digest, b"a blob").unwrap();
        assert_eq!(store.read_metadata(&digest, 100).unwrap(), b"a blob");

        plant(kind, &source.table(), &victim);
        plant(kind, &store.blob_path(&source.record.digest), &victim);
        source.fill(&store);
        assert!(store.has_blob(&source.record.digest), "{kind}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{kind}");
    }
}

#[test]
fn only_what_is_ours_is_removed_from_tmp() {
    let source = Source::new(1);
    drop(source.store());
    let tmp = source.folder.path().join("store/tmp");
    let names = ["12-3.new", "notes.new", "12-3", "old.txt", "-.new"];
    for name in names {
        fs::write(tmp.join(name), b"?").unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        let times = FileTimes::new().set_modified(long_ago);
        let file = File::options().write(true).open(tmp.join(name)).unwrap();
        file.set_times(times).unwrap();
    }
    drop(source.store());
    let left = names.map(|name| tmp.join(name).exists());
    assert_eq!(left, [false, true, true, true, true]);
}

#[test]
fn what_a_process_that_died_left_is_removed_and_what_is_in_use_is_not() {
    let source = Source::new(1);
    drop(source.store());
    let tmp = source.folder.path().join("store/tmp");
    let make = |name: &str, modified: SystemTime| {
        let file = File::create(tmp.join(name)).unwrap();
        let times = FileTimes::new().set_modified(modified);
        file.set_times(times).unwrap();
        file
    };
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    drop(make("1-1.new", now - hour));
    // The clock was set back since.
    drop(make("1-2.new", now + hour));
    // It was made this moment, and will be locked in the next.
    drop(make("1-3.new", now));
    let used = make("1-4.new", now - hour);
    rustix::fs::flock(&used, rustix::fs::FlockOperation::LockExclusive).unwrap();
    drop(source.store());
    let left = ["1-1.new", "1-2.new", "1-3.new", "1-4.new"].map(|name| tmp.join(name).exists());
    assert_eq!(left, [false, false, true, true]);
    drop(used);
    drop(source.store());
    assert!(!tmp.join("1-4.new").exists());
}

#[test]
fn nothing_is_left_of_a_blob_whose_writer_is_killed() {
    let source = Source::new(1);
    let store = source.store();
    let mut writer = store.blob_writer().unwrap();
    writer.append(b"half").unwrap();
    // What nobody drops is what a killed process leaves.
    std::mem::forget(writer);
    let tmp = source.folder.path().join("store/tmp");
    assert_eq!(fs::read_dir(tmp).unwrap().count(), 0);
}

/// A process that has a lease on a file and never gives it up.
struct Lease(Child);

impl Lease {
    fn take(path: &Path) -> Self {
        const TAKE: &str = "use Fcntl; $SIG{IO} = 'IGNORE'; open(my $f, '<', $ARGV[0]) or die; \
                            fcntl($f, 1024, F_WRLCK) or die \"no lease: $!\"; \
                            $| = 1; print \"taken\\n\"; sleep 100";
        let mut child = Command::new("perl")
            .args(["-e", TAKE])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "taken\n");
        Lease(child)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn who_has_a_lease_on_a_file_or_locks_the_index_is_not_waited_for() {
    let source = Source::new(3);
    let store = source.store();
    let digest = store.add_blob(b"a blob").unwrap();
    let start = Instant::now();
    let leases = [
        Lease::take(&store.blob_path(&digest)),
        Lease::take(&source.folder.path().join("store/index.json")),
    ];
    let index = File::open(source.folder.path().join("store/oci-layout")).unwrap();
    rustix::fs::flock(&index, rustix::fs::FlockOperation::LockShared).unwrap();
    let (reads, locked) = soon(move || {
        let reads = [
            store.read_metadata(&digest, 100).map(drop),
            store.images().map(drop),
        ];
        drop(leases);
        (reads, store.remember_image(&digest, 6))
    });
    for read in reads {
        assert!(matches!(read, Err(Error::Io { .. })), "{read:?}");
    }
    assert!(matches!(locked, Err(Error::Locked(_))), "{locked:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_file_that_grows_or_is_cut_is_read_to_an_end() {
    let source = Source::new(3);
    let store = source.store();
    source.fill(&store);
    let digest = store.add_blob(&[7; 100_000]).unwrap();
    let [metadata, pack] = [digest, source.record.digest].map(|blob| {
        let path = store.blob_path(&blob);
        File::options().append(true).open(path).unwrap()
    });
    metadata.set_len(5).unwrap();
    // However late the thread begins, neither is what it should be.
    std::io::Write::write_all(&mut &pack, &[0; 1 << 20]).unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    let writer = thread::spawn(move || {
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            let mut grow = &pack;
            std::io::Write::write_all(&mut grow, &[0; 1 << 20]).unwrap();
            metadata.set_len(100_000).unwrap();
            metadata.set_len(5).unwrap();
            if pack.metadata().unwrap().len() > 1 << 28 {
                pack.set_len(1 << 20).unwrap();
            }
        }
    });
    let (record, index) = (source.record, source.index.clone());
    soon(move || {
        for _ in 0..5 {
            assert!(store.read_metadata(&digest, 100_000).is_err());
            let pack = store.pack(&record, index.clone()).unwrap();
            assert!(pack.read_chunk(0).unwrap().is_some());
        }
        let report = verify(&store.into(), &[], &VerifyProgress::default()).unwrap();
        assert_eq!(report.damages.len(), 2, "{:?}", report.damages);
    });
    stop.send(()).unwrap();
    writer.join().unwrap();
}
