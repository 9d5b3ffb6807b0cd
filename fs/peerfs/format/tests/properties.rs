// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Properties of the readers: what a builder wrote comes back, and nothing panics whatever is read.

#![forbid(unsafe_code)]

mod hostile;
mod walk;

use capnp::message::Builder;
use capnp::serialize::write_message_to_words;
use peerfs_format::upcall::{
    write_message, Failure, FetchBlob, FetchChunks, FileReply, Header, Operation, PlacesReply,
    Workload,
};
use peerfs_format::{
    peerfs_capnp, BlobTable, ChunkRecord, Digest, EntryRecord, Error, ExtentRecord, InodeRecord,
    KeyId, Manifest, PackIndex, PackRecord, Record, Root, ShardLayout, ShardRecord, SpanRecord,
    Table, XattrRecord, XattrSetRecord, FEATURE_ENCRYPTION, FEATURE_LZ4, FORMAT_VERSION,
    METADATA_MAX, NO_XATTRS, SLOTS_MAX,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// A root directory.
const ROOT: InodeRecord = InodeRecord {
    mode: 0o040755,
    uid: 0,
    gid: 0,
    nlink: 2,
    size: 0,
    allocated: 0,
    mtime_seconds: 0,
    mtime_nanoseconds: 0,
    payload_first: 0,
    payload_count: 0,
    xattrs: NO_XATTRS,
    link: 1,
};

fn encode<R: Record>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        record.write_to(|part| bytes.extend_from_slice(part));
    }
    assert_eq!(bytes.len(), records.len() * R::SIZE);
    bytes
}

/// Asserts that any bytes are a record that is written as it was read, but for reserved fields.
fn check_record<R: Record + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let records: Vec<R> = Table::new(&bytes[..R::SIZE], "record")
        .unwrap()
        .iter()
        .collect();
    let encoded = encode(&records);
    let again: Vec<R> = Table::new(&encoded, "record").unwrap().iter().collect();
    assert_eq!(again, records);
}

fn manifest(root_record: &[u8], blob_table: &[u8], inode_count: u64) -> Vec<u8> {
    manifest_with(root_record, blob_table, inode_count, 0, &[], &[])
}

fn manifest_with(
    root_record: &[u8],
    blob_table: &[u8],
    inode_count: u64,
    features: u64,
    key_id: &[u8],
    envelope: &[u8],
) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::manifest::Builder<'_>>();
    root.set_format_version(FORMAT_VERSION);
    root.set_incompatible_features(features);
    root.set_inode_count(inode_count);
    root.set_root(root_record);
    root.set_key_id(key_id);
    root.set_envelope(envelope);
    root.set_blob_table(blob_table);
    root.set_blob_table_length(4096);
    write_message_to_words(&message)
}

fn blob_table(packs: &[u8], shards: &[u8]) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::blob_table::Builder<'_>>();
    root.set_packs(packs);
    root.set_shards(shards);
    write_message_to_words(&message)
}

fn pack_index(chunks: &[u8]) -> Vec<u8> {
    pack_index_with(chunks, &[])
}

fn pack_index_with(chunks: &[u8], ivs: &[u8]) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::pack_index::Builder<'_>>();
    root.set_chunks(chunks);
    root.set_ivs(ivs);
    write_message_to_words(&message)
}

/// A shard from tables of any bytes, cut to whole records.
fn shard(first_inode: u64, tables: &[Vec<u8>; 8]) -> Vec<u8> {
    let [inodes, extents, spans, entries, sets, xattrs, digests, heap] = tables;
    fn whole<R: Record>(bytes: &[u8]) -> &[u8] {
        &bytes[..bytes.len() - bytes.len() % R::SIZE]
    }
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::inode_shard::Builder<'_>>();
    root.set_first_inode(first_inode);
    root.set_inodes(whole::<InodeRecord>(inodes));
    root.set_extents(whole::<ExtentRecord>(extents));
    root.set_spans(whole::<SpanRecord>(spans));
    root.set_entries(whole::<EntryRecord>(entries));
    root.set_xattr_sets(whole::<XattrSetRecord>(sets));
    root.set_xattrs(whole::<XattrRecord>(xattrs));
    root.set_digests(whole::<Digest>(digests));
    root.set_heap(heap);
    write_message_to_words(&message)
}

/// Inodes that the reader accepts, with references that are right or a little wrong.
fn inodes() -> impl Strategy<Value = Vec<u8>> {
    let types = prop::sample::select(vec![1_u32, 2, 4, 6, 8, 10, 12]);
    let inode = (
        types,
        0..0o10000_u32,
        0..100_u64,
        0..20_u32,
        0..20_u32,
        0..8_u64,
    );
    let inode = inode.prop_map(|(kind, bits, size, first, count, link)| InodeRecord {
        mode: kind << 12 | bits,
        uid: 0,
        gid: 0,
        nlink: 1,
        size,
        allocated: size / 2,
        mtime_seconds: -1,
        mtime_nanoseconds: 999_999_999,
        payload_first: first,
        payload_count: count,
        xattrs: if link == 0 { NO_XATTRS } else { link as u32 },
        link,
    });
    vec(inode, 0..8).prop_map(|inodes| encode(&inodes))
}

/// Bytes that, read as integers, are mostly small.
fn small_numbers(length: usize) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![4 => 0..40_u32, 1 => any::<u32>()];
    vec(word, 0..length / 4)
        .prop_map(|words| words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn walk_everything(bytes: &[u8]) {
    walk::manifest(bytes);
    walk::blob_table(bytes);
    walk::pack_index(bytes);
    walk::shard(bytes);
    walk::upcall(bytes);
    walk::places_table(bytes);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..600)) {
        walk_everything(&bytes);
    }

    #[test]
    fn damaged_blobs_are_read_without_panic(
        tables in prop::array::uniform8(small_numbers(600)),
        inodes in inodes(),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
        end in any::<Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut tables = tables;
        tables[0] = inodes;
        let packs = &tables[1][..tables[1].len() / PackRecord::SIZE * PackRecord::SIZE];
        let shards = &tables[2][..tables[2].len() / ShardRecord::SIZE * ShardRecord::SIZE];
        let chunks = &tables[3][..tables[3].len() / ChunkRecord::SIZE * ChunkRecord::SIZE];
        for mut blob in [
            shard(5, &tables),
            manifest(&encode(&[ROOT]), &[5; Digest::SIZE], 7),
            blob_table(packs, shards),
            pack_index(chunks),
        ] {
            walk_everything(&blob);
            for (place, value) in &damage {
                let place = place.index(blob.len());
                blob[place] = *value;
            }
            if is_cut {
                blob.truncate(end.index(blob.len()));
            }
            walk_everything(&blob);
        }
    }

    #[test]
    fn records_come_back(bytes in vec(any::<u8>(), PackRecord::SIZE)) {
        check_record::<PackRecord>(&bytes);
        check_record::<ShardRecord>(&bytes);
        check_record::<ChunkRecord>(&bytes);
        check_record::<InodeRecord>(&bytes);
        check_record::<ExtentRecord>(&bytes);
        check_record::<SpanRecord>(&bytes);
        check_record::<EntryRecord>(&bytes);
        check_record::<XattrSetRecord>(&bytes);
        check_record::<XattrRecord>(&bytes);
        check_record::<Digest>(&bytes);
    }

    #[test]
    fn a_manifest_comes_back(digest in digest(), total in 1_u64.., mode in 0..0o10000_u32, first: u32) {
        let root = InodeRecord { mode: 0o040000 | mode, payload_first: first, ..ROOT };
        let read = Manifest::parse(&manifest(&encode(&[root]), &digest.0, total)).unwrap();
        prop_assert_eq!(read.inode_count, total);
        prop_assert_eq!((read.root, read.blob_table, read.blob_table_length), (Root::Plain(root), digest, 4096));
    }

    #[test]
    fn features_that_a_reader_does_not_have_are_named(bits in 1_u64..) {
        let bits = bits & 0b1110;
        let mut blob = manifest(&encode(&[ROOT]), &[0; 32], 1);
        // Behind the segment table, the root's pointer and the first word of the root.
        blob[24..32].copy_from_slice(&bits.to_le_bytes());
        let read = Manifest::parse(&blob);
        prop_assert_eq!(read.ok().map(|manifest| manifest.features), (bits & !FEATURE_LZ4 == 0).then_some(bits));
        let message = read.map_or_else(|error| error.to_string(), |_| String::new());
        prop_assert!(!message.contains("LZ4") && !message.contains("encryption"));
        prop_assert_eq!(message.ends_with(&format!("{:#x}", bits & 0b1100)), bits & 0b1100 != 0);
    }

    #[test]
    fn what_is_encrypted_says_so_everywhere(
        feature: bool, root in 79..82_usize, key_id in 15..18_usize, envelope in prop::sample::select(vec![0, 16, 32]),
    ) {
        let (root, key_id) = (vec![7; root], vec![8; key_id]);
        let features = if feature { FEATURE_ENCRYPTION } else { 0 };
        let blob = manifest_with(&root, &[0; 32], 1, features, &key_id, &vec![9; envelope]);
        let is_right = feature && root.len() == 80 && key_id.len() == 16 && envelope != 16;
        let read = Manifest::parse(&blob);
        prop_assert_eq!(read.is_ok(), is_right);
        if let Ok(manifest) = read {
            prop_assert_eq!(manifest.key_id(), Some(KeyId([8; 16])));
            prop_assert!(matches!(manifest.root, Root::Encrypted(root) if root.record == [7; 80]));
        }
        // A plain image has neither a key nor anything of an encrypted one.
        for (features, key_id, envelope, is_right) in [
            (0, &[][..], &[][..], true),
            (0, &key_id[..], &[], false),
            (0, &[], &[9; 32], false),
            (FEATURE_ENCRYPTION, &[8; 16], &[], false),
        ] {
            let blob = manifest_with(&encode(&[ROOT]), &[0; 32], 1, features, key_id, envelope);
            prop_assert_eq!(Manifest::parse(&blob).is_ok(), is_right);
        }
    }

    #[test]
    fn of_a_pack_all_chunks_are_encrypted_or_none(
        codecs in vec(prop::sample::select(vec![0_u8, 1, 2, 3, 0x80, 0x81, 0x82, 0x83]), 1..4),
        ivs in 0..5_usize,
        extra in 0..2_usize,
    ) {
        let chunks: Vec<ChunkRecord> = (0..).zip(&codecs).map(|(number, &codec)| ChunkRecord {
            digest: Digest::default(),
            logical_offset: number * 10,
            stored_offset: number * 10,
            logical_length: 10,
            stored_length: 10,
            codec,
        }).collect();
        let iv_bytes: Vec<u8> = (0..ivs * 16 + extra).map(|byte| byte as u8).collect();
        let blob = pack_index_with(&encode(&chunks), &iv_bytes);
        let parsed = PackRecord::of_index(Digest::default(), Digest::default(), &blob);
        let encrypted = codecs.iter().filter(|codec| **codec & 0x80 != 0).count();
        let are_known = codecs.iter().all(|codec| codec & 0x7f < 3);
        let are_alike = encrypted == 0 || encrypted == codecs.len();
        let is_right = are_known && are_alike && extra == 0 && ivs == encrypted;
        prop_assert_eq!(parsed.is_ok(), is_right, "{:?}", codecs);
        if let Ok(pack) = parsed {
            let index = PackIndex::parse(&blob, &pack).unwrap();
            prop_assert_eq!(index.is_encrypted(), encrypted > 0);
            for number in 0..codecs.len() as u32 {
                let iv = index.iv(number);
                prop_assert_eq!(iv.is_some(), encrypted > 0);
                prop_assert!(iv.is_none_or(|iv| usize::from(iv.0[0]) == 16 * number as usize));
            }
        }
    }

    #[test]
    fn a_blob_table_comes_back(counts in vec(0..5_u32, 1..20), digest in digest()) {
        let mut next = 1;
        let mut shards = Vec::new();
        for (number, &count) in counts.iter().enumerate() {
            // The first shard has the root.
            let inode_count = count + u32::from(number == 0);
            shards.push(ShardRecord { digest, first_inode: next, inode_count, length: 8 });
            next += u64::from(inode_count);
        }
        let blob = blob_table(&[], &encode(&shards));
        prop_assert!(BlobTable::parse(&blob, next).is_err());
        let read = BlobTable::parse(&blob, next - 1).unwrap();
        prop_assert_eq!(read.shards.iter().collect::<Vec<_>>(), shards.clone());
        for inode in 1..next {
            let shard = shards[read.shard_of(inode).unwrap() as usize];
            let end = shard.first_inode + u64::from(shard.inode_count);
            prop_assert!((shard.first_inode..end).contains(&inode));
        }
        prop_assert_eq!(read.shard_of(0), None);
        prop_assert_eq!(read.shard_of(next), None);
    }

    #[test]
    fn every_offset_of_a_pack_has_its_chunk(lengths in vec(1..50_u32, 1..30), digest in digest()) {
        let mut chunks = Vec::new();
        let mut end = 0;
        for &length in &lengths {
            chunks.push(ChunkRecord {
                digest,
                logical_offset: end,
                stored_offset: end,
                logical_length: length,
                stored_length: length,
                codec: 0,
            });
            end += length;
        }
        let blob = pack_index(&encode(&chunks));
        let pack = PackRecord {
            digest,
            index_digest: digest,
            contents_digest: digest,
            stored_length: end.into(),
            logical_length: end.into(),
            index_length: blob.len() as u32,
            chunk_count: chunks.len() as u32,
        };
        let index = PackIndex::parse(&blob, &pack).unwrap();
        for offset in 0..end {
            let (number, chunk) = index.chunk_at(offset).unwrap();
            prop_assert_eq!(chunk, chunks[number as usize]);
            let place = offset.checked_sub(chunk.logical_offset);
            prop_assert!(place.is_some_and(|place| place < chunk.logical_length));
        }
        prop_assert!(index.chunk_at(end).is_err());
        let mut contents = encode(&vec![digest; chunks.len()]);
        prop_assert_eq!(pack.content_digests(&contents).unwrap().len(), chunks.len());
        contents.push(0);
        prop_assert!(pack.content_digests(&contents).is_err());
        contents.truncate((chunks.len() - 1) * Digest::SIZE);
        prop_assert!(pack.content_digests(&contents).is_err());
    }

    #[test]
    fn messages_come_back(
        digests in any::<[[u8; 32]; 3]>(),
        numbers in any::<[u32; 5]>(),
        length: u64,
        workload in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,30}",
        slots in vec(any::<u32>(), SLOTS_MAX as usize),
    ) {
        let [first, second, third] = digests.map(Digest);
        let blob = FetchBlob {
            digest: first,
            manifest: second,
            workload: Workload::new(&workload).unwrap(),
            length,
            kind: numbers[0],
            priority: numbers[1],
        };
        let [_, first_chunk, chunk_count, priority, flags] = numbers;
        let fetch = FetchChunks {
            pack: first,
            index: second,
            manifest: third,
            workload: blob.workload,
            first_chunk,
            chunk_count,
            priority,
            flags,
        };
        let reply = FileReply { id: length, descriptor: flags };
        prop_assert_eq!(FetchBlob::parse(&encode(&[blob])), Ok(blob));
        prop_assert_eq!(FetchChunks::parse(&encode(&[fetch])), Ok(fetch));
        prop_assert_eq!(Failure::parse(&encode(&[Failure { errno: flags }])).unwrap().errno, flags);
        prop_assert_eq!(FileReply::parse(&encode(&[reply])), Ok(reply));

        let places = PlacesReply { id: length, table: flags, slots: slots.try_into().unwrap() };
        let encoded = encode(std::slice::from_ref(&places));
        prop_assert_eq!(PlacesReply::parse(&encoded), Ok(places));

        let mut message = Vec::new();
        write_message(Operation::Failed, length, &encoded, |part| message.extend(part));
        let (header, read) = Header::parse(&message).unwrap();
        prop_assert_eq!((header.operation, header.id), (Operation::Failed, length));
        prop_assert_eq!(header.length as usize, message.len());
        prop_assert_eq!(read, encoded);
        prop_assert_eq!(blob.workload.name(), Some(&workload[..]));
    }

    #[test]
    fn digests_come_back(digest in digest()) {
        let text = digest.to_string();
        prop_assert_eq!(text.as_bytes(), digest.to_hex());
        prop_assert_eq!(text.parse(), Ok(digest));
        prop_assert_eq!(format!("sha256:{text}").parse(), Ok(digest));
        prop_assert!(text[1..].parse::<Digest>().is_err());
    }
}

#[test]
fn a_shard_from_a_builder_is_read() {
    let entry = EntryRecord {
        inode: 2,
        name_offset: 0,
        name_length: 4,
        file_type: 10,
    };
    let span = SpanRecord {
        entries_before: 0,
        shard: 0,
        first_entry: 0,
        entry_count: 1,
        name_offset: 0,
        name_length: 4,
    };
    let inode = |mode, payload_first, payload_count| InodeRecord {
        mode,
        uid: 1,
        gid: 2,
        nlink: 1,
        size: 6,
        allocated: 0,
        mtime_seconds: i64::MIN,
        mtime_nanoseconds: 0,
        payload_first,
        payload_count,
        xattrs: NO_XATTRS,
        link: 1,
    };
    let tables = [
        encode(&[inode(0o40755, 0, 1), inode(0o120777, 4, 6)]),
        Vec::new(),
        encode(&[span]),
        encode(&[entry]),
        Vec::new(),
        Vec::new(),
        Vec::new(),
        b"linktarget".to_vec(),
    ];
    let blob = shard(1, &tables);
    let record = walk::claimed_shard(&blob).unwrap();
    let layout = ShardLayout::parse(&blob, &record).unwrap();
    let shard = layout.view(&blob);
    let packs = Table::new(&[], "packs").unwrap();
    let root = shard.inode(1, &packs).unwrap();
    let span = shard.spans(&root).unwrap().get(0).unwrap();
    assert_eq!(shard.span_name(&span), Ok(b"link".as_slice()));
    let entry = shard.entries(&span).unwrap().get(0).unwrap();
    assert_eq!(shard.entry_name(&entry), Ok(b"link".as_slice()));
    assert_eq!(shard.check_span_name(&span, b"link"), Ok(()));
    assert!(shard.check_span_name(&span, b"lin").is_err());
    let link = shard.inode(entry.inode, &packs).unwrap();
    assert_eq!(shard.symlink_target(&link), Ok(b"target".as_slice()));
    assert_eq!(link.mtime_seconds, i64::MIN);
    assert!(shard.inode(3, &packs).is_err());
    for (first_inode, inode_count) in [(2, 2), (1, 1), (1, 3)] {
        let other = ShardRecord {
            first_inode,
            inode_count,
            ..record
        };
        assert!(ShardLayout::parse(&blob, &other).is_err());
    }
}

#[test]
fn inode_numbers_do_not_wrap() {
    let tables = [const { Vec::new() }; 8];
    let one_inode = |mut tables: [Vec<u8>; 8]| {
        tables[0] = vec![0; InodeRecord::SIZE];
        tables
    };
    let parse = |first, tables: &[Vec<u8>; 8]| {
        let blob = shard(first, tables);
        ShardLayout::parse(&blob, &walk::claimed_shard(&blob).unwrap())
    };
    assert!(parse(u64::MAX, &tables).is_ok());
    assert!(parse(u64::MAX - 1, &one_inode(tables.clone())).is_ok());
    assert!(parse(u64::MAX, &one_inode(tables)).is_err());
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let file = InodeRecord {
        mode: 0o100644,
        ..ROOT
    };
    let broken = InodeRecord {
        mtime_nanoseconds: 1_000_000_000,
        ..ROOT
    };
    let below_another = InodeRecord { link: 2, ..ROOT };
    let nameless = InodeRecord { nlink: 0, ..ROOT };
    for roots in [
        &[][..],
        &[file],
        &[broken],
        &[below_another],
        &[nameless],
        &[ROOT, ROOT],
    ] {
        assert!(Manifest::parse(&manifest(&encode(roots), &[0; Digest::SIZE], 1)).is_err());
    }
    assert!(Manifest::parse(&manifest(&encode(&[ROOT]), &[0; 31], 1)).is_err());
    assert!(Manifest::parse(&manifest(&encode(&[ROOT]), &[0; Digest::SIZE], 0)).is_err());
}

#[test]
fn a_manifest_that_is_too_long_is_refused() {
    let mut blob = manifest(&encode(&[ROOT]), &[0; Digest::SIZE], 1);
    blob.resize(METADATA_MAX as usize, 0);
    assert!(Manifest::parse(&blob).is_ok());
    blob.push(0);
    assert_eq!(Manifest::parse(&blob), Err(Error::TooLarge("METADATA_MAX")));
}
