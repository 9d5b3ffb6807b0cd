// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Blobs as they were sent.

use bytes::Bytes;
use peerfs_exchange::SentBlob;
use peerfs_format::ZSTD_MAGIC;
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

/// The bytes of a blob that was sent as a zstd frame; `None` if it is not one frame of exactly as many as the peer
/// said. Takes no more memory than those, whatever the frame says of its content and its window.
pub(crate) fn decode_zstd(sent: &SentBlob) -> Option<Bytes> {
    let frame = &sent.bytes;
    // The decoder would skip frames that have no content, and decode one behind the other.
    let is_one_frame = frame.starts_with(&ZSTD_MAGIC)
        && zstd_safe::find_frame_compressed_size(frame) == Ok(frame.len());
    if !is_one_frame {
        return None;
    }
    let length = usize::try_from(sent.length).ok()?;
    // All at once, so that what was decoded is the window.
    let content = Decompressor::new().ok()?.decompress(frame, length).ok()?;
    (content.len() == length).then(|| content.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use peerfs_exchange::frame::Encoding;
    use zstd::dict::from_continuous;
    use zstd::stream::Encoder;

    use super::*;

    fn decode_as(bytes: Vec<u8>, length: u64) -> Option<Bytes> {
        decode_zstd(&SentBlob {
            encoding: Encoding::Zstd,
            length,
            bytes: bytes.into(),
        })
    }

    fn compress(content: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(content, 3).unwrap()
    }

    #[test]
    fn what_was_compressed_is_had_back() {
        let content = b"again and ".repeat(1000);
        let sent = compress(&content);
        let length = content.len() as u64;
        assert_eq!(decode_as(sent.clone(), length).unwrap(), content);
        for wrong in [length - 1, length + 1, 0, u64::MAX] {
            assert!(decode_as(sent.clone(), wrong).is_none(), "{wrong}");
        }
        assert!(decode_as(sent[..sent.len() - 1].to_vec(), length).is_none());
    }

    /// Frames of a gigabyte that are announced as 100 bytes, with their length in them or without, and with the
    /// largest window.
    #[test]
    fn a_bomb_takes_no_memory() {
        const GIGABYTE: u64 = 1 << 30;
        let megabyte = vec![0; 1 << 20];
        for says_its_length in [true, false] {
            let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(27).unwrap();
            if says_its_length {
                encoder.set_pledged_src_size(Some(GIGABYTE)).unwrap();
                encoder.include_contentsize(true).unwrap();
            }
            for _ in 0..GIGABYTE / megabyte.len() as u64 {
                encoder.write_all(&megabyte).unwrap();
            }
            let bomb = encoder.finish().unwrap();
            assert!(bomb.len() < 1 << 20);
            let before = peak_memory();
            assert!(decode_as(bomb, 100).is_none());
            let taken = peak_memory() - before;
            assert!(taken < 64 << 10, "{taken} KiB");
        }
        // A window of 2 TiB, and a content of one byte.
        let large = [&ZSTD_MAGIC[..], &[0x00, 0xf8, 0x0b, 0, 0, 7]].concat();
        assert!(decode_as(large, 1).is_none());
    }

    /// The most memory that this process has had, in KiB.
    fn peak_memory() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let value = line.unwrap().trim().trim_end_matches(" kB");
        value.parse().unwrap()
    }

    #[test]
    fn only_one_frame_without_a_dictionary_is_decoded() {
        let (half, whole) = (compress(&[7; 500]), compress(&[7; 1000]));
        let skippable = vec![0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        for frames in [
            [&half, &half],
            [&whole, &skippable],
            [&skippable, &whole],
            [&whole, &compress(&[])],
        ] {
            let bytes = [&frames[0][..], frames[1]].concat();
            assert!(decode_as(bytes, 1000).is_none());
        }
        assert!(decode_as(skippable, 0).is_none());

        let samples: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let dictionary = from_continuous(&samples, &vec![80; 1000], 4096).unwrap();
        let mut with = zstd::bulk::Compressor::with_dictionary(3, &dictionary).unwrap();
        let content = &samples[400..1400];
        assert!(decode_as(with.compress(content).unwrap(), 1000).is_none());
    }
}
