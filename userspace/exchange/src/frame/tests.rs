// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Frames survive encoding, and no bytes make the decoder panic or wait for more than a frame.

use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits::{
    piece_size, ADDRESSES_MAX, ADDRESS_SIZE_MAX, CHUNKS_PER_REQUEST, CHUNK_CREDIT, FRAME_MAX,
    PEERS_MAX, PIECE_MAX, REQUEST_MAX, RUNS_MAX,
};
use crate::{ChunkMap, Have, Suggestion};

/// Types that are in use, by name.
const CHUNK_DATA: u8 = 18;
const BUSY: u8 = 22;
const CANCEL: u8 = 5;

/// A piece that holds all that a test decodes.
const AT_ONCE: usize = 1 << 24;

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn priority() -> impl Strategy<Value = Priority> {
    proptest::sample::select(Priority::ALL.to_vec())
}

fn request() -> impl Strategy<Value = Request> {
    let numbers = proptest::collection::hash_set(any::<u32>(), 1..=CHUNKS_PER_REQUEST);
    let unknown = prop_oneof![Just(0), 10..16_u8, 32..48_u8, Just(239)];
    prop_oneof![
        any::<u32>().prop_map(|bytes| Request::Credit { bytes }),
        (any::<u32>(), digest()).prop_map(|(request, digest)| Request::Have { request, digest }),
        (
            any::<u32>(),
            priority(),
            digest(),
            any::<u64>(),
            any::<bool>()
        )
            .prop_map(
                |(request, priority, digest, maximum, zstd)| Request::WantBlob {
                    request,
                    priority,
                    digest,
                    maximum,
                    zstd,
                }
            ),
        (
            any::<u32>(),
            priority(),
            digest(),
            digest(),
            any::<bool>(),
            numbers
        )
            .prop_map(|(request, priority, pack, index, through, numbers)| {
                Request::WantChunks {
                    request,
                    priority,
                    pack,
                    index,
                    through,
                    chunks: numbers.into_iter().collect(),
                }
            }),
        any::<u32>().prop_map(|request| Request::Cancel { request }),
        (any::<u32>(), digest())
            .prop_map(|(request, manifest)| Request::Follow { request, manifest }),
        (any::<u32>(), digest())
            .prop_map(|(request, manifest)| Request::Peers { request, manifest }),
        (any::<u32>(), digest(), digest()).prop_map(|(request, pack, index)| {
            Request::HavePack {
                request,
                pack,
                index,
            }
        }),
        (any::<u32>(), digest(), digest(), 1..=256_u32).prop_map(
            |(request, pack, index, count)| Request::Suggest {
                request,
                pack,
                index,
                count,
            }
        ),
        (any::<u32>(), unknown, payload(REQUEST_MAX)).prop_map(|(request, kind, payload)| {
            Request::Other {
                request,
                kind,
                payload,
            }
        }),
    ]
}

fn have() -> impl Strategy<Value = Have> {
    prop_oneof![
        Just(Have::Absent),
        Just(Have::Complete),
        (0u32..5000).prop_map(|chunk_count| {
            let bits = vec![0x5a; chunk_count.div_ceil(8) as usize];
            Have::Partial(ChunkMap::new(chunk_count, bits.into()).unwrap())
        }),
    ]
}

fn payload(frame_max: usize) -> impl Strategy<Value = Bytes> {
    let short = proptest::collection::vec(any::<u8>(), 0..100);
    let longest = Just(vec![7; frame_max - HEADER_SIZE]);
    prop_oneof![9 => short, 1 => longest].prop_map(Bytes::from)
}

/// A place in something of so many bytes, and the piece there.
fn piece(total: u64, place: prop::sample::Index) -> (u64, Bytes) {
    let pieces = total.div_ceil(PIECE_MAX.into()).max(1);
    let offset = u64::from(PIECE_MAX) * place.index(pieces as usize) as u64;
    (offset, vec![7; piece_size(total, offset) as usize].into())
}

fn blob_data() -> impl Strategy<Value = Reply> {
    let lengths = prop_oneof![0..200_000_u64, Just(u64::MAX)];
    (
        any::<u32>(),
        lengths,
        any::<bool>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(request, length, zstd, place)| {
            let zstd = zstd && length > 1;
            let sent_length = if zstd {
                length.min(200_000) - 1
            } else {
                length
            };
            let (_, data) = piece(sent_length, place);
            Reply::BlobData {
                request,
                encoding: if zstd {
                    Encoding::Zstd
                } else {
                    Encoding::Plain
                },
                sent_length,
                length,
                data,
            }
        })
}

fn chunk_data() -> impl Strategy<Value = Reply> {
    let place = any::<prop::sample::Index>();
    (any::<u32>(), any::<u32>(), 1..=CHUNK_CREDIT, place).prop_map(
        |(request, number, total, place)| {
            let (offset, data) = piece(total.into(), place);
            Reply::ChunkData {
                request,
                number,
                offset: offset as u32,
                total,
                data,
            }
        },
    )
}

/// Runs with gaps between them.
fn runs() -> impl Strategy<Value = Vec<Range<u32>>> {
    let lengths = proptest::collection::vec((1..100_u32, 1..100_u32), 1..200);
    lengths.prop_map(|lengths| {
        let mut end = 0;
        let mut run = |(gap, length)| {
            let start = end + gap - 1 + u32::from(end > 0);
            end = start + length;
            start..end
        };
        lengths.into_iter().map(&mut run).collect()
    })
}

fn peers() -> impl Strategy<Value = Vec<PeerRecord>> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 1..=max).prop_map(Bytes::from);
    let addresses = proptest::collection::vec(bytes(ADDRESS_SIZE_MAX), 0..=ADDRESSES_MAX);
    let peer = (bytes(ADDRESS_SIZE_MAX - 1), addresses)
        .prop_map(|(id, addresses)| PeerRecord { id, addresses });
    proptest::collection::vec(peer, 0..=PEERS_MAX)
}

fn suggestion() -> impl Strategy<Value = Suggestion> {
    prop_oneof![
        Just(Suggestion::Any),
        (1..=60_000_u64).prop_map(|after| Suggestion::Later(Duration::from_millis(after))),
        (0..1000_u32, 1..=4_u32).prop_map(|(start, count)| Suggestion::Chunks(vec![
            start..start + count,
            start + 9..start + 10
        ])),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let request = any::<u32>;
    let unknown = prop_oneof![28..32_u8, 48..64_u8, Just(255)];
    prop_oneof![
        (request(), have()).prop_map(|(request, have)| Reply::Presence { request, have }),
        blob_data(),
        chunk_data(),
        request().prop_map(|request| Reply::BlobNotFound { request }),
        (request(), any::<u32>())
            .prop_map(|(request, number)| Reply::ChunkNotFound { request, number }),
        (request(), any::<u64>()).prop_map(|(request, length)| Reply::TooLarge { request, length }),
        (request(), any::<u32>()).prop_map(|(request, retry_after)| Reply::Busy {
            request,
            retry_after
        }),
        (request(), digest(), have()).prop_map(|(request, pack, have)| Reply::HaveMap {
            request,
            pack,
            have
        }),
        (request(), digest(), runs()).prop_map(|(request, pack, runs)| Reply::HaveDelta {
            request,
            pack,
            runs
        }),
        (request(), peers()).prop_map(|(request, peers)| Reply::PeerList { request, peers }),
        request().prop_map(|request| Reply::NotServed { request }),
        (request(), suggestion()).prop_map(|(request, suggestion)| Reply::Suggestion {
            request,
            suggestion
        }),
        (request(), unknown, payload(FRAME_MAX)).prop_map(|(request, kind, payload)| {
            Reply::Other {
                request,
                kind,
                payload,
            }
        }),
    ]
}

/// All frames of `bytes`, given to the decoder in pieces of `piece` bytes.
fn decode_pieces<F: Frame>(bytes: &[u8], piece: usize) -> Result<Vec<F>, FrameError> {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for part in bytes.chunks(piece) {
        buffer.extend_from_slice(part);
        while let Some(frame) = decode(&mut buffer)? {
            frames.push(frame);
        }
        assert!(buffer.capacity() <= 2 * F::SIZE_MAX + 2 * piece);
    }
    Ok(frames)
}

fn encoded<F: Frame>(frames: &[F]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

proptest! {
    #[test]
    fn requests_survive(frames in proptest::collection::vec(request(), 1..8), piece in 1usize..4000) {
        prop_assert_eq!(decode_pieces::<Request>(&encoded(&frames), piece).unwrap(), frames);
    }

    #[test]
    fn replies_survive(frames in proptest::collection::vec(reply(), 1..8), piece in 1usize..4000) {
        prop_assert_eq!(decode_pieces::<Reply>(&encoded(&frames), piece).unwrap(), frames);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let _ = decode_pieces::<Request>(&bytes, 64);
        let _ = decode_pieces::<Reply>(&bytes, 64);
    }

    #[test]
    fn damage_never_panics(frame in reply(), place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = encoded(&[frame]);
        let place = place.index(bytes.len());
        bytes[place] = value;
        let _ = decode_pieces::<Request>(&bytes, AT_ONCE);
        let _ = decode_pieces::<Reply>(&bytes, AT_ONCE);
    }

    /// A header says whose frame it is before the rest has come.
    #[test]
    fn the_request_of_a_frame_is_known_by_its_header(frame in reply(), length in any::<prop::sample::Index>()) {
        let bytes = encoded(std::slice::from_ref(&frame));
        let begun = &bytes[..length.index(bytes.len())];
        let request = (begun.len() >= HEADER_SIZE).then(|| frame.request());
        prop_assert_eq!(request_of(begun), request);
    }

    #[test]
    fn short_payloads_are_malformed(kind in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = BytesMut::new();
        put_header(&mut bytes, kind, Priority::Demand, 1, payload.len());
        bytes.put_slice(&payload);
        let _ = decode_pieces::<Request>(&bytes, AT_ONCE);
        let _ = decode_pieces::<Reply>(&bytes, AT_ONCE);
    }
}

#[test]
fn an_oversized_frame_is_refused_at_its_length() {
    for length in [0u32, 7, (FRAME_MAX - LENGTH_SIZE + 1) as u32, u32::MAX] {
        let mut bytes = BytesMut::from(&length.to_le_bytes()[..]);
        assert_eq!(
            decode::<Reply>(&mut bytes),
            Err(FrameError::Length(length)),
            "length {length}"
        );
        assert!(bytes.capacity() < 64);
    }
}

/// An unfinished frame takes no more of a server than the longest request has.
#[test]
fn a_client_s_frame_has_no_room_for_more_than_the_longest_request() {
    let longest = Request::WantChunks {
        request: 1,
        priority: Priority::Background,
        pack: Digest::default(),
        index: Digest::default(),
        through: false,
        chunks: (0..CHUNKS_PER_REQUEST as u32).collect(),
    };
    let bytes = encoded(std::slice::from_ref(&longest));
    assert_eq!(bytes.len(), REQUEST_MAX);
    assert_eq!(decode_pieces::<Request>(&bytes, 100).unwrap(), [longest]);

    let length = (REQUEST_MAX - LENGTH_SIZE + 1) as u32;
    let mut bytes = BytesMut::from(&length.to_le_bytes()[..]);
    assert_eq!(
        decode::<Request>(&mut bytes),
        Err(FrameError::Length(length))
    );
    assert!(bytes.capacity() < 64);
}

#[test]
fn credit_belongs_to_no_request() {
    let mut bytes = encoded(&[Request::Credit { bytes: 1 }]);
    bytes[HEADER_SIZE - 4] = 1;
    assert_eq!(
        decode_pieces::<Request>(&bytes, AT_ONCE),
        Err(FrameError::Malformed("Credit"))
    );
}

#[test]
fn a_piece_and_the_longest_map_fit_a_frame() {
    let chunk = Reply::ChunkData {
        request: 1,
        number: 2,
        offset: PIECE_MAX,
        total: CHUNK_CREDIT,
        data: vec![7; PIECE_MAX as usize].into(),
    };
    let bits = vec![0xff; ChunkMap::CHUNKS_MAX as usize / 8];
    let map = Reply::HaveMap {
        request: 1,
        pack: Digest([1; 32]),
        have: Have::Partial(ChunkMap::new(ChunkMap::CHUNKS_MAX, bits.into()).unwrap()),
    };
    let delta = Reply::HaveDelta {
        request: 1,
        pack: Digest([1; 32]),
        runs: (0..RUNS_MAX as u32)
            .map(|run| 2 * run..2 * run + 1)
            .collect(),
    };
    let frames = [chunk, map, delta];
    assert_eq!(
        decode_pieces::<Reply>(&encoded(&frames), 4096).unwrap(),
        frames
    );
}

/// Whoever adds them to a map need not check them.
#[test]
fn runs_are_in_order_apart_and_within_a_pack() {
    let decode = |runs: &[(u32, u32)]| {
        let mut bytes = BytesMut::new();
        put_header(&mut bytes, 24, Priority::Demand, 1, 32 + 8 * runs.len());
        bytes.put_slice(&[1; 32]);
        for (start, count) in runs {
            bytes.put_u32_le(*start);
            bytes.put_u32_le(*count);
        }
        decode_pieces::<Reply>(&bytes, AT_ONCE)
    };
    let last = ChunkMap::CHUNKS_MAX - 1;
    for right in [&[(0, 1)][..], &[(0, 1), (2, 1)], &[(5, 2), (last, 1)]] {
        assert!(decode(right).is_ok(), "{right:?}");
    }
    for wrong in [
        &[][..],
        &[(0, 0)],
        &[(0, 1), (1, 1)],
        &[(5, 1), (2, 1)],
        &[(5, 3), (6, 1)],
        &[(last, 2)],
        &[(u32::MAX, 0)],
        &[(u32::MAX, 1)],
        &[(1, u32::MAX)],
    ] {
        let malformed = Err(FrameError::Malformed("HaveDelta"));
        assert_eq!(decode(wrong), malformed, "{wrong:?}");
    }
}

/// What a piece says of itself must be true: where it can begin, that it is whole, that it is no longer than a chunk.
#[test]
fn pieces_of_chunks_are_at_their_places_and_whole() {
    let decode = |offset: u32, total: u32, size: u32| {
        let mut bytes = BytesMut::new();
        put_header(
            &mut bytes,
            CHUNK_DATA,
            Priority::Demand,
            1,
            12 + size as usize,
        );
        for field in [7, offset, total] {
            bytes.put_u32_le(field);
        }
        bytes.put_bytes(7, size as usize);
        decode_pieces::<Reply>(&bytes, AT_ONCE)
    };
    let last = CHUNK_CREDIT - PIECE_MAX;
    for (offset, total, size) in [
        (0, 1, 1),
        (0, PIECE_MAX, PIECE_MAX),
        (PIECE_MAX, PIECE_MAX + 1, 1),
        (last, CHUNK_CREDIT, PIECE_MAX),
    ] {
        assert!(decode(offset, total, size).is_ok());
    }
    for (offset, total, size) in [
        (0, 0, 0),
        (0, 1, 0),
        (0, 1, 2),
        (0, 2, 1),
        (1, 3, 2),
        (0, PIECE_MAX + 1, PIECE_MAX + 1),
        (0, PIECE_MAX + 1, PIECE_MAX - 1),
        (PIECE_MAX, PIECE_MAX, 0),
        (PIECE_MAX, PIECE_MAX, PIECE_MAX),
        (CHUNK_CREDIT, CHUNK_CREDIT + 1, 1),
        (u32::MAX, u32::MAX, 1),
    ] {
        let malformed = Err(FrameError::Malformed("ChunkData"));
        assert_eq!(
            decode(offset, total, size),
            malformed,
            "{offset} {total} {size}"
        );
    }
}

/// Both lengths of a blob are known with its first piece, and bounded by what it may have.
#[test]
fn blobs_are_sent_as_long_as_they_are_or_shorter() {
    let decode = |encoding: u8, sent_length: u64, length: u64, size: usize| {
        let mut bytes = BytesMut::new();
        put_header(&mut bytes, 17, Priority::Demand, 1, 17 + size);
        bytes.put_u8(encoding);
        bytes.put_u64_le(sent_length);
        bytes.put_u64_le(length);
        bytes.put_bytes(7, size);
        decode_pieces::<Reply>(&bytes, AT_ONCE)
    };
    for (encoding, sent_length, length, size) in [
        (0, 0, 0, 0),
        (0, 5, 5, 5),
        (0, 5, 5, 1),
        (1, 4, 5, 4),
        (1, 1, u64::MAX, 1),
    ] {
        assert!(decode(encoding, sent_length, length, size).is_ok());
    }
    for (encoding, sent_length, length, size) in [
        (0, 5, 6, 5),
        (0, 6, 5, 5),
        (0, 5, 5, 0),
        (0, 5, 5, 6),
        (0, 0, 0, 1),
        (0, 1 << 20, 1 << 20, PIECE_MAX as usize + 1),
        (1, 5, 5, 5),
        (1, 6, 5, 5),
        (1, 0, 5, 0),
        (2, 5, 5, 5),
    ] {
        let malformed = Err(FrameError::Malformed("BlobData"));
        assert_eq!(
            decode(encoding, sent_length, length, size),
            malformed,
            "{encoding} {sent_length} {length} {size}"
        );
    }
}

/// Flags that are not known are hints that are not heeded.
#[test]
fn unknown_flags_are_passed_over() {
    let want = Request::WantBlob {
        request: 1,
        priority: Priority::Demand,
        digest: Digest::default(),
        maximum: 1,
        zstd: true,
    };
    let mut bytes = encoded(std::slice::from_ref(&want));
    let flags = bytes.len() - 4;
    bytes[flags..].fill(0xff);
    assert_eq!(decode_pieces::<Request>(&bytes, AT_ONCE).unwrap(), [want]);

    let want = Request::WantChunks {
        request: 1,
        priority: Priority::Demand,
        pack: Digest::default(),
        index: Digest::default(),
        through: true,
        chunks: vec![1],
    };
    let mut bytes = encoded(std::slice::from_ref(&want));
    let flags = HEADER_SIZE + 2 * Digest::SIZE;
    bytes[flags..flags + 4].fill(0xff);
    assert_eq!(decode_pieces::<Request>(&bytes, AT_ONCE).unwrap(), [want]);
}

#[test]
fn repeated_and_missing_chunk_numbers_are_malformed() {
    let malformed = FrameError::Malformed("WantChunks");
    let too_many = FrameError::Length((REQUEST_MAX + 4 - LENGTH_SIZE) as u32);
    for (chunks, error) in [
        (vec![], malformed),
        (vec![1, 2, 1], malformed),
        ((0..=CHUNKS_PER_REQUEST as u32).collect(), too_many),
    ] {
        let request = Request::WantChunks {
            request: 1,
            priority: Priority::Demand,
            pack: Digest::default(),
            index: Digest::default(),
            through: false,
            chunks,
        };
        let decoded = decode_pieces::<Request>(&encoded(&[request]), AT_ONCE);
        assert_eq!(decoded, Err(error));
    }
}

#[test]
fn frames_of_the_other_direction_are_refused() {
    let bytes = encoded(&[Reply::Busy {
        request: 1,
        retry_after: 0,
    }]);
    assert_eq!(
        decode_pieces::<Request>(&bytes, AT_ONCE),
        Err(FrameError::Direction(BUSY))
    );
    let bytes = encoded(&[Request::Cancel { request: 1 }]);
    assert_eq!(
        decode_pieces::<Reply>(&bytes, AT_ONCE),
        Err(FrameError::Direction(CANCEL))
    );
}
