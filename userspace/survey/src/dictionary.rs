// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A zstd dictionary for each pack.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_format::{Digest, METADATA_MAX};
use peerfs_store::{Image, PackReader, Store};
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{from_continuous, DecoderDictionary, EncoderDictionary};

use crate::Result;

/// The samples of a dictionary are so many times longer than it, which is what zstd recommends.
const SAMPLES: usize = 100;

/// Prints the sums over all packs.
pub(crate) fn print(store: &Path, manifest: &Digest, level: i32, size: usize) -> Result<()> {
    let store = Arc::new(Store::open(store)?);
    let image = Image::open(store.clone(), manifest)?;
    let table = image.blob_table();
    let mut sizes = [0; 2];
    let mut times = [Duration::ZERO; 2];
    let mut dictionaries = 0;
    let mut content = 0;
    for number in 0..table.packs.len() as u32 {
        let record = table.pack(number)?;
        let index = store.read_metadata(&record.index_digest, METADATA_MAX)?;
        let pack = store.pack(&record, index)?;
        let mut chunks = Vec::new();
        for chunk in 0..record.chunk_count {
            chunks.push(PackReader::read_chunk(&*pack, chunk)?.decode(None)?);
        }
        let total: usize = chunks.iter().map(Vec::len).sum();
        content += total;
        let step = total.div_ceil(SAMPLES * size).max(1);
        let samples: Vec<_> = chunks.iter().step_by(step).collect();
        let lengths: Vec<_> = samples.iter().map(|sample| sample.len()).collect();
        let samples: Vec<u8> = samples.into_iter().flatten().copied().collect();
        let dictionary = from_continuous(&samples, &lengths, size)?;
        dictionaries += dictionary.len();
        let encoder = EncoderDictionary::copy(&dictionary, level);
        let decoder = DecoderDictionary::copy(&dictionary);
        let coders = [
            (Compressor::new(level)?, Decompressor::new()?),
            (
                Compressor::with_prepared_dictionary(&encoder)?,
                Decompressor::with_prepared_dictionary(&decoder)?,
            ),
        ];
        for ((mut compressor, mut decompressor), (bytes, time)) in
            coders.into_iter().zip(sizes.iter_mut().zip(&mut times))
        {
            let mut buffer = vec![0; peerfs_format::CHUNK_MAX as usize];
            for chunk in &chunks {
                let stored = compressor.compress(chunk)?;
                *bytes += stored.len().min(chunk.len());
                let began = Instant::now();
                decompressor.decompress_to_buffer(&stored, &mut buffer)?;
                *time += began.elapsed();
            }
        }
    }
    let rate = |time: Duration| content as f64 / 1e6 / time.as_secs_f64();
    let [[without, with], [slow, fast]] = [sizes.map(|size| size as f64), times.map(rate)];
    println!(
        "without={without} with={with} dictionaries={dictionaries} gain={:.2}% decode_without={slow:.0}MB/s decode_with={fast:.0}MB/s",
        100.0 * (1.0 - (with + dictionaries as f64) / without),
    );
    Ok(())
}
