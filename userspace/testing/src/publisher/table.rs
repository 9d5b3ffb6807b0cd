// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Damage to a table of fixed-width records: by field, by record, and to its length.

use std::fmt;

use fastrand::Rng;

/// A table's record: its name, and its fields with their widths.
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) fields: &'static [(&'static str, usize)],
}

impl Layout {
    pub(super) fn width(&self) -> usize {
        self.fields.iter().map(|(_, width)| width).sum()
    }

    /// The offset at which a field begins in its record.
    fn place(&self, field: usize) -> usize {
        self.fields[..field].iter().map(|(_, width)| width).sum()
    }
}

pub(super) static PACKS: Layout = Layout {
    name: "packs",
    fields: &[
        ("digest", 32),
        ("index digest", 32),
        ("contents digest", 32),
        ("stored length", 8),
        ("logical length", 8),
        ("index length", 4),
        ("chunk count", 4),
    ],
};
pub(super) static SHARDS: Layout = Layout {
    name: "shards",
    fields: &[
        ("digest", 32),
        ("first inode", 8),
        ("inode count", 4),
        ("length", 4),
    ],
};
pub(super) static CHUNKS: Layout = Layout {
    name: "chunks",
    fields: &[
        ("digest", 32),
        ("logical offset", 4),
        ("stored offset", 4),
        ("logical length", 4),
        ("stored length", 4),
        ("codec", 1),
        ("reserved", 3),
    ],
};
/// Of a shard, in the order of the schema's fields.
pub(super) static SHARD: [Layout; super::image::SHARD_TABLES] = [
    Layout {
        name: "inodes",
        fields: &[
            ("mode", 4),
            ("uid", 4),
            ("gid", 4),
            ("nlink", 4),
            ("size", 8),
            ("allocated", 8),
            ("mtime seconds", 8),
            ("mtime nanoseconds", 4),
            ("payload first", 4),
            ("payload count", 4),
            ("xattrs", 4),
            ("link", 8),
        ],
    },
    Layout {
        name: "extents",
        fields: &[
            ("file offset", 8),
            ("pack", 4),
            ("pack offset", 4),
            ("length", 4),
            ("reserved", 4),
        ],
    },
    Layout {
        name: "spans",
        fields: &[
            ("entries before", 8),
            ("shard", 4),
            ("first entry", 4),
            ("entry count", 4),
            ("name offset", 4),
            ("name length", 4),
            ("reserved", 4),
        ],
    },
    Layout {
        name: "entries",
        fields: &[
            ("inode", 8),
            ("name offset", 4),
            ("name length", 1),
            ("type", 1),
            ("reserved", 2),
        ],
    },
    Layout {
        name: "xattr sets",
        fields: &[("first", 4), ("count", 4)],
    },
    Layout {
        name: "xattrs",
        fields: &[
            ("name offset", 4),
            ("name length", 4),
            ("value offset", 4),
            ("value length", 4),
        ],
    },
    Layout {
        name: "content digests",
        fields: &[("digest", 32)],
    },
];

/// Something done to a table.
#[derive(Clone, Debug)]
pub(super) enum TableDamage {
    /// Bytes at a place.
    Set { place: usize, bytes: Vec<u8> },
    /// Two records exchanged.
    Exchange {
        one: usize,
        other: usize,
        width: usize,
    },
    /// A record over another one.
    Copy {
        from: usize,
        to: usize,
        width: usize,
    },
    /// A record left out.
    Remove { record: usize, width: usize },
    /// A record once more, at the end.
    Repeat { record: usize, width: usize },
    /// The order of all records.
    Reverse { width: usize },
    /// Cut off, perhaps inside a record.
    Cut { length: usize },
}

impl TableDamage {
    /// Something to do to a table of this layout, and its description. `None` if it has no record.
    pub(super) fn choose(layout: &Layout, table: &[u8], rng: &mut Rng) -> Option<(Self, String)> {
        let width = layout.width();
        let records = table.len() / width;
        if records == 0 {
            return None;
        }
        let (one, other) = (rng.usize(..records), rng.usize(..records));
        let damage = match rng.u32(..16) {
            0 => TableDamage::Exchange { one, other, width },
            1 => TableDamage::Copy {
                from: one,
                to: other,
                width,
            },
            2 => TableDamage::Remove { record: one, width },
            3 => TableDamage::Repeat { record: one, width },
            4 if rng.u32(..3) == 0 => TableDamage::Reverse { width },
            5 if rng.u32(..3) == 0 => TableDamage::Cut {
                length: rng.usize(..table.len()),
            },
            _ => return Some(set_field(layout, table, one, other, rng)),
        };
        Some((damage.clone(), format!("{}: {damage}", layout.name)))
    }

    pub(super) fn apply(&self, table: &mut Vec<u8>) {
        // What was chosen for a table may meet a shorter one: earlier damages have changed it.
        let record = |number: usize, width: usize| number * width..(number + 1) * width;
        match self {
            TableDamage::Set { place, bytes } => {
                if let Some(field) = table.get_mut(*place..*place + bytes.len()) {
                    field.copy_from_slice(bytes);
                }
            }
            TableDamage::Exchange { one, other, width } => {
                let first = table.get(record(*one, *width)).map(<[u8]>::to_vec);
                let second = table.get(record(*other, *width)).map(<[u8]>::to_vec);
                if let (Some(first), Some(second)) = (first, second) {
                    table[record(*one, *width)].copy_from_slice(&second);
                    table[record(*other, *width)].copy_from_slice(&first);
                }
            }
            TableDamage::Copy { from, to, width } => {
                if record(*from, *width).end.max(record(*to, *width).end) <= table.len() {
                    table.copy_within(record(*from, *width), to * width);
                }
            }
            TableDamage::Remove {
                record: number,
                width,
            } => {
                if record(*number, *width).end <= table.len() {
                    table.drain(record(*number, *width));
                }
            }
            TableDamage::Repeat {
                record: number,
                width,
            } => {
                if let Some(again) = table.get(record(*number, *width)).map(<[u8]>::to_vec) {
                    table.extend(again);
                }
            }
            TableDamage::Reverse { width } => {
                *table = table.chunks(*width).rev().flatten().copied().collect();
            }
            TableDamage::Cut { length } => table.truncate(*length),
        }
    }
}

impl fmt::Display for TableDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableDamage::Set { place, bytes } => write!(f, "{bytes:02x?} at {place}"),
            TableDamage::Exchange { one, other, .. } => write!(f, "{one} and {other} exchanged"),
            TableDamage::Copy { from, to, .. } => write!(f, "{from} over {to}"),
            TableDamage::Remove { record, .. } => write!(f, "{record} left out"),
            TableDamage::Repeat { record, .. } => write!(f, "{record} repeated"),
            TableDamage::Reverse { .. } => write!(f, "reversed"),
            TableDamage::Cut { length } => write!(f, "cut off at byte {length}"),
        }
    }
}

/// One field of one record changed.
fn set_field(
    layout: &Layout,
    table: &[u8],
    record: usize,
    other: usize,
    rng: &mut Rng,
) -> (TableDamage, String) {
    let field = rng.usize(..layout.fields.len());
    let (name, width) = layout.fields[field];
    let place = record * layout.width() + layout.place(field);
    let other = other * layout.width() + layout.place(field);
    let mut bytes = vec![0; width];
    if width > 8 {
        rng.fill(&mut bytes);
    } else {
        let value = |place: usize| {
            let mut whole = [0; 8];
            whole[..width].copy_from_slice(&table[place..place + width]);
            u64::from_le_bytes(whole)
        };
        let new = interesting(value(place), value(other), width, rng);
        bytes.copy_from_slice(&new.to_le_bytes()[..width]);
    }
    let what = format!("{}[{record}]: {name} = {bytes:02x?}", layout.name);
    (TableDamage::Set { place, bytes }, what)
}

/// A value that may be too much for somebody.
fn interesting(value: u64, other: u64, width: usize, rng: &mut Rng) -> u64 {
    let most = u64::MAX >> (64 - 8 * width);
    match rng.u32(..20) {
        0 => 0,
        1 => most,
        2 => most - 1,
        3 => most / 2,
        4 => most / 2 + 1,
        5 | 6 => value.wrapping_add(1),
        7 | 8 => value.wrapping_sub(1),
        9 => value.wrapping_mul(2),
        10 | 11 => other,
        12 | 13 => value ^ (1 << rng.usize(..8 * width)),
        14 => 1 << rng.usize(..8 * width),
        15 => (1 << rng.usize(..8 * width)) - 1,
        16 => rng.u64(..),
        // Pages, chunks, packs, metadata: the limits, and one more.
        17 => [4096, 65_536, 262_144, 16 << 20, 1 << 30][rng.usize(..5)] + rng.u64(..2),
        _ => rng.u64(..50),
    }
}

#[cfg(test)]
mod tests {
    use peerfs_format::{
        ChunkRecord, Digest, EntryRecord, ExtentRecord, InodeRecord, PackRecord, Record,
        ShardRecord, SpanRecord, XattrRecord, XattrSetRecord,
    };

    use super::*;

    #[test]
    fn layouts_are_as_wide_as_records() {
        assert_eq!(PACKS.width(), PackRecord::SIZE);
        assert_eq!(SHARDS.width(), ShardRecord::SIZE);
        assert_eq!(CHUNKS.width(), ChunkRecord::SIZE);
        let widths = [
            InodeRecord::SIZE,
            ExtentRecord::SIZE,
            SpanRecord::SIZE,
            EntryRecord::SIZE,
            XattrSetRecord::SIZE,
            XattrRecord::SIZE,
            Digest::SIZE,
        ];
        assert_eq!(SHARD.each_ref().map(Layout::width), widths);
    }

    #[test]
    fn damage_applies_to_what_is_left() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..2000 {
            let layout = &SHARD[rng.usize(..SHARD.len())];
            let mut table = vec![7; layout.width() * rng.usize(1..5)];
            let (damage, _) = TableDamage::choose(layout, &table, &mut rng).unwrap();
            table.truncate(rng.usize(..=table.len()));
            damage.apply(&mut table);
        }
        assert!(TableDamage::choose(&PACKS, b"", &mut rng).is_none());
    }
}
