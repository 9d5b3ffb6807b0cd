// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measurements of a mounted filesystem, and of what the kernel's hashing and decoding cost beside it.
//!
//! Each prints one line: nanoseconds of the monotonic clock, and the bytes that passed in them, by
//! which the caller knows that all filesystems did the same work. The time leaves out the start of
//! this program.
//!
//! | module | noun |
//! |---|---|
//! | [`reads`] | reads of one file |
//! | [`rates`] | the kernel's own SHA-256 and zstd |
//! | [`round_trip`] | a message over the network and its answer |
//! | [`memory`] | what reading whole trees leaves in memory |

mod memory;
mod rates;
mod reads;
mod round_trip;

use std::ffi::{CString, OsString};
use std::io::{ErrorKind, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Subcommand;
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

use crate::{ensure, Error, Result};

/// The measurements.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Reads a file from its begin to its end.
    Sequential { file: PathBuf },
    /// Reads 4096 bytes at a time, at random multiples of 4096.
    Random {
        file: PathBuf,
        #[arg(long)]
        threads: NonZeroU32,
        /// Reads, of all threads together.
        #[arg(long)]
        reads: u32,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Runs a program to its end and swallows what it prints.
    Command {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
    /// Mounts and unmounts; only the mounting counts. Prints the time of one, the average of all.
    Mount {
        #[arg(long, default_value = "1")]
        times: NonZeroU32,
        /// Leave it mounted in the end.
        #[arg(long)]
        keep: bool,
        filesystem: String,
        source: PathBuf,
        target: PathBuf,
        #[arg(default_value = "")]
        options: String,
    },
    /// Reads every file below some directories; prints the peak of the page cache, and of all memory in
    /// use, above what they were before, in bytes.
    Memory { directories: Vec<PathBuf> },
    /// Sends a byte over loopback and back. Prints the time of one round trip, the average of all.
    RoundTrip {
        #[arg(long, default_value = "1000")]
        times: NonZeroU32,
    },
    /// Has the kernel hash, 64 KiB at a time.
    Sha256 { mebibytes: u32 },
    /// Has the kernel decode a file of zstd.
    Zstd {
        file: PathBuf,
        /// The number of bytes that it decodes to.
        #[arg(long)]
        decoded: u64,
    },
}

/// An amount, and the time in which it passed.
struct Measured {
    time: Duration,
    bytes: u64,
}

/// Measures, and prints the line.
pub(crate) fn measure(what: What) -> Result<()> {
    let measured = match what {
        What::Sequential { file } => reads::sequential(&file)?,
        What::Random {
            file,
            threads,
            reads,
            seed,
        } => reads::random(&file, threads, reads, seed)?,
        What::Command { command } => run(&command)?,
        What::Mount {
            times,
            keep,
            filesystem,
            source,
            target,
            options,
        } => {
            let time = mounts(times, &filesystem, &source, &target, &options)?;
            if !keep {
                unmount(&target, UnmountFlags::empty()).map_err(Error::io("unmount", &target))?;
            }
            Measured { time, bytes: 0 }
        }
        What::Memory { directories } => {
            let peak = memory::peak(&directories)?;
            println!("{} {}", peak.page_cache, peak.all);
            return Ok(());
        }
        What::RoundTrip { times } => Measured {
            time: round_trip::round_trip(times)?,
            bytes: 0,
        },
        What::Sha256 { mebibytes } => rates::sha256(mebibytes)?,
        What::Zstd { file, decoded } => Measured {
            time: rates::zstd(&file)?,
            bytes: decoded,
        },
    };
    println!("{} {}", measured.time.as_nanos(), measured.bytes);
    Ok(())
}

/// Reads to the end. Returns the bytes.
fn drain(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<u64> {
    let mut bytes = 0;
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes += count as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn run(command: &[OsString]) -> Result<Measured> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::Finding("no command".into()))?;
    let path = Path::new(program);
    let mut buffer = vec![0; 1 << 16];
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io("start", path))?;
    let bytes = match child.stdout.as_mut() {
        Some(output) => drain(output, &mut buffer).map_err(Error::io("hear from", path))?,
        None => 0,
    };
    let status = child.wait().map_err(Error::io("wait for", path))?;
    let time = began.elapsed();
    ensure(status.success(), || format!("{}: {status}", path.display()))?;
    Ok(Measured { time, bytes })
}

/// Mounts so many times and unmounts in between. Returns how long one mount took, on average.
fn mounts(
    times: NonZeroU32,
    filesystem: &str,
    source: &Path,
    target: &Path,
    options: &str,
) -> Result<Duration> {
    let options = CString::new(options).map_err(Error::io("mount with", Path::new(options)))?;
    let mut time = Duration::ZERO;
    for number in 0..times.get() {
        if number > 0 {
            unmount(target, UnmountFlags::empty()).map_err(Error::io("unmount", target))?;
        }
        let began = Instant::now();
        mount(
            source,
            target,
            filesystem,
            MountFlags::RDONLY,
            Some(options.as_c_str()),
        )
        .map_err(Error::io("mount", source))?;
        time += began.elapsed();
    }
    Ok(time / times.get())
}
