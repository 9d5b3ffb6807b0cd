// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Conversions beside the ordinary images that they were made of, in Debian's docker-registry.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::docker_registry::Registry;
use crate::running::{fail, peerfs, succeed};

/// What the registry has of an image: its bytes.
fn manifest(reference: &str) -> Vec<u8> {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--raw", "--tls-verify=false"]);
    succeed(skopeo.arg(format!("docker://{reference}")))
}

fn pull(store: &Path, reference: &str) -> Command {
    let mut process = peerfs(Path::new("/nowhere"), "pull");
    process.arg("--root-dir").arg(store).arg(reference);
    process
}

/// Pulls it, and returns what was said of that.
fn said(pull: &mut Command) -> String {
    let output = pull.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

/// An ordinary image in a registry: its reference.
fn push_ordinary(registry: &Registry) -> String {
    let folder = registry.folder.path();
    crate::import::containers::make_layout(folder);
    let reference = format!("{}/t/ordinary:1", registry.address);
    let mut skopeo = Command::new("skopeo");
    skopeo.current_dir(folder).args(["copy", "--quiet"]);
    skopeo.args(["--dest-tls-verify=false", "oci:layout:name"]);
    succeed(skopeo.arg(format!("docker://{reference}")));
    reference
}

fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).unwrap().trim().to_owned()
}

#[test]
fn an_ordinary_image_is_pulled_by_its_name_once_somebody_has_converted_it() {
    if crate::import::containers::is_skipped() {
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let folder = registry.folder.path();
    let reference = push_ordinary(&registry);
    let repository = format!("{}/t/ordinary", registry.address);
    let original = manifest(&reference);
    let digest = peerfs_store::sha256(&original);

    let convert = || {
        let mut process = peerfs(Path::new("/nowhere"), "convert");
        text(succeed(process.arg(&reference)))
    };
    let converted = convert();
    let expected = converted.lines().next().unwrap().to_owned();
    let store = folder.join("one");
    assert_eq!(text(succeed(&mut pull(&store, &reference))), expected);
    succeed(&mut peerfs(&store, "verify"));
    // How it is run is said as in the image that is made of the same here.
    let layout = format!("oci:{}:name", folder.join("layout").display());
    let mut import = peerfs(&folder.join("two"), "import");
    let imported = text(succeed(import.args([&layout, "--tag", "x"])));
    assert_eq!(imported, expected);
    let runnable = |store: &str| {
        let blob = |digest: &Value| -> Value {
            let digest = digest.as_str().unwrap().trim_start_matches("sha256:");
            let path = folder.join(store).join("blobs/sha256").join(digest);
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let index = fs::read(folder.join(store).join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let top = blob(&index["manifests"][0]["digest"]);
        let runnable = blob(&top["manifests"][0]["digest"]);
        (top, blob(&runnable["config"]["digest"]))
    };
    let (top, config) = runnable("one");
    assert_eq!(config, runnable("two").1);
    assert_eq!(top["subject"]["digest"], format!("sha256:{digest}"));
    assert_eq!(top["subject"]["size"], original.len());

    // A digest is not the registry's to explain.
    let by_digest = format!("{repository}@sha256:{digest}");
    let said_of = |store: &str, image: &str| said(&mut pull(&folder.join(store), image));
    assert!(!said_of("three", &reference).contains("an ordinary image"));
    assert!(said_of("three", &by_digest).contains("was converted"));
    // It is there once, however often it is made, and the original as it was.
    assert_eq!(convert(), converted);
    let tag = format!("{repository}:sha256-{digest}");
    let list: Value = serde_json::from_slice(&manifest(&tag)).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(manifest(&reference), original);

    // What says that it was made of another image is not taken for a conversion of this one.
    let other = String::from_utf8(manifest(&reference)).unwrap() + "\n";
    let script = r"
import hashlib, sys, urllib.request as r
address, other, known = sys.argv[1:]
def ask(name, kind, body=None):
    kind = f'application/vnd.oci.image.{kind}.v1+json'
    url = f'http://{address}/v2/t/ordinary/manifests/{name}'
    method = 'PUT' if body else 'GET'
    return r.urlopen(r.Request(url, body, {'Content-Type': kind, 'Accept': kind}, method=method)).read()
ask('2', 'manifest', other.encode())
conversions = ask(f'sha256-{known}', 'index')
ask('sha256-' + hashlib.sha256(other.encode()).hexdigest(), 'index', conversions)";
    let mut python = Command::new("python3");
    python.args(["-c", script, &registry.address, &other]);
    succeed(python.arg(digest.to_string()));
    let second = format!("{repository}:2");
    assert!(said_of("four", &second).contains("was converted"));

    let (_, error) = fail(peerfs(Path::new("/nowhere"), "convert").arg(&layout));
    assert!(error.contains("say where to put that"), "{error}");
}

#[test]
fn an_ordinary_image_is_converted_when_it_is_pulled_and_once() {
    if crate::import::containers::is_skipped() {
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let folder = registry.folder.path();
    let reference = push_ordinary(&registry);
    let layout = format!("oci:{}:name", folder.join("layout").display());
    let mut import = peerfs(&folder.join("imported"), "import");
    let imported = text(succeed(import.args([&layout, "--tag", "x"])));

    let store = folder.join("store");
    let output = pull(&store, &reference).output().unwrap();
    assert_eq!(text(output.stdout), imported);
    let said_first = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said_first.matches("was converted as a whole").count(), 1);
    succeed(&mut peerfs(&store, "verify"));
    let config = |store: &Path, image: &str| {
        let mut inspect = peerfs(store, "inspect");
        let inspected = succeed(inspect.args(["--json", image]));
        let inspected: Value = serde_json::from_slice(&inspected).unwrap();
        inspected["config"].clone()
    };
    assert_eq!(
        config(&store, &reference),
        config(&folder.join("imported"), "x")
    );

    // The same again, also by its digest or lazily: nothing is made, but it gets the other names.
    let mut again = pull(&store, &reference);
    assert!(said(again.arg("--lazy")).contains("was converted before"));
    let digest = peerfs_store::sha256(&manifest(&reference));
    let by_digest = format!("{}/t/ordinary@sha256:{digest}", registry.address);
    let mut again = pull(&store, &by_digest);
    let printed = text(succeed(again.args(["--tag", "other", "--json"])));
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(last["done"]["conversion"], "known", "{printed}");
    for name in [&reference, &by_digest, "other"] {
        succeed(peerfs(&store, "ls").args([name, "/etc"]));
    }
    // What is not whole any more is made anew.
    let blobs = store.join("blobs/sha256");
    let largest = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap());
    let largest = largest.max_by_key(|entry| entry.metadata().unwrap().len());
    fs::remove_file(largest.unwrap().path()).unwrap();
    assert!(said(&mut pull(&store, &reference)).contains("as a whole"));
    succeed(&mut peerfs(&store, "verify"));

    // For other machines there is none, and nothing is left of what failed.
    let mut other = pull(&folder.join("none"), &reference);
    fail(other.args(["--platform", "plan9/mips"]));
    let images = text(succeed(&mut peerfs(&folder.join("none"), "images")));
    assert!(!images.contains("ordinary"), "{images}");
}

#[test]
fn an_ordinary_image_is_converted_if_the_policy_allows_it() {
    if crate::import::containers::is_skipped() {
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let folder = registry.folder.path();
    let reference = push_ordinary(&registry);
    let keyed = |command: &str| {
        let mut process = peerfs(&folder.join("store"), command);
        process.env("PEERFS_KEYS", folder.join("keys"));
        process
    };
    succeed(keyed("key").arg("new"));
    let key = text(succeed(keyed("key").args(["export", "--pem"])));
    fs::write(folder.join("key.pub"), key).unwrap();
    let policy = folder.join("policy.toml");
    let rule = format!(
        "[[rule]]\nimages = '{}/t'\nrequire = 'signature'\nkeys = ['./key.pub']\n",
        registry.address
    );
    fs::write(&policy, &rule).unwrap();
    let pull = |store: &str, policed: bool| {
        let mut pull = pull(&folder.join(store), &reference);
        if policed {
            pull.env("PEERFS_POLICY", &policy);
        }
        pull
    };
    let place = folder.join("mount");
    fs::create_dir(&place).unwrap();
    let mount = |store: &str| {
        let mut mount = peerfs(&folder.join(store), "mount");
        // The mount itself, of which the checks come first, fails: there is no such option.
        mount.args(["--fuse", "-o", "nonsense", &reference]);
        fail(mount.arg(&place).env("PEERFS_POLICY", &policy)).1
    };
    let (_, refused) = fail(&mut pull("store", true));
    assert!(refused.contains("requires a signature"), "{refused}");
    // Nor is it taken for signed because somebody pulled it without asking for that.
    succeed(&mut pull("free", false));
    assert!(mount("free").contains("none that holds"));
    let (_, refused) = fail(&mut pull("free", true));
    assert!(refused.contains("requires a signature"), "{refused}");

    succeed(keyed("sign").arg(&reference));
    for store in ["store", "free"] {
        succeed(&mut pull(store, true));
        let message = mount(store);
        assert!(message.contains("nonsense"), "{message}");
    }
    // Another image of that store is none that was signed.
    let tree = folder.join("tree");
    fs::create_dir(&tree).unwrap();
    let other = crate::running::build(&tree, &folder.join("store"), "other", &[]);
    succeed(peerfs(&folder.join("store"), "tag").args([&other, &reference]));
    assert!(mount("store").contains("none that holds"));
}
