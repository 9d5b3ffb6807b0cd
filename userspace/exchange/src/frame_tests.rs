// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Frames survive encoding, and no bytes make the decoder panic or wait for more than a frame.

use proptest::prelude::*;

use super::*;

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
    prop_oneof![
        any::<u32>().prop_map(|bytes| Request::Credit { bytes }),
        (any::<u32>(), digest()).prop_map(|(request, digest)| Request::Have { request, digest }),
        (any::<u32>(), priority(), digest(), any::<u64>()).prop_map(
            |(request, priority, digest, maximum)| Request::WantBlob {
                request,
                priority,
                digest,
                maximum,
            }
        ),
        (any::<u32>(), priority(), digest(), digest(), numbers).prop_map(
            |(request, priority, pack, index, numbers)| Request::WantChunks {
                request,
                priority,
                pack,
                index,
                chunks: numbers.into_iter().collect(),
            }
        ),
        any::<u32>().prop_map(|request| Request::Cancel { request }),
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

fn data() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 1..2000).prop_map(Bytes::from)
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        (any::<u32>(), have()).prop_map(|(request, have)| Reply::Presence { request, have }),
        (any::<u32>(), 1..=u64::MAX, data()).prop_map(|(request, length, data)| Reply::BlobData {
            request,
            length,
            data,
        }),
        (any::<u32>(), any::<u32>(), data()).prop_map(|(request, number, data)| {
            Reply::ChunkData {
                request,
                number,
                data,
            }
        }),
        any::<u32>().prop_map(|request| Reply::BlobNotFound { request }),
        (any::<u32>(), any::<u32>())
            .prop_map(|(request, number)| Reply::ChunkNotFound { request, number }),
        (any::<u32>(), any::<u64>())
            .prop_map(|(request, length)| Reply::TooLarge { request, length }),
        any::<u32>().prop_map(|request| Reply::Busy { request }),
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
fn the_longest_chunk_and_the_longest_map_fit_a_frame() {
    let chunk = Reply::ChunkData {
        request: 1,
        number: 2,
        data: vec![7; DATA_MAX as usize].into(),
    };
    let bits = vec![0xff; ChunkMap::CHUNKS_MAX as usize / 8];
    let map = Reply::Presence {
        request: 1,
        have: Have::Partial(ChunkMap::new(ChunkMap::CHUNKS_MAX, bits.into()).unwrap()),
    };
    let frames = [chunk, map];
    assert_eq!(
        decode_pieces::<Reply>(&encoded(&frames), 4096).unwrap(),
        frames
    );
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
            chunks,
        };
        let decoded = decode_pieces::<Request>(&encoded(&[request]), AT_ONCE);
        assert_eq!(decoded, Err(error));
    }
}

#[test]
fn frames_of_the_other_direction_are_refused() {
    let bytes = encoded(&[Reply::Busy { request: 1 }]);
    assert_eq!(
        decode_pieces::<Request>(&bytes, AT_ONCE),
        Err(FrameError::Type(BUSY))
    );
    let bytes = encoded(&[Request::Cancel { request: 1 }]);
    assert_eq!(
        decode_pieces::<Reply>(&bytes, AT_ONCE),
        Err(FrameError::Type(CANCEL))
    );
}
