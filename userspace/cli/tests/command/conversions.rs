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
    crate::import::containers::make_layout(folder);
    let reference = format!("{}/t/ordinary:1", registry.address);
    let repository = format!("{}/t/ordinary", registry.address);
    let mut skopeo = Command::new("skopeo");
    skopeo.current_dir(folder).args(["copy", "--quiet"]);
    skopeo.args(["--dest-tls-verify=false", "oci:layout:name"]);
    succeed(skopeo.arg(format!("docker://{reference}")));
    let original = manifest(&reference);
    let digest = peerfs_store::sha256(&original);
    let (_, error) = fail(&mut pull(&folder.join("none"), &reference));
    assert!(error.contains("peerfs convert"), "{error}");

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
    let (_, error) = fail(&mut pull(&folder.join("none"), &by_digest));
    assert!(error.contains("an ordinary one"), "{error}");
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
    let (_, error) = fail(&mut pull(&folder.join("none"), &second));
    assert!(error.contains("an ordinary one"), "{error}");

    let (_, error) = fail(peerfs(Path::new("/nowhere"), "convert").arg(&layout));
    assert!(error.contains("say where to put that"), "{error}");
}
