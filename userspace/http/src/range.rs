// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Parts of what can be asked for.

use std::ops::Range;

/// The part of a blob that a `Range` header asks for. None is all of it, as for what is not understood and for several at
/// once, to which a server may answer so.
///
/// # Errors
/// If nothing of it is there.
pub fn range(header: Option<&str>, length: u64) -> Result<Option<Range<u64>>, OutOfRange> {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = range.split_once('-') else {
        return Ok(None);
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        (Err(_), Ok(count)) if first.is_empty() => length.saturating_sub(count)..length,
        _ => return Ok(None),
    };
    match range.is_empty() {
        true => Err(OutOfRange),
        false => Ok(Some(range)),
    }
}

/// A range of which nothing is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutOfRange;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_with_the_blob() {
        for (header, expected) in [
            ("bytes=0-0", Ok(Some(0..1))),
            ("bytes=5-", Ok(Some(5..10))),
            ("bytes=5-99", Ok(Some(5..10))),
            ("bytes=-3", Ok(Some(7..10))),
            ("bytes=-99", Ok(Some(0..10))),
            ("bytes=10-", Err(OutOfRange)),
            ("bytes=-0", Err(OutOfRange)),
            ("bytes=0-1,4-5", Ok(None)),
            ("bytes=5-4", Ok(None)),
            ("bytes=x", Ok(None)),
            ("items=0-1", Ok(None)),
        ] {
            assert_eq!(range(Some(header), 10), expected, "{header}");
        }
        assert_eq!(range(None, 10), Ok(None));
    }
}
