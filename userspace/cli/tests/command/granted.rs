// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keys of encrypted images that were granted to identities: by files, by envelopes in stores and registries, and by Debian's age.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::docker_registry::Registry;
use crate::fixture::Fixture;
use crate::running::{build, fail, peerfs, succeed};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `peerfs key` with a store.
fn key(store: &Path, arguments: &[&str]) -> Command {
    let mut process = peerfs(store, "key");
    process.args(arguments);
    process
}

/// The one line that a command prints.
fn line(process: &mut Command) -> String {
    let output = String::from_utf8(succeed(process)).unwrap();
    assert_eq!(output.lines().count(), 1, "{output}");
    output.trim_end().to_owned()
}

/// A file that a command makes, and the line that it prints.
fn made(folder: &Path, what: &str, name: &str) -> (PathBuf, String) {
    let file = folder.join(name);
    let line = line(&mut key(Path::new("/nonexistent"), &[what, text(&file)]));
    (file, line)
}

/// What `age` prints.
fn age(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut process = Command::new("age");
    process.args(arguments);
    process.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = process
        .spawn()
        .expect("scripts/setup-packages installs age");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

/// A store with an image that is encrypted, the file and the id of its key.
fn secret() -> (Fixture, PathBuf, String) {
    let fixture = Fixture::new();
    let (file, id) = made(fixture.folder.path(), "realm", "realm.key");
    let options = ["--encrypt", text(&file)];
    build(&fixture.tree(), &fixture.store(), "secret", &options);
    (fixture, file, id)
}

#[test]
fn identities_are_those_of_age() {
    let folder = tempfile::tempdir().unwrap();
    let store = Path::new("/nonexistent");
    let (own, recipient) = made(folder.path(), "identity", "own.txt");
    assert_eq!(
        fs::metadata(&own).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let shown = line(&mut key(store, &["identity", "--show", text(&own)]));
    assert!(shown == recipient && recipient.starts_with("age1"));
    let of_age = line(Command::new("age-keygen").arg("-y").arg(&own));
    assert_eq!(of_age, recipient);
    let before = fs::read(&own).unwrap();
    let (_, message) = fail(&mut key(store, &["identity", text(&own)]));
    assert!(message.contains("never written over"), "{message}");
    assert!(fs::read(&own).unwrap() == before);
    // Made there, and used here.
    let theirs = folder.path().join("theirs.txt");
    succeed(Command::new("age-keygen").arg("-o").arg(&theirs));
    let shown = line(&mut key(store, &["identity", "--show", text(&theirs)]));
    let (file, id) = made(folder.path(), "realm", "realm.key");
    // For both: by us for them, and by them for us.
    let ours = succeed(&mut key(
        store,
        &["grant", text(&file), "--to", &shown, "--to", &recipient],
    ));
    for identity in [&own, &theirs] {
        let plain = age(&["-d", "-i", text(identity)], &ours);
        assert!(plain == fs::read(&file).unwrap());
    }
    for armor in [&["-a"][..], &[]] {
        let options = [armor, &["-r", recipient.as_str()][..]].concat();
        let sealed = folder.path().join("sealed");
        fs::write(&sealed, age(&options, &fs::read(&file).unwrap())).unwrap();
        let imported = folder.path().join(format!("imported{}", armor.len()));
        let mut import = key(store, &["import", text(&sealed), "--identity", text(&own)]);
        assert_eq!(line(import.arg("--output").arg(&imported)), id);
        assert!(fs::read(&imported).unwrap() == fs::read(&file).unwrap());
        let mode = fs::metadata(&imported).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (_, message) = fail(&mut key(store, &["import", text(&sealed)]));
        assert!(message.contains("--identity FILE"), "{message}");
        let info = line(&mut key(store, &["grants", "--json", text(&sealed)]));
        let info: Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info, json!({"recipients": {"X25519": 1}}));
    }
    // The key of SSH is none of ours, and what is secret is in no message.
    let secret = String::from_utf8(before).unwrap();
    let secret = secret.lines().last().unwrap();
    for (to, said) in [
        ("ssh-ed25519 AAAA", "peerfs key identity"),
        (secret, "secret half"),
        ("@/nonexistent", "/nonexistent"),
    ] {
        let (_, message) = fail(&mut key(store, &["grant", text(&file), "--to", to]));
        assert!(
            message.contains(said) && !message.contains(secret),
            "{message}"
        );
    }
    fs::set_permissions(&own, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, message) = fail(&mut key(store, &["identity", "--show", text(&own)]));
    assert!(message.contains("chmod 600"), "{message}");
}

#[test]
fn who_pulls_an_image_reads_it_by_an_identity() {
    let (fixture, file, id) = secret();
    let folder = fixture.folder.path();
    let people = ["one", "two", "late", "stranger"].map(|name| made(folder, "identity", name));
    let [one, two, late, stranger] = &people;
    let store = fixture.store();
    let list = folder.join("team");
    fs::write(&list, format!("# the team\n{}\n\n{}\n", one.1, two.1)).unwrap();
    let list = format!("@{}", text(&list));
    let grant = |to: &str, more: &[&str]| {
        let mut process = key(&store, &["grant", text(&file), "--to", to, "secret"]);
        process.args(more);
        process
    };
    assert_eq!(line(&mut grant(&list, &[])), id);
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let reference = format!("{}/t/secret:1", registry.address);
    let push = || succeed(peerfs(&store, "push").args(["secret", &reference]));
    push();
    let elsewhere = folder.join("elsewhere");
    let pull = || {
        let mut pull = peerfs(Path::new("/nowhere"), "pull");
        succeed(pull.arg("--root-dir").arg(&elsewhere).arg(&reference));
    };
    pull();
    let cat = |identity: &Path| {
        let mut process = peerfs(&elsewhere, "cat");
        process.args(["--identity", text(identity), &reference, "/file"]);
        process
    };
    // Granted later: it comes when the image is pulled again, and what was granted before stays.
    fail(&mut cat(&late.0));
    assert_eq!(line(&mut grant(&late.1, &[])), id);
    push();
    pull();
    for (number, (identity, _)) in [one, two, late].into_iter().enumerate() {
        assert!(succeed(&mut cat(identity)) == fixture.content);
        let to = folder.join(format!("imported{number}"));
        let mut import = key(&elsewhere, &["import", "--image", &reference]);
        import.arg("--identity").arg(identity).arg("-o").arg(&to);
        assert_eq!(line(&mut import), id);
        assert!(fs::read(&to).unwrap() == fs::read(&file).unwrap());
    }
    let (output, message) = fail(&mut cat(&stranger.0));
    assert!(
        output.is_empty() && message.contains("others than this identity"),
        "{message}"
    );
    // Everything that reads takes one; what is plain needs none.
    let identity = ["--identity", text(&one.0)];
    let tar = |image: &str| {
        let mut export = peerfs(&elsewhere, "export");
        succeed(export.arg("tar").args(identity).arg(image))
    };
    assert!(!tar(&reference).is_empty());
    let to = folder.join("extracted");
    let mut extract = peerfs(&elsewhere, "extract");
    succeed(extract.args(identity).arg(&reference).arg(&to));
    assert!(fs::read(to.join("file")).unwrap() == fixture.content);
    let listed = succeed(peerfs(&store, "ls").args(identity).arg("secret"));
    assert_eq!(listed, b"file\n");
    let mut diff = peerfs(&store, "diff");
    let output = succeed(diff.args(identity).args(["--stat", "image", "secret"]));
    assert!(!output.is_empty());
    let mut verify = peerfs(&elsewhere, "verify");
    let report = succeed(verify.args(identity).arg("--json"));
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["encrypted"], json!({}));
    // Who has several identities in a file, and gives it otherwise.
    let both = [fs::read(&stranger.0).unwrap(), fs::read(&two.0).unwrap()].concat();
    let both_file = folder.join("both");
    fs::write(&both_file, both).unwrap();
    let mut from_input = cat(Path::new("-"));
    from_input.stdin(fs::File::open(&both_file).unwrap());
    assert!(succeed(&mut from_input) == fixture.content);

    let grants = |store: &Path, image: &str| -> Vec<Value> {
        let output = succeed(&mut key(store, &["grants", "--json", "--image", image]));
        let lines = String::from_utf8(output).unwrap();
        let lines = lines.lines().map(serde_json::from_str);
        lines.map(Result::unwrap).collect()
    };
    let of = |count: usize| json!({"key": id, "recipients": {"X25519": count}});
    assert_eq!(grants(&elsewhere, &reference), [of(1), of(2)]);
    let table = succeed(&mut key(&store, &["grants", "--image", "secret"]));
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("2 X25519") && table.contains(&id), "{table}");
    // In the place of what was here: what others have of it stays.
    line(&mut grant(&two.1, &["--replace"]));
    assert_eq!(grants(&store, "secret"), [of(1)]);
    pull();
    assert_eq!(grants(&elsewhere, &reference), [of(1), of(2)]);
    // With the images goes what is beside them.
    succeed(peerfs(&store, "rm").arg("secret"));
    succeed(&mut peerfs(&store, "gc"));
    assert!(fs::read_dir(store.join("envelopes"))
        .unwrap()
        .next()
        .is_none());
}

#[test]
fn of_what_is_in_an_envelope_nothing_is_believed() {
    let (fixture, file, id) = secret();
    let folder = fixture.folder.path();
    let store = fixture.store();
    let (other, other_id) = made(folder, "realm", "other.key");
    let (me, recipient) = made(folder, "identity", "me");
    let (_, yours) = made(folder, "identity", "you");
    let sealed = |key_file: &Path, to: &str| {
        let mut process = key(&store, &["grant", text(key_file), "--to", to]);
        String::from_utf8(succeed(&mut process)).unwrap()
    };
    let cat = || {
        let mut process = peerfs(&store, "cat");
        process.args(["--identity", text(&me), "secret", "/file"]);
        process
    };
    let (_, message) = fail(&mut cat());
    assert!(message.contains("peerfs pull"), "{message}");
    let right = sealed(&file, &recipient);
    let mixed_up = sealed(&other, &recipient);
    let envelope = store.join("envelopes").join(&id);
    fs::create_dir(store.join("envelopes")).unwrap();
    let for_you = sealed(&file, &yours);
    let (many, long) = (for_you.repeat(1000), vec![b'A'; 10 << 20]);
    let wrong: [(&[u8], &str); 7] = [
        (&b""[..], "peerfs pull"),
        (b"garbage\n\x1b[2J", "peerfs pull"),
        (&right.as_bytes()[..right.len() / 2], "peerfs pull"),
        (&long, "can't read"),
        (mixed_up.as_bytes(), other_id.as_str()),
        (for_you.as_bytes(), "others than this identity"),
        (many.as_bytes(), "can't read"),
    ];
    for (content, said) in wrong {
        fs::write(&envelope, content).unwrap();
        let (output, message) = fail(&mut cat());
        assert!(
            output.is_empty() && message.contains(said),
            "{said}: {message}"
        );
        let import = ["import", "--image", "secret", "--identity", text(&me)];
        let to = folder.join("imported");
        let (_, message) = fail(key(&store, &import).arg("-o").arg(&to));
        assert!(message.contains(said) && !to.exists(), "{message}");
    }
    // Among what is wrong the right one is found.
    for before in ["garbage\n", ""] {
        fs::write(&envelope, [before, &mixed_up, &for_you, &right].concat()).unwrap();
        assert!(succeed(&mut cat()) == fixture.content);
    }
    // Damaged ones make room for what is granted, and too many are not lost without a word.
    fs::write(&envelope, &long).unwrap();
    let to = ["--to", recipient.as_str(), "secret"];
    let grant = |more: &[&str]| {
        let mut process = key(&store, &["grant", text(&file)]);
        process.args(to).args(more);
        process
    };
    succeed(&mut grant(&[]));
    (1..16).for_each(|_| drop(succeed(&mut grant(&[]))));
    let (_, message) = fail(&mut grant(&[]));
    assert!(message.contains("--replace"), "{message}");
    assert!(succeed(&mut cat()) == fixture.content);
    // Only for images of the realm.
    let sealed_as = |image: &str| {
        let mut process = key(&store, &["grant", text(&other), "--to", &recipient]);
        fail(process.arg(image)).1
    };
    assert!(sealed_as("secret").contains(&id));
    assert!(sealed_as("image").contains("not encrypted"));
    let too_many = folder.join("many");
    fs::write(&too_many, format!("{recipient}\n").repeat(101)).unwrap();
    let to = format!("@{}", text(&too_many));
    let (_, message) = fail(&mut key(&store, &["grant", text(&file), "--to", &to]));
    assert!(message.contains("100 at most"), "{message}");
    // A file that somebody has sent.
    let sent = folder.join("sent");
    for content in [
        &right.as_bytes()[..300],
        &vec![b'-'; 10 << 20],
        b"",
        b"garbage",
    ] {
        fs::write(&sent, content).unwrap();
        let import = ["import", "--identity", text(&me), text(&sent)];
        let (output, _) = fail(&mut key(&store, &import));
        assert!(output.is_empty());
        fail(&mut key(&store, &["grants", text(&sent)]));
    }
}
