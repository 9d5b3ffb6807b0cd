// SPDX-License-Identifier: GPL-2.0

//! Which chunks of a pack are in its file.
#![forbid(unsafe_code)]

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use peerfs_format::{PackRecord, PresenceHeader, PRESENCE_HEADER_SIZE};

use crate::vfs::OpenedFile;

/// Which chunks of a pack are in its file, as far as this mount knows. A hint: what is read is
/// verified whatever it says.
pub(super) enum Presence {
    /// All of them.
    Whole,
    /// Those whose bits are set.
    Partial(KVVec<u8>),
}

impl Presence {
    /// None of a pack's chunks.
    pub(super) fn nothing(pack: &PackRecord) -> Result<Self> {
        let bytes = pack.chunk_count.div_ceil(8) as usize;
        Ok(Presence::Partial(KVVec::from_elem(
            0,
            bytes,
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// What a map file says; nothing if it is not the map of this pack.
    pub(super) fn read(pack: &PackRecord, map: &OpenedFile) -> Result<Self> {
        let mut header = [0; PRESENCE_HEADER_SIZE];
        let mut nothing = Self::nothing(pack)?;
        let fits = map.read_exact_at(&mut header, 0).is_ok()
            && PresenceHeader::parse(&header).is_ok_and(|header| {
                header.pack == pack.digest && header.chunk_count == pack.chunk_count
            });
        if let (true, Presence::Partial(bits)) = (fits, &mut nothing) {
            // A map that ends early says nothing about the rest.
            map.read_at(bits, PRESENCE_HEADER_SIZE as u64)?;
        }
        Ok(nothing)
    }

    pub(super) fn has(&self, chunk: u32) -> bool {
        match self {
            Presence::Whole => true,
            Presence::Partial(bits) => bits
                .get(chunk as usize / 8)
                .is_some_and(|byte| byte & (1 << (chunk % 8)) != 0),
        }
    }

    pub(super) fn set(&mut self, chunk: u32, present: bool) {
        if let Presence::Partial(bits) = self {
            if let Some(byte) = bits.get_mut(chunk as usize / 8) {
                let bit = 1 << (chunk % 8);
                if present {
                    *byte |= bit;
                } else {
                    *byte &= !bit;
                }
            }
        }
    }
}
