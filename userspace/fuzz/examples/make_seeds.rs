// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writes the seeds of the fuzz targets, from an image that is built for it and from messages:
//!
//!     cargo run --release --example make_seeds
//!
//! The seeds are part of the sources; run this when the format changes.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use peerfs_build::{build, DirectorySource, Options, Progress};
use peerfs_format::upcall::{
    write_message, Failure, FetchBlob, FetchChunks, Operation, UsedRun, Workload,
};
use peerfs_format::{
    DataFile, Digest, Place, PlacesHeader, Record, METADATA_MAX,
};
use peerfs_grant::{seal, Recipient};
use peerfs_names::{
    Grant, ImageSignature, KnownName, Name, SecretKey, SignatureManifest, SigningKey,
};
use peerfs_oci::Reference;
use peerfs_replica::account::{Account, Entry};
use peerfs_replica::willing::{NodeKey, Willing, SIGNATURE_SIZE};
use peerfs_store::{Envelope, RealmKey, Store};
use ring::signature::{Ed25519KeyPair, KeyPair};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("tree");
    make_tree(&tree)?;
    let store = Arc::new(Store::create(&folder.path().join("store"))?);
    let source = DirectorySource::new(&tree, &store);
    let image = build(source, &store, &Options::default(), &Progress::default())?;
    let read = |digest: &Digest| store.read_metadata(digest, METADATA_MAX);
    save("manifest", "image", &read(&image.manifest)?)?;
    save("blob_table", "image", &read(&image.blob_table)?)?;
    for (number, shard) in image.shards.iter().enumerate() {
        save("shard", &format!("shard-{number}"), &read(&shard.digest)?)?;
    }
    for (number, pack) in image.packs.iter().enumerate() {
        save(
            "pack_index",
            &format!("pack-{number}"),
            &read(&pack.index_digest)?,
        )?;
    }
    save_encrypted(&tree, &store)?;
    save_envelopes()?;
    save("places", "table", &places())?;
    save_replicas()?;
    save_names()?;
    save_messages()
}

/// What is in the clear of an encrypted image.
fn save_encrypted(tree: &Path, store: &Arc<Store>) -> Result<()> {
    let options = Options {
        realm: Some(realm_key()?),
        ..Options::default()
    };
    let source = DirectorySource::new(tree, store);
    let image = build(source, store, &options, &Progress::default())?;
    let read = |digest: &Digest| store.read_metadata(digest, METADATA_MAX);
    save("manifest", "encrypted", &read(&image.manifest)?)?;
    for (number, pack) in image.packs.iter().enumerate() {
        let name = format!("encrypted-{number}");
        save("pack_index", &name, &read(&pack.index_digest)?)?;
    }
    Ok(())
}

fn realm_key() -> Result<RealmKey> {
    let text = format!("peerfs realm key 1\n{}\n", "07".repeat(32));
    Ok(RealmKey::parse(&text)?)
}

/// Keys that are encrypted for the identity of the fuzz target.
fn save_envelopes() -> Result<()> {
    let recipient = "age1hcfn5ytc6vj9zaj3h8xvlt66cr4gutqarflwneys7mmwvn5n4vwqnv7kum";
    let recipients = Recipient::parse_list(&format!("{recipient}\n{recipient}\n"))?;
    let grants = [
        seal(&realm_key()?, &recipients)?,
        seal(&RealmKey::generate()?, &recipients)?,
    ];
    save("envelope", "grant", grants[0].text().as_bytes())?;
    let envelope = Envelope::of(grants);
    save("envelope", "envelope", envelope.to_text().as_bytes())
}

/// A small tree with everything that a shard can hold and any user may make.
fn make_tree(tree: &Path) -> Result<()> {
    fs::create_dir(tree)?;
    fs::create_dir(tree.join("directory"))?;
    fs::create_dir(tree.join("empty"))?;
    fs::write(tree.join("directory/small"), b"a small file")?;
    fs::hard_link(tree.join("directory/small"), tree.join("link"))?;
    symlink("directory/small", tree.join("symlink"))?;
    let pattern: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("large"), &pattern)?;
    let sparse = [&pattern[..5000], &[0; 200_000], &pattern[..300_000]].concat();
    fs::write(tree.join("sparse"), sparse)?;
    for path in [
        "directory/small",
        "large",
        "sparse",
        "directory",
        "empty",
        "",
    ] {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        File::open(tree.join(path))?.set_times(FileTimes::new().set_modified(time))?;
    }
    Ok(())
}

/// A table of places of four chunks in a loose file and a partial pack.
fn places() -> Vec<u8> {
    let (pack, index) = (Digest([7; Digest::SIZE]), Digest([8; Digest::SIZE]));
    let mut table = Vec::new();
    let header = PlacesHeader {
        chunk_count: 4,
        generation: 3,
        pack,
        index,
    };
    header.write_to(|part| table.extend_from_slice(part));
    for (slot, offset) in [(0, 0), (1, 4096), (0, 5000)] {
        table.extend(Place { slot, offset }.to_entry().to_le_bytes());
    }
    table.extend([0; 8]);
    for file in [DataFile::Loose(5), DataFile::Pack(pack, index)] {
        file.write_to(|part| table.extend_from_slice(part));
    }
    table
}

/// An account, and an announcement by the key of RFC 8032's first test.
fn save_replicas() -> Result<()> {
    let entry = |image, bytes, copies| Entry {
        image: Digest([image; Digest::SIZE]),
        bytes,
        copies,
    };
    let account = Account::new(vec![entry(2, 1 << 30, 3), entry(1, 7, 8)])?;
    save("replica", "account", &account.to_bytes())?;
    let secret: Digest =
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse()?;
    let key = Ed25519KeyPair::from_seed_unchecked(&secret.0).map_err(|error| error.to_string())?;
    let willing = Willing {
        node: NodeKey(key.public_key().as_ref().try_into()?),
        issued: 1_800_000_000,
        expires: 1_800_007_200,
        bytes: 50 << 30,
        addresses: vec!["198.51.100.7:4001".parse()?, "[2001:db8::1]:4001".parse()?],
    };
    let mut signature = [0; SIGNATURE_SIZE];
    let signed = willing.sign(|message| {
        signature.copy_from_slice(key.sign(message).as_ref());
        signature
    })?;
    save("replica", "announcement", signed.bytes())
}

/// Records of a name, one of them by a writer, what is saved of it, and signatures, all by the key of RFC 8032's first test.
fn save_names() -> Result<()> {
    let text = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    let key = SecretKey::parse(text)?;
    let name = Name::new(key.public(), "team/base")?;
    let grant = Grant::new(&name, 1, [key.public()].into(), &key)?;
    let mut known = KnownName::new(name.clone());
    for (sequence, image, grant) in [(1, 1, None), (1, 2, None), (2, 3, Some(grant))] {
        let record = peerfs_names::Record {
            name: name.clone(),
            signer: key.public(),
            sequence,
            issued: 1_700_000_000,
            expires: 1_800_000_000,
            manifest: Digest([image; Digest::SIZE]),
            trace: None,
            replicas: 0,
            grant,
        };
        let signed = record.sign(&key)?;
        save("name_record", &format!("record-{image}"), signed.bytes())?;
        known.offer(signed, UNIX_EPOCH);
    }
    known.go_back_to(None, 1, Some(Digest([2; Digest::SIZE])))?;
    save("name_record", "known", known.to_text().as_bytes())?;
    let Reference::Registry(repository) = "registry.example/team/base".parse()? else {
        return Err("it is a repository".into());
    };
    let image = Digest([7; Digest::SIZE]);
    let signature = ImageSignature::new(&repository, &image, &SigningKey::Ed25519(key))?;
    let mut manifest = SignatureManifest::default();
    manifest.add(&signature);
    save("signature", "payload", &signature.payload)?;
    save("signature", "manifest", &manifest.to_bytes().1)?;
    let policy = format!(
        "default = \"refuse\"\n[[rule]]\nimages = \"registry.example\"\nrequire = \"signature\"\nkeys = [\"{}\"]\n",
        name.key()
    );
    save("signature", "policy", policy.as_bytes())
}

fn save_messages() -> Result<()> {
    let digest = Digest([7; Digest::SIZE]);
    let blob = encode(&FetchBlob {
        digest,
        manifest: digest,
        workload: Workload::default(),
        length: 4096,
        kind: 2,
        priority: 0,
    });
    let chunks = encode(&FetchChunks {
        pack: digest,
        index: digest,
        manifest: digest,
        workload: Workload::new("web").unwrap_or_default(),
        first_chunk: 3,
        chunk_count: 2,
        priority: 1,
        flags: 0,
    });
    let failure = encode(&Failure { errno: 5 });
    let mut used = encode(&UsedRun {
        pack: digest,
        index: digest,
        first_chunk: 64,
        words: 1,
    });
    used.extend_from_slice(&5_u64.to_le_bytes());
    for (name, operation, payload) in [
        ("fetch-blob", Operation::FetchBlob, blob.as_slice()),
        ("fetch-chunks", Operation::FetchChunks, &chunks),
        ("cancel", Operation::Cancel, &[]),
        ("used", Operation::Used, &used),
        ("failed", Operation::Failed, &failure),
    ] {
        let mut message = Vec::new();
        write_message(operation, 42, payload, |part| {
            message.extend_from_slice(part)
        });
        save("upcall", name, &message)?;
    }
    Ok(())
}

fn encode(record: &impl Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write_to(|part| bytes.extend_from_slice(part));
    bytes
}

fn save(target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)?;
    Ok(())
}
