// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The one layer of the runnable image: a tar with the peerfs manifest, and nothing else.
//!
//! Its bytes must never change, or the same image would get other digests. So both formats are written here, plainly,
//! and nothing is compressed: what a compressor makes depends on its version.

use peerfs_format::Digest;

use crate::descriptor::sha256;

/// The directory that a runtime finds in the layer when it has unpacked it.
pub const STUB_DIRECTORY: &str = ".peerfs";
/// The file in it with the peerfs manifest.
pub const STUB_FILE: &str = "manifest";

/// Bytes of a tar's block.
const BLOCK: usize = 512;
/// The most bytes of a stored block of DEFLATE.
const STORED_MAX: usize = 0xffff;

/// A layer.
pub(crate) struct Stub {
    /// The tar in a gzip envelope: the layer's blob.
    pub(crate) blob: Vec<u8>,
    /// The digest of the tar, which a runtime's configuration names.
    pub(crate) tar: Digest,
}

impl Stub {
    /// The layer with this peerfs manifest.
    pub(crate) fn new(manifest: &[u8]) -> Self {
        let mut tar = Vec::new();
        let directory = format!("{STUB_DIRECTORY}/");
        let file = format!("{directory}{STUB_FILE}");
        tar.extend(header(&directory, 0o755, b'5', 0));
        tar.extend(header(&file, 0o644, b'0', manifest.len()));
        tar.extend(manifest);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
        // The end of the archive.
        tar.resize(tar.len() + 2 * BLOCK, 0);
        Stub {
            blob: gzip(&tar),
            tar: sha256(&tar),
        }
    }
}

/// The digest of the layer that stands for the image with this peerfs manifest, as a runtime knows it when it is unpacked (its
/// `diff_id`, and its chain id as an image's first layer).
pub fn stub_layer(manifest: &[u8]) -> Digest {
    Stub::new(manifest).tar
}

/// The header of an entry of root's, from 1970 (POSIX ustar).
fn header(name: &str, mode: u32, kind: u8, length: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put =
        |place: usize, field: &[u8]| header[place..][..field.len()].copy_from_slice(field);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0"); // Owner.
    put(116, b"0000000\0"); // Group.
    put(124, format!("{length:011o}\0").as_bytes());
    put(136, b"00000000000\0"); // Time.
    put(148, b"        "); // The sum is made with spaces in its place.
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The bytes in a gzip envelope (RFC 1952), in stored blocks (RFC 1951).
fn gzip(content: &[u8]) -> Vec<u8> {
    // Deflated, without a name, at no time, on a system that nobody knows.
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = content.chunks(STORED_MAX).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16; // At most STORED_MAX.
        bytes.push(u8::from(blocks.peek().is_none()));
        bytes.extend(length.to_le_bytes());
        bytes.extend((!length).to_le_bytes());
        bytes.extend(block);
    }
    bytes.extend(crc32(content).to_le_bytes());
    // Modulo 2^32.
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes
}

/// The CRC of RFC 1952. Bit by bit: there are a few KiB.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::thread;

    use super::*;

    /// Both formats as others read them.
    #[test]
    fn a_layer_unpacks_to_the_manifest() {
        // So long that there are two stored blocks.
        for length in [0, 176, 512, 100_000] {
            let manifest: Vec<u8> = (0..length).map(|place: u32| (place >> 3) as u8).collect();
            let mut tar = Command::new("tar")
                .args(["--extract", "--gzip", "--to-stdout", ".peerfs/manifest"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let blob = Stub::new(&manifest).blob;
            let mut input = tar.stdin.take().unwrap();
            let writer = thread::spawn(move || input.write_all(&blob));
            let output = tar.wait_with_output().unwrap();
            writer.join().unwrap().unwrap();
            assert!(output.status.success() && output.stdout == manifest);
        }
    }

    /// The bytes are a promise.
    #[test]
    fn a_layer_is_the_same_wherever_it_is_made() {
        let stub = Stub::new(&[7; 176]);
        assert_eq!(stub.blob.len(), 2583);
        assert_eq!(
            sha256(&stub.blob).to_string(),
            "0fe14dc942983689b682b16ecf9b7f8d9082e54e6a8deb8539dee2bfe4c0b718"
        );
    }
}
