// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node does for those who keep images for others.

use std::sync::Arc;

use super::Node;
use crate::willing::{Listening, WillingBook};

impl Node {
    /// Tells peers what this book knows of willing nodes, and has them say what they know, from now on. The first book counts.
    pub fn carry_willing(&self, book: Arc<dyn WillingBook>) {
        let inner = &self.inner;
        if inner.willing.open(Arc::clone(&book)) {
            let listening = Listening {
                control: inner.control.clone(),
                peers: inner.peers.clone(),
                events: inner.events.subscribe(),
                book,
            };
            self.spawn(listening.run());
        }
    }
}
