// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the arithmetic of ranges: from a file's ranges to packs. The code is `peerfs_format`'s, whose own
//! tests run outside the kernel; these run what the kernel's compiler and settings make of it. They run when the
//! module is loaded.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use peerfs_format::{first_data, first_hole, pieces, ExtentRecord, Source};

const fn extent(file_offset: u64, pack: u32, pack_offset: u32, length: u32) -> ExtentRecord {
    ExtentRecord {
        file_offset,
        pack,
        pack_offset,
        length,
    }
}

/// A hole, 100 bytes of pack 0, a hole, and 50 bytes each of packs 0 and 1.
const EXTENTS: [ExtentRecord; 3] = [
    extent(1000, 0, 5000, 100),
    extent(2000, 0, 7000, 50),
    extent(2050, 1, 0, 50),
];

#[kunit_tests(peerfs_ranges)]
mod ranges {
    use super::*;

    #[test]
    fn a_range_is_divided_without_gaps() {
        let mut position = 900;
        let mut data = 0;
        for piece in pieces(&EXTENTS, 900..3000) {
            assert_eq!(piece.file_offset, position);
            assert!(piece.length > 0);
            position += piece.length;
            if piece.source != Source::Hole {
                data += piece.length;
            }
        }
        assert_eq!((position, data), (3000, 200));
    }

    #[test]
    fn a_piece_begins_where_its_range_does() {
        let mut pieces = pieces(&EXTENTS, 2040..2060);
        let source = |pack, offset| Some(Source::Pack { pack, offset });
        assert_eq!(pieces.next().map(|piece| piece.source), source(0, 7040));
        assert_eq!(pieces.next().map(|piece| piece.source), source(1, 0));
        assert!(pieces.next().is_none());
    }

    #[test]
    fn what_ends_beyond_all_numbers_ends() {
        let last = [extent(u64::MAX - 10, 0, u32::MAX - 5, u32::MAX)];
        let mut length = 0;
        for piece in pieces(&last, u64::MAX - 20..u64::MAX) {
            length += piece.length;
        }
        assert_eq!(length, 20);
    }

    #[test]
    fn holes_and_data_are_found() {
        assert_eq!(first_data(&EXTENTS, 0..3000), Some(1000));
        assert_eq!(first_data(&EXTENTS, 1100..3000), Some(2000));
        assert_eq!(first_data(&EXTENTS, 2100..3000), None);
        assert_eq!(first_hole(&EXTENTS, 1000..3000), 1100);
        assert_eq!(first_hole(&EXTENTS, 2000..2100), 2100);
    }
}
