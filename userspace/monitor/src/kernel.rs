// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the kernel's filesystem counts (Documentation/filesystem.md, "What it counts"). Root alone may read it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most bytes of the file.
const LENGTH_MAX: u64 = 16 * 1024;

/// Where it is.
pub(crate) const COUNTERS: &str = "/sys/kernel/debug/peerfs/upcall";

/// The names and values; none if the kernel has no peerfs, or this process may not know.
pub(crate) fn read(path: &Path) -> Vec<(String, u64)> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LENGTH_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => parse(&text),
        Err(_) => Vec::new(),
    }
}

fn parse(text: &str) -> Vec<(String, u64)> {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let value = value.trim().parse().ok()?;
        (is_name && !name.is_empty()).then(|| (name.to_owned(), value))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_counter_is_passed_over() {
        let read = parse(
            "requests 12\ntimed_out 0\nnonsense\nWRONG 1\nx y\noldest_pending_milliseconds 7\n",
        );
        let expected = [
            ("requests", 12),
            ("timed_out", 0),
            ("oldest_pending_milliseconds", 7),
        ];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
