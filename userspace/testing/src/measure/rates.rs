// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The rates at which this kernel hashes and decodes by itself, without a filesystem: what a reader of the other
//! measurements compares with their own machine.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{bind, socket, AddressFamily, AlgAddr, SockFlag, SockType};
use rustix::io::Errno;
use rustix::net::{accept, send, SendFlags};
use rustix::system::finit_module;
use sha2::{Digest, Sha256};

use super::Measured;
use crate::{ensure, Error, Result};

/// `MODULE_INIT_COMPRESSED_FILE` of include/uapi/linux/module.h.
const COMPRESSED_FILE: i32 = 4;

/// Hashes with the kernel's SHA-256 (AF_ALG), 64 KiB at a time.
pub(super) fn sha256(mebibytes: u32) -> Result<Measured> {
    const LENGTH: usize = 64 << 10;
    let place = Path::new("AF_ALG sha256");
    let content: Vec<u8> = (0..LENGTH).map(|_| fastrand::u8(..)).collect();
    let algorithm = socket(
        AddressFamily::Alg,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(Error::io("open", place))?;
    bind(algorithm.as_raw_fd(), &AlgAddr::new("hash", "sha256"))
        .map_err(Error::io("bind", place))?;
    let operation = accept(&algorithm).map_err(Error::io("accept", place))?;
    let mut digest = [0; 32];
    let hashes = u64::from(mebibytes) * 16;
    let began = Instant::now();
    for _ in 0..hashes {
        send(&operation, &content, SendFlags::empty()).map_err(Error::io("write to", place))?;
        rustix::io::read(&operation, &mut digest).map_err(Error::io("read from", place))?;
    }
    let time = began.elapsed();
    ensure(digest == *Sha256::digest(&content), || {
        "the kernel's SHA-256 is another".into()
    })?;
    Ok(Measured {
        time,
        bytes: hashes * LENGTH as u64,
    })
}

/// Has the kernel decode `path` as if it were a compressed module: it decodes the whole file into
/// pages of its own before it finds that the content is no module.
pub(super) fn zstd(path: &Path) -> Result<Duration> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    // So that it comes from memory.
    super::drain(&mut file, &mut vec![0; 1 << 16]).map_err(Error::io("read", path))?;
    let began = Instant::now();
    let answer = finit_module(&file, c"", COMPRESSED_FILE);
    let time = began.elapsed();
    // Anything else means that it was not decoded: EOPNOTSUPP, for instance, that this kernel can't.
    ensure(answer == Err(Errno::NOEXEC), || {
        format!("the kernel's decoder of modules said {answer:?}")
    })?;
    Ok(time)
}
