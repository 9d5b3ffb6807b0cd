// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images in a registry, and a policy that needs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::docker_registry::Registry;
use crate::fixture::Fixture;
use crate::running::{fail, peerfs, succeed};

/// A registry with an image in it, and two keys: one of peerfs's, and one as cosign has them.
struct World {
    registry: Registry,
    fixture: Fixture,
    image: String,
    digest: String,
}

impl World {
    fn new() -> Self {
        let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
        let fixture = Fixture::new();
        let image = format!("{}/team/base:1", registry.address);
        let mut push = peerfs(&fixture.store(), "push");
        let pushed = succeed(push.args(["--json", "image", &image]));
        let pushed: Value = serde_json::from_slice(&pushed).unwrap();
        let world = World {
            registry,
            image,
            digest: pushed["digest"].as_str().unwrap().to_owned(),
            fixture,
        };
        succeed(world.command("key").arg("new"));
        let shell = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out cosign.pem 2>/dev/null
             openssl pkey -in cosign.pem -pubout -out cosign.pub";
        let mut openssl = Command::new("bash");
        succeed(openssl.args(["-ec", shell]).current_dir(world.folder()));
        world
    }

    fn folder(&self) -> &Path {
        self.fixture.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn command(&self, command: &str) -> Command {
        let mut process = peerfs(&self.fixture.store(), command);
        process.env("PEERFS_KEYS", self.path("keys"));
        process
    }

    /// The public half of the key of peerfs's.
    fn own_key(&self) -> String {
        let key = succeed(self.command("key").arg("export"));
        String::from_utf8(key).unwrap().trim_end().to_owned()
    }

    fn sign(&self, key: &str) {
        let mut sign = self.command("sign");
        let signed = succeed(sign.args(["--key", key, &self.image]));
        assert_eq!(String::from_utf8(signed).unwrap().trim_end(), self.digest);
    }

    fn verify(&self, keys: &[&str]) -> Command {
        let mut verify = self.command("verify-signature");
        for key in keys {
            verify.args(["--key", key]);
        }
        verify.arg(&self.image);
        verify
    }

    /// A pull into another store under a policy.
    fn pull(&self, policy: &str, store: &str) -> Command {
        let file = self.path("policy.toml");
        fs::write(&file, policy).unwrap();
        let mut pull = self.command("pull");
        pull.arg("--root-dir").arg(self.path(store));
        pull.env("PEERFS_POLICY", file).arg(&self.image);
        pull
    }
}

#[test]
fn an_image_is_signed_by_two_and_verified_by_each() {
    let world = World::new();
    let own = world.own_key();
    let public = world.path("cosign.pub");
    let public = public.to_str().unwrap();
    let (_, message) = fail(&mut world.verify(&[&own]));
    assert!(message.contains("is not signed"), "{message}");

    world.sign("default");
    succeed(&mut world.verify(&[&own]));
    let (_, message) = fail(&mut world.verify(&[public]));
    assert!(message.contains("of 1 signatures"), "{message}");
    let secret = world.path("cosign.pem");
    world.sign(secret.to_str().unwrap());
    // Signing again adds nothing; what was signed before stays.
    world.sign("default");
    for keys in [&[own.as_str()][..], &[public], &[public, &own]] {
        let verified = succeed(&mut world.verify(keys));
        assert_eq!(
            String::from_utf8(verified).unwrap().trim_end(),
            world.digest
        );
    }
    // As cosign has it: a manifest by this tag, and OpenSSL agrees with what is signed.
    let tag = format!(
        "docker://{}/team/base:sha256-{}.sig",
        world.registry.address, world.digest
    );
    let inspect = ["inspect", "--raw", "--tls-verify=false", &tag];
    let manifest = succeed(Command::new("skopeo").args(inspect));
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    let layout = world.path("layout");
    let copy = ["copy", "-q", "--src-tls-verify=false", &tag];
    let mut skopeo = Command::new("skopeo");
    succeed(
        skopeo
            .args(copy)
            .arg(format!("oci:{}:sig", layout.display())),
    );
    let digest = layers[1]["digest"].as_str().unwrap().replace(':', "/");
    let signature = &layers[1]["annotations"]["dev.cosignproject.cosign/signature"];
    let shell = format!(
        "base64 -d <<<'{}' >sig && openssl dgst -sha256 -verify cosign.pub -signature sig layout/blobs/{digest}",
        signature.as_str().unwrap()
    );
    let mut openssl = Command::new("bash");
    succeed(openssl.args(["-ec", &shell]).current_dir(world.folder()));
    let payload = fs::read_to_string(layout.join("blobs").join(&digest)).unwrap();
    assert!(
        payload.contains(&format!("sha256:{}", world.digest)),
        "{payload}"
    );
}

#[test]
fn a_policy_is_obeyed_when_an_image_is_pulled_and_when_it_is_mounted() {
    let world = World::new();
    let host = &world.registry.address;
    let rule = format!(
        "[[rule]]\nimages = '{host}/team'\nrequire = 'signature'\nkeys = ['./cosign.pub']\n"
    );
    let (_, message) = fail(&mut world.pull(&rule, "other"));
    assert!(
        message.contains("the policy requires a signature of"),
        "{message}"
    );
    world.sign("default");
    let (_, message) = fail(&mut world.pull(&rule, "other"));
    assert!(message.contains("of the 1 that"), "{message}");
    // Nothing was called so, and nothing of it may be mounted.
    let secret = world.path("cosign.pem");
    world.sign(secret.to_str().unwrap());
    succeed(&mut world.pull(&rule, "other"));
    let refused =
        format!("default = 'refuse'\n[[rule]]\nimages = '{host}/free'\nrequire = 'nothing'\n");
    let (_, message) = fail(&mut world.pull(&refused, "third"));
    assert!(message.contains("the policy refuses"), "{message}");
    let (_, message) = fail(&mut world.pull("default = 'maybe'", "third"));
    assert!(message.contains("is not valid"), "{message}");

    // Of what came without a look at its signatures nothing is known.
    succeed(&mut world.pull("", "fourth"));
    let place = world.path("mount");
    fs::create_dir(&place).unwrap();
    let mount = |store: &str, policy: &str| {
        fs::write(world.path("policy.toml"), policy).unwrap();
        let mut mount = world.command("mount");
        // The mount itself, of which the checks come first, fails: there is no such option.
        mount
            .args(["--fuse", "-o", "nonsense", "--root-dir"])
            .arg(world.path(store));
        mount.env("PEERFS_POLICY", world.path("policy.toml"));
        fail(mount.arg(&world.image).arg(&place)).1
    };
    assert!(mount("fourth", &rule).contains("the store has none that holds"));
    assert!(mount("fourth", &refused).contains("the policy refuses"));
    // By another way of writing the registry, and to be run, it is no other image.
    let mut tag = peerfs(&world.path("fourth"), "tag");
    let other = world.image.replace("127.0.0.1:", "127.0.0.1:0");
    assert_ne!(other, world.image);
    succeed(tag.args([&world.image, &other]));
    for image in [&world.image, &other] {
        let mut run = world.command("run");
        run.arg("--root-dir").arg(world.path("fourth"));
        run.env("PEERFS_POLICY", world.path("policy.toml"));
        let output = run.arg(image).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("the policy refuses"), "{message}");
    }
    for (store, policy) in [("other", rule.as_str()), ("fourth", "")] {
        let message = mount(store, policy);
        assert!(message.contains("nonsense"), "{message}");
    }
}

/// A key, and its certificate, which OpenSSL makes: NAME.key and NAME.crt.
fn certify(folder: &Path, name: &str, kind: &str) {
    let shell = format!(
        "openssl req -x509 -nodes -newkey {kind} -keyout {name}.key -out {name}.crt -subj /CN={name} 2>/dev/null
         chmod 600 {name}.key"
    );
    let mut openssl = Command::new("bash");
    succeed(openssl.args(["-ec", &shell]).current_dir(folder));
}

const P256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

#[test]
fn a_signature_for_kernels_is_one_to_openssl_and_goes_with_the_image() {
    let world = World::new();
    let folder = world.folder();
    let image = world.fixture.manifest.to_string();
    certify(folder, "ec", P256);
    certify(folder, "rsa", "rsa:3072");
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let sign = |key: &str, certificate: &str| {
        let mut sign = world.command("sign");
        sign.args(["--key", &path(key), "--certificate", &path(certificate)]);
        sign.arg("image");
        sign
    };
    for name in ["ec", "rsa"] {
        let key = format!("{name}.key");
        let certificate = format!("{name}.crt");
        let signed = succeed(&mut sign(&key, &certificate));
        assert_eq!(String::from_utf8(signed).unwrap().trim_end(), image);
        // The newest is the first, and OpenSSL stops where it ends.
        let shell = format!(
            "printf 'peerfs-image-1 sha256:{image}' >text
             openssl cms -verify -binary -inform DER -in {}/signed/{image} -content text -certfile {certificate} -noverify -out /dev/null
             ! openssl cms -verify -binary -inform DER -in {}/signed/{image} -content {certificate} -certfile {certificate} -noverify -out /dev/null",
            world.fixture.store().display(),
            world.fixture.store().display(),
        );
        let mut openssl = Command::new("bash");
        succeed(openssl.args(["-ec", &shell]).current_dir(folder));
    }
    // What can't sign says why.
    let (_, message) = fail(&mut sign("ec.key", "rsa.crt"));
    assert!(message.contains("of another key"), "{message}");
    let (_, message) = fail(&mut sign("ec.key", "ec.key"));
    assert!(message.contains("no X.509 certificate"), "{message}");
    let own = world.path("keys/default.pem");
    let (_, message) = fail(&mut sign("keys/default.pem", "ec.crt"));
    assert!(
        message.contains("P-256, or RSA"),
        "{}: {message}",
        own.display()
    );
    let mut garbage = world.command("sign");
    garbage.args(["--signature", &path("ec.crt"), "image"]);
    let (_, message) = fail(&mut garbage);
    assert!(message.contains("no detached signature"), "{message}");

    // A push takes them along, and a pull brings them; twice is once.
    let here = fs::read(world.fixture.store().join("signed").join(&image)).unwrap();
    for _ in 0..2 {
        succeed(world.command("push").args(["image", &world.image]));
    }
    let there = world.path("other");
    let mut pull = world.command("pull");
    succeed(pull.arg("--root-dir").arg(&there).arg(&world.image));
    let signatures = |store: &Path| peerfs_store::Store::open(store).unwrap();
    let digest = image.parse().unwrap();
    let mut found = [world.fixture.store(), there.clone()]
        .map(|store| signatures(&store).certified_signatures(&digest).unwrap());
    found.iter_mut().for_each(|found| found.sort());
    assert_eq!(found[0].len(), 2);
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].concat().len(), here.len());
    // They go with the image.
    let mut remove = peerfs(&there, "rm");
    succeed(remove.arg(&world.image));
    succeed(&mut peerfs(&there, "gc"));
    assert!(!there.join("signed").join(&image).exists());
}
