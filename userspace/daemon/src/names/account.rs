// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What records say of publishers' accounts.

use peerfs_format::Digest;
use peerfs_names::{PublisherKey, SignedRecord};
use peerfs_replica::account::{account_name, ACCOUNT_NAME};

use super::Names;

/// What records say of a publisher's account.
pub(crate) enum AccountRecord {
    /// This one counts.
    Current {
        /// The sequence of the record.
        sequence: u64,
        /// Its digest.
        account: Digest,
    },
    /// The publisher has signed two for one place.
    Forked(Box<[SignedRecord; 2]>),
    /// There is none, and why.
    None(String),
}

impl Names {
    /// What is known of a publisher's account.
    pub(crate) fn account(&self, publisher: PublisherKey) -> AccountRecord {
        let known = match self.known(&account_name(publisher)) {
            Ok(known) => known,
            Err(error) => return AccountRecord::None(error.to_string()),
        };
        let rival = known
            .history()
            .find_map(|past| Some([past.record.clone(), past.rival.clone()?]));
        if let Some(both) = rival {
            return AccountRecord::Forked(Box::new(both));
        }
        match known.current(self.now()) {
            Ok(current) if current.record.record().signer == publisher => AccountRecord::Current {
                sequence: current.record.record().sequence,
                account: current.record.record().manifest,
            },
            Ok(_) => AccountRecord::None("it is signed by somebody else".to_owned()),
            Err(error) => AccountRecord::None(error.to_string()),
        }
    }

    /// Whether a topic is that of an account of which something is known.
    pub(crate) fn is_account(&self, topic: &Digest) -> bool {
        let state = self.0.lock();
        let known = state.known.get(topic);
        known.is_some_and(|known| known.name().text() == ACCOUNT_NAME)
    }

    /// The publishers of whose accounts something is known.
    pub(crate) fn publishers_of_accounts(&self) -> Vec<PublisherKey> {
        let state = self.0.lock();
        let names = state.known.values().map(|known| known.name());
        let accounts = names.filter(|name| name.text() == ACCOUNT_NAME);
        accounts.map(|name| name.key()).collect()
    }
}
