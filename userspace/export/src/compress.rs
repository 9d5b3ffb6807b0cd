// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Compressing a stream by several threads, to the same bytes however many these are: blocks of one length are compressed by
//! themselves, and the members (gzip) or frames (Zstandard) written one behind the other, which is one stream for whoever
//! reads it.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::thread;

use flate2::write::GzEncoder;
use flume::{Receiver, Sender};
use peerfs_oci::LayerFormat;

use crate::{Error, Result};

/// Bytes of a block. Longer ones compress a little better, and some for each thread are in memory.
const BLOCK: usize = 2 * 1024 * 1024;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LayerCompression {
    format: LayerFormat,
    level: u32,
}

impl LayerCompression {
    /// The compression that all tools know.
    pub const GZIP: LayerCompression = LayerCompression {
        format: LayerFormat::Gzip,
        level: 6,
    };

    /// What it compresses to.
    pub fn format(&self) -> LayerFormat {
        self.format
    }

    fn compress(self, block: Vec<u8>) -> io::Result<Vec<u8>> {
        match self.format {
            LayerFormat::Tar => Ok(block),
            LayerFormat::Gzip => {
                // A header without a time or name.
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(self.level));
                encoder.write_all(&block)?;
                encoder.finish()
            }
            // At most 22.
            LayerFormat::Zstd => zstd::bulk::compress(&block, self.level as i32),
        }
    }
}

/// A compression that is none of those that there are.
#[derive(Debug, thiserror::Error)]
#[error("gzip, gzip:LEVEL (1 to 9), zstd, zstd:LEVEL (1 to 22) or none is expected")]
pub struct InvalidCompression;

impl FromStr for LayerCompression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidCompression> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level.parse().map_err(|_| InvalidCompression)?)),
            None => (text, None),
        };
        let (format, usual, most) = match name {
            "gzip" => (LayerFormat::Gzip, 6, 9),
            "zstd" => (LayerFormat::Zstd, 3, 22),
            "none" if level.is_none() => (LayerFormat::Tar, 0, 0),
            _ => return Err(InvalidCompression),
        };
        let level = level.unwrap_or(usual);
        match format == LayerFormat::Tar || (1..=most).contains(&level) {
            true => Ok(LayerCompression { format, level }),
            false => Err(InvalidCompression),
        }
    }
}

/// A block, and where it goes when it is compressed.
type Job = (Vec<u8>, Sender<io::Result<Vec<u8>>>);

/// The stream that is compressed.
struct Blocks {
    block: Vec<u8>,
    jobs: Sender<Job>,
    /// What comes of the jobs, in their order.
    outcomes: Sender<Receiver<io::Result<Vec<u8>>>>,
}

impl Blocks {
    fn hand_over(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let (done, outcome) = flume::bounded(1);
        // Whoever has ended says why.
        let gone = |()| io::Error::from(io::ErrorKind::BrokenPipe);
        self.jobs.send((block, done)).map_err(|_| gone(()))?;
        self.outcomes.send(outcome).map_err(|_| gone(()))
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK - self.block.len();
        let part = bytes.get(..room).unwrap_or(bytes);
        self.block.extend_from_slice(part);
        if self.block.len() == BLOCK {
            self.hand_over()?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses what `produce` writes, and writes that to `output`.
///
/// # Errors
/// [`Error::Output`], and that of `produce`.
pub(crate) fn compress(
    compression: LayerCompression,
    threads: NonZeroUsize,
    output: &mut dyn Write,
    produce: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
) -> Result<()> {
    let (jobs, waiting) = flume::bounded::<Job>(threads.get());
    let (sender, outcomes) = flume::bounded(threads.get());
    thread::scope(|scope| {
        let start = |name: &str| thread::Builder::new().name(name.to_owned());
        for _ in 0..threads.get() {
            let waiting = waiting.clone();
            let work = move || {
                for (block, done) in waiting.iter() {
                    // Nobody waits for it if the output is broken.
                    let _ = done.send(compression.compress(block));
                }
            };
            start("compress")
                .spawn_scoped(scope, work)
                .map_err(Error::Output)?;
        }
        drop(waiting);
        let produce = move || {
            let mut blocks = Blocks {
                block: Vec::with_capacity(BLOCK),
                jobs,
                outcomes: sender,
            };
            produce(&mut blocks)?;
            blocks.hand_over().map_err(Error::Output)
        };
        let producer = start("tar")
            .spawn_scoped(scope, produce)
            .map_err(Error::Output)?;
        let mut write = || {
            for outcome in outcomes.iter() {
                // A thread that does not answer has ended before its time.
                let compressed = outcome.recv().map_err(io::Error::other)??;
                output.write_all(&compressed)?;
            }
            Ok(())
        };
        let written = write().map_err(Error::Output);
        drop(outcomes);
        let produced = producer.join().unwrap_or(Err(Error::Cancelled));
        // What ends the output ends what produces it, too.
        written.and(produced)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_stream_is_the_same_by_any_number_of_threads_and_others_read_it() {
        let content: Vec<u8> = (0..5_000_000_u32).map(|place| (place >> 7) as u8).collect();
        for (method, program) in [("gzip:1", "gzip"), ("zstd", "zstd"), ("none", "cat")] {
            let compression: LayerCompression = method.parse().unwrap();
            let [one, many] = [1, 3].map(|threads| {
                let mut output = Vec::new();
                let threads = NonZeroUsize::new(threads).unwrap();
                let produce =
                    |writer: &mut dyn Write| writer.write_all(&content).map_err(Error::Output);
                compress(compression, threads, &mut output, produce).unwrap();
                output
            });
            assert!(one == many, "{method}");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &one).unwrap();
            let mut process = Command::new(program);
            if program != "cat" {
                process.arg("-dc");
            }
            let input = std::fs::File::open(file.path()).unwrap();
            let output = process.stdin(Stdio::from(input)).output().unwrap();
            assert!(output.stdout == content, "{method}");
        }
    }

    #[test]
    fn an_error_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let endless = |writer: &mut dyn Write| loop {
            writer.write_all(&[0; 100_000]).map_err(Error::Output)?;
        };
        let outcome = compress(
            LayerCompression::GZIP,
            NonZeroUsize::MIN,
            &mut Full,
            endless,
        );
        assert!(
            matches!(&outcome, Err(Error::Output(error)) if error.kind() == io::ErrorKind::StorageFull),
            "{outcome:?}"
        );
        let cancelled = |_: &mut dyn Write| Err(Error::Cancelled);
        let outcome = compress(
            LayerCompression::GZIP,
            NonZeroUsize::MIN,
            &mut Vec::new(),
            cancelled,
        );
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
    }

    #[test]
    fn levels_have_limits() {
        let parse = |text: &str| text.parse::<LayerCompression>().ok();
        assert_eq!(parse("gzip"), Some(LayerCompression::GZIP));
        assert!(parse("zstd:22").is_some() && parse("gzip:9").is_some());
        for wrong in ["", "gzip:0", "gzip:10", "zstd:23", "zstd:", "none:1", "xz"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
