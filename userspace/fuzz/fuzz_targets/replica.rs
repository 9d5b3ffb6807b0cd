// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Announcements of willing nodes, as peers send them, and accounts of publishers.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use peerfs_names::PublisherKey;
use peerfs_replica::account::Account;
use peerfs_replica::roster::{Roster, ORDER_MAX};
use peerfs_replica::willing::SignedWilling;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut roster = Roster::default();
    if let Ok(signed) = SignedWilling::parse(bytes) {
        assert_eq!(signed.bytes(), bytes, "an announcement has one form");
        let issued = UNIX_EPOCH.checked_add(Duration::from_secs(signed.willing().issued));
        if let Some(now) = issued {
            roster.offer(signed, now);
        }
    }
    if let Ok(account) = Account::parse(bytes) {
        assert_eq!(account.to_bytes(), bytes, "an account has one form");
        let accepted = account.within(1 << 40);
        roster.set_account(PublisherKey([1; 32]), &account, accepted);
        assert_eq!(roster.images().count(), accepted);
    }
    roster.refresh();
    for (image, wanted) in roster.images() {
        assert!(wanted.copies > 0 && roster.order(image).len() <= ORDER_MAX);
    }
});
