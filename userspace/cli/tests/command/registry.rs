// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images to a registry and from there: Debian's docker-registry, and skopeo as another one who reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::docker_registry::Registry;
use crate::fixture::Fixture;
use crate::running::{build, fail, peerfs, succeed};

impl Registry {
    fn plain() -> Self {
        Self::start(tempfile::tempdir().unwrap(), "", "")
    }

    /// With TLS by an authority of its own, and one user.
    fn guarded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = |script: &str| {
            let mut shell = Command::new("bash");
            succeed(shell.args(["-ec", script]).current_dir(folder.path()));
        };
        run("openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca 2>/dev/null
             openssl req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=registry 2>/dev/null
             openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out leaf.crt \
                 -extfile <(echo subjectAltName=IP:127.0.0.1) 2>/dev/null
             htpasswd -Bbn user secret >users");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let http = format!(
            ", tls: {{certificate: {}, key: {}}}",
            path("leaf.crt"),
            path("leaf.key")
        );
        let auth = format!("auth: {{htpasswd: {{realm: x, path: {}}}}}", path("users"));
        Self::start(folder, &http, &auth)
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

fn push(store: &Path, image: &str, reference: &str) -> Value {
    let mut process = peerfs(store, "push");
    let pushed = succeed(process.args(["--json", image, reference]));
    serde_json::from_slice(&pushed).unwrap()
}

fn pull(store: &Path, arguments: &[&str]) -> String {
    let mut process = peerfs(Path::new("/nowhere"), "pull");
    let pulled = succeed(process.arg("--root-dir").arg(store).args(arguments));
    String::from_utf8(pulled).unwrap().trim_end().to_owned()
}

fn cat(store: &Path, image: &str) -> Vec<u8> {
    succeed(peerfs(store, "cat").args([image, "/file"]))
}

/// Bytes of the blobs of a store.
fn blob_bytes(store: &Path) -> u64 {
    let blobs = fs::read_dir(store.join("blobs/sha256")).unwrap();
    blobs
        .map(|blob| blob.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    let registry = Registry::plain();
    let fixture = Fixture::new();
    let manifest = fixture.manifest.to_string();
    let store = fixture.store();
    // The second image has most of its chunks in the packs of the first.
    let mut other = fixture.content.clone();
    other.extend_from_slice(b"and something more");
    fs::write(fixture.tree().join("file"), &other).unwrap();
    let options = ["--architecture", "amd64"];
    let second = build(&fixture.tree(), &store, "second", &options);
    assert!(fs::read_dir(store.join("places")).unwrap().count() > 0);

    let reference = registry.reference("t/a:1");
    let sent = push(&store, "image", &reference);
    assert_eq!(sent["manifest"], *manifest);
    assert!(sent["bytes_sent"].as_u64().unwrap() > 1_000_000, "{sent}");
    let again = push(&store, "image", &reference);
    assert_eq!(
        (&again["blobs_sent"], &again["bytes_sent"]),
        (&0.into(), &0.into())
    );
    let new_tag = push(&store, "image", &registry.reference("t/a:other"));
    assert_eq!(new_tag["bytes_sent"], 0, "{new_tag}");
    // What another repository has is not sent either.
    let mounted = push(&store, "image", &registry.reference("t/mounted:1"));
    assert!(mounted["blobs_mounted"].as_u64().unwrap() >= 5, "{mounted}");
    assert!(
        mounted["bytes_sent"].as_u64().unwrap() < 10_000,
        "{mounted}"
    );
    let second_reference = registry.reference("t/a:2");
    push(&store, "second", &second_reference);

    // What others make of it.
    let skopeo = |arguments: &[&str]| {
        let mut process = Command::new("skopeo");
        let docker = format!("docker://{second_reference}");
        let output = succeed(
            process
                .args(arguments)
                .arg("--tls-verify=false")
                .arg(docker),
        );
        serde_json::from_slice::<Value>(&output).unwrap()
    };
    let raw = skopeo(&["inspect", "--raw"]);
    assert_eq!(raw["manifests"].as_array().unwrap().len(), 2);
    let inspected = skopeo(&["--override-arch", "amd64", "inspect"]);
    assert_eq!(
        inspected["Layers"].as_array().unwrap().len(),
        1,
        "{inspected}"
    );

    // Somebody else gets both, the second one with what came by the first.
    let theirs = registry.folder.path().join("theirs");
    assert_eq!(pull(&theirs, &[&reference]), manifest);
    assert!(cat(&theirs, &reference) == fixture.content);
    assert_eq!(pull(&theirs, &["--tag", "two", &second_reference]), second);
    assert!(cat(&theirs, "two") == other);
    succeed(peerfs(&theirs, "verify").arg("--complete"));
    let by_digest = format!(
        "{}@sha256:{}",
        registry.reference("t/a"),
        sent["digest"].as_str().unwrap()
    );
    let third = registry.folder.path().join("third");
    assert_eq!(pull(&third, &[&by_digest]), manifest);
    // And pushes it, byte by byte the same.
    let copied = push(&third, &manifest, &registry.reference("t/copy:1"));
    assert_eq!(copied["digest"], sent["digest"]);
}

#[test]
fn a_lazy_pull_needs_little_and_the_rest_is_found_later() {
    let registry = Registry::plain();
    let fixture = Fixture::new();
    let reference = registry.reference("lazy:1");
    push(&fixture.store(), "image", &reference);
    let store = registry.folder.path().join("lazy");
    let manifest = pull(&store, &["--lazy", &reference]);
    assert_eq!(manifest, fixture.manifest.to_string());
    assert!(blob_bytes(&store) < 100_000, "{}", blob_bytes(&store));
    assert_eq!(succeed(peerfs(&store, "ls").arg(&reference)), b"file\n");
    let (_, message) = fail(peerfs(&store, "cat").args([&reference, "/file"]));
    assert!(message.contains("not in the store"), "{message}");
    // Nothing says where it is but the store.
    succeed(peerfs(&store, "untag").arg(&reference));
    succeed(&mut peerfs(&store, "gc"));
    assert_eq!(pull(&store, &[&manifest]), manifest);
    assert!(cat(&store, &manifest) == fixture.content);
    succeed(peerfs(&store, "verify").arg("--complete"));
    // What is removed and pulled again before a collection is no image that nobody wants.
    succeed(peerfs(&store, "rm").arg(&manifest));
    assert_eq!(pull(&store, &[&manifest]), manifest);
    succeed(&mut peerfs(&store, "gc"));
    assert!(cat(&store, &manifest) == fixture.content);
    // With the image goes what is noted of it.
    succeed(peerfs(&store, "rm").arg(&manifest));
    succeed(&mut peerfs(&store, "gc"));
    assert_eq!(blob_bytes(&store), 0);
}

#[test]
fn a_registry_with_tls_and_users_is_told_who_asks() {
    let registry = Registry::guarded();
    let fixture = Fixture::new();
    let reference = registry.reference("t/a:1");
    let authority = registry.folder.path().join("ca.crt");
    let auth: PathBuf = registry.folder.path().join("auth.json");
    fs::write(&auth, "{}").unwrap();
    let push = |authority: &Path| {
        let mut process = peerfs(&fixture.store(), "push");
        process
            .args(["image", &reference, "--authfile"])
            .arg(&auth)
            .env("SSL_CERT_FILE", authority);
        process
    };
    let (_, message) = fail(&mut push(&authority));
    assert!(message.contains("podman login"), "{message}");
    let mut login = Command::new("skopeo");
    login.args(["login", "--tls-verify=false", "-u", "user", "-p", "secret"]);
    succeed(login.arg("--authfile").arg(&auth).arg(&registry.address));
    // Whose certificate proves nothing gets no password.
    let (_, message) = fail(&mut push(Path::new("/dev/null")));
    assert!(message.contains("certificate"), "{message}");
    succeed(&mut push(&authority));
    succeed(push(Path::new("/dev/null")).arg("--tls-verify=false"));
    let theirs = registry.folder.path().join("theirs");
    let mut process = peerfs(Path::new("/nowhere"), "pull");
    process.arg("--root-dir").arg(&theirs).arg(&reference);
    process.arg("--authfile").arg(&auth);
    succeed(process.env("SSL_CERT_FILE", &authority));
    assert!(cat(&theirs, &reference) == fixture.content);
}

#[test]
fn what_is_for_this_machine_goes_to_no_proxy() {
    let registry = Registry::plain();
    let fixture = Fixture::new();
    let mut process = peerfs(&fixture.store(), "push");
    process.args(["image", &registry.reference("t/a:1")]);
    // Nobody is there.
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        process.env(name, "http://127.0.0.1:1");
        process.env(name.to_lowercase(), "http://127.0.0.1:1");
    }
    succeed(&mut process);
}

#[test]
fn what_is_not_there_or_no_image_of_peerfs_is_said() {
    let registry = Registry::plain();
    let fixture = Fixture::new();
    let store = registry.folder.path().join("store");
    let pull = |reference: &str| {
        let mut process = peerfs(Path::new("/nowhere"), "pull");
        process.arg("--root-dir").arg(&store).arg(reference);
        process
    };
    let (_, message) = fail(&mut pull(&registry.reference("missing:1")));
    assert!(message.contains("does not have it"), "{message}");
    // The runnable half of one of ours, copied alone: what would be made of it is lost.
    push(&fixture.store(), "image", &registry.reference("whole:1"));
    let mut skopeo = Command::new("skopeo");
    let copy = |name: &str| format!("docker://{}", registry.reference(name));
    skopeo.args([
        "--override-arch",
        "unknown",
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    succeed(skopeo.arg(copy("whole:1")).arg(copy("ordinary:1")));
    let (_, message) = fail(&mut pull(&registry.reference("ordinary:1")));
    assert!(
        message.contains("it is a peerfs image already"),
        "{message}"
    );
    let (_, message) = fail(peerfs(&fixture.store(), "push").arg("image"));
    assert!(message.contains("is no image of a registry"), "{message}");
}

#[test]
fn an_ordinary_image_is_made_one_of_peerfs_as_it_comes() {
    if crate::import::containers::is_skipped() {
        return;
    }
    let registry = Registry::plain();
    let folder = registry.folder.path();
    crate::import::containers::make_layout(folder);
    let reference = registry.reference("t/ordinary:1");
    let copy = |reference: &str| {
        let mut skopeo = Command::new("skopeo");
        skopeo.current_dir(folder).args([
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            "oci:layout:name",
        ]);
        succeed(skopeo.arg(format!("docker://{reference}")));
    };
    copy(&reference);
    let import = |store: &str, source: &str| {
        let mut process = peerfs(&folder.join(store), "import");
        process.args([source, "--tag", "x"]);
        process
    };
    let text = |output: Vec<u8>| String::from_utf8(output).unwrap().trim().to_owned();
    let layout = format!("oci:{}:name", folder.join("layout").display());
    let expected = text(succeed(&mut import("one", &layout)));
    let source = format!("docker://{reference}");
    assert_eq!(text(succeed(&mut import("two", &source))), expected);
    // It is made of the same layers, so that the same is said of how it is run.
    let config = |store: &str| {
        let index: Value =
            serde_json::from_slice(&fs::read(folder.join(store).join("index.json")).unwrap())
                .unwrap();
        index["manifests"][0]["digest"].clone()
    };
    assert_eq!(config("one"), config("two"));

    let (_, error) = fail(import("three", &source).args(["--platform", "linux/s390x"]));
    assert!(error.contains("linux/s390x"), "{error}");
    let (_, error) = fail(&mut import("three", "docker://name"));
    assert!(error.contains("registry.example"), "{error}");
    let missing = format!("docker://{}", registry.reference("t/none:1"));
    fail(&mut import("three", &missing));

    // What can be seen of layers that are none is said, as of a layout.
    let script = "import json, sys, urllib.request as r\n\
                  url = 'http://%s/v2/t/ordinary/manifests/' % sys.argv[1]\n\
                  kind = 'application/vnd.oci.image.manifest.v1+json'\n\
                  manifest = json.load(r.urlopen(r.Request(url + '1', headers={'Accept': kind})))\n\
                  manifest['layers'][0]['mediaType'] += '+encrypted'\n\
                  body = json.dumps(manifest).encode()\n\
                  r.urlopen(r.Request(url + '2', body, {'Content-Type': kind}, method='PUT'))";
    let mut python = Command::new("python3");
    succeed(python.args(["-c", script, &registry.address]));
    let encrypted = format!("docker://{}", registry.reference("t/ordinary:2"));
    let (_, error) = fail(&mut import("three", &encrypted));
    assert!(error.contains("encrypted"), "{error}");

    // A layer that is not what it should be.
    let blobs = folder.join("registry/docker/registry/v2/blobs/sha256");
    let mut find = Command::new("bash");
    find.args(["-ec", "for f in */*/data; do if gzip -t $f 2>/dev/null; then dd if=/dev/urandom of=$f bs=1 seek=100 count=20 conv=notrunc status=none; fi; done"]);
    succeed(find.current_dir(blobs));
    let (_, error) = fail(&mut import("four", &source));
    assert!(error.contains("t/ordinary:1"), "{error}");
    let images = succeed(peerfs(&folder.join("four"), "images").arg("--quiet"));
    assert!(images.is_empty(), "{}", text(images));
}
