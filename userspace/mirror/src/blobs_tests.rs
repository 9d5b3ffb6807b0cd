// SPDX-License-Identifier: GPL-2.0 OR MIT

use super::*;

fn put(blobs: &Arc<Blobs>, bytes: &[u8]) -> Digest {
    let digest = Digest(Sha256::digest(bytes).into());
    let mut growing = blobs.begin(bytes.len() as u64).unwrap();
    // As it comes: in pieces of any length.
    for piece in bytes.chunks(100_000) {
        growing.write(piece).unwrap();
    }
    growing.finish(&digest).unwrap();
    digest
}

#[test]
fn what_was_not_asked_for_goes_first_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Arc::new(Blobs::open(folder.path(), 3 * BLOCK).unwrap());
    let [a, b, c] = [&b"a"[..], b"b", b"c"].map(|bytes| put(&blobs, bytes));
    assert_eq!(blobs.find(&a).unwrap().unwrap().read(0, 9).unwrap(), b"a");
    // Times on disks are not finer than some milliseconds.
    let old = SystemTime::now() - std::time::Duration::from_secs(9);
    let file = File::open(folder.path().join(c.to_string())).unwrap();
    file.set_modified(old).unwrap();
    let d = put(&blobs, b"d");
    assert!(blobs.find(&b).unwrap().is_none());
    drop(blobs);
    let blobs = Arc::new(Blobs::open(folder.path(), 3 * BLOCK).unwrap());
    let e = put(&blobs, b"e");
    assert!(blobs.find(&c).unwrap().is_none());
    for kept in [a, d, e] {
        assert!(blobs.find(&kept).unwrap().is_some());
    }
    // What is not finished leaves nothing.
    let mut growing = blobs.begin(BLOCK).unwrap();
    growing.write(b"half of it").unwrap();
    drop(growing);
    assert_eq!(blobs.lock().used, 3 * BLOCK - BLOCK);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// Bytes that are used, and those that are promised.
fn sums(blobs: &Blobs) -> (u64, u64) {
    let state = blobs.lock();
    (state.used, state.promised)
}

#[test]
fn what_is_being_written_is_bounded_in_sum() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Arc::new(Blobs::open(folder.path(), 3 * BLOCK).unwrap());
    let large = blobs.begin(3 * BLOCK + 1);
    assert!(matches!(large, Err(CannotBegin::TooLarge { .. })));
    let mut first = blobs.begin(BLOCK + 1).unwrap();
    let second = blobs.begin(BLOCK + 1);
    assert!(matches!(second, Err(CannotBegin::Full)));
    let third = blobs.begin(BLOCK).unwrap();
    // Nobody writes more than was promised.
    first.write(&[1; 2 * BLOCK as usize]).unwrap();
    assert!(first.write(b"2").is_err());
    assert_eq!(blobs.lock().used, 2 * BLOCK);
    drop((first, third));
    assert_eq!(sums(&blobs), (0, 0));
    let kept = put(&blobs, &[7; 3 * BLOCK as usize]);
    assert_eq!(sums(&blobs), (3 * BLOCK, 0));
    assert!(blobs.find(&kept).unwrap().is_some());
}

#[test]
fn what_has_changed_on_the_disk_is_not_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Arc::new(Blobs::open(folder.path(), 1 << 20).unwrap());
    let [a, b] = [&b"one"[..], b"two"].map(|bytes| put(&blobs, bytes));
    fs::write(folder.path().join(a.to_string()), "onf").unwrap();
    fs::write(folder.path().join("3.new"), "half of it").unwrap();
    let blobs = Arc::new(Blobs::open(folder.path(), 1 << 20).unwrap());
    assert_eq!(blobs.cost(&b), Some(3));
    assert!(blobs.find(&a).unwrap().is_none());
    assert!(blobs.find(&b).unwrap().is_some());
    assert_eq!((blobs.cost(&a), blobs.cost(&b)), (None, Some(0)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // What can't be opened just now stays, and what became shorter goes.
    let path = folder.path().join(b.to_string());
    fs::rename(&path, folder.path().join("aside")).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(blobs.find(&b).is_err());
    fs::rename(folder.path().join("aside"), &path).unwrap();
    assert!(blobs.find(&b).unwrap().is_some());
    fs::write(&path, "tw").unwrap();
    assert!(blobs.find(&b).unwrap().is_none());
    assert_eq!(blobs.length(&b), None);
}

#[test]
fn what_the_disk_changes_is_noticed_where_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Arc::new(Blobs::open(folder.path(), 1 << 30).unwrap());
    let bytes: Vec<u8> = (0..2 * CHUNK + 10).map(|number| number as u8).collect();
    let digest = put(&blobs, &bytes);
    // One that was proven when it came, and one that was when it was found.
    let again = || Arc::new(Blobs::open(folder.path(), 1 << 30).unwrap());
    let first = || Arc::clone(&blobs);
    for open in [&first as &dyn Fn() -> Arc<Blobs>, &again] {
        let blobs = open();
        let blob = blobs.find(&digest).unwrap().unwrap();
        for (offset, count) in [
            (0, usize::MAX),
            (5, 7),
            (CHUNK - 1, 2),
            (2 * CHUNK, 99),
            (3 * CHUNK, 1),
        ] {
            let start = bytes.len().min(offset as usize);
            let expected = &bytes[start..start.saturating_add(count).min(bytes.len())];
            assert!(
                blob.read(offset, count).unwrap() == expected,
                "{offset} {count}"
            );
        }
        let file = File::options()
            .write(true)
            .open(blobs.path(&digest))
            .unwrap();
        file.write_all_at(b"wrong", CHUNK).unwrap();
        assert_eq!(blob.read(CHUNK - 1, 1).unwrap().len(), 1);
        let read = blob.read(CHUNK - 1, 2);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
        // It is to be fetched anew.
        assert!(blobs.find(&digest).unwrap().is_none());
        put(&blobs, &bytes);
    }
}
