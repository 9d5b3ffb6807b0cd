// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node does for those who keep images for others.

use std::sync::Arc;

use super::Node;
use crate::willing::{self, Listening, WillingBook, WILLING_PROTOCOL};

impl Node {
    /// Tells peers what this book knows of willing nodes, and has them say what they know, from now on. The first book counts.
    pub fn carry_willing(&self, book: Arc<dyn WillingBook>) {
        let inner = &self.inner;
        if inner.willing.open(Arc::clone(&book)) {
            let listening = Listening {
                at: self.at_peers(WILLING_PROTOCOL, willing::PEERS_MAX),
                book,
            };
            self.spawn(listening.run());
        }
    }
}
