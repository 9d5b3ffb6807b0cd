// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The sources that there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Source;

/// Names a source. No other one is ever given the same, so that what is known of a source stays with it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceId(u64);

impl SourceId {
    /// Not greater than any.
    #[cfg(feature = "peers")]
    pub(super) const FIRST: SourceId = SourceId(0);

    pub(super) fn next(self) -> Self {
        SourceId(self.0 + 1)
    }
}

/// The sources that can be asked, by the ids that it gives them. Whoever registers them sees to it that they do not
/// become too many.
#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: SourceId,
    sources: HashMap<SourceId, Arc<dyn Source>>,
}

impl Registry {
    /// Gives a source its id.
    pub fn register(&self, source: Arc<dyn Source>) -> SourceId {
        let mut state = self.lock();
        let id = state.last.next();
        state.last = id;
        state.sources.insert(id, source);
        id
    }

    /// The source with this id, unless it was removed.
    pub fn get(&self, id: SourceId) -> Option<Arc<dyn Source>> {
        self.lock().sources.get(&id).cloned()
    }

    /// Forgets a source, which is not asked any more.
    pub fn remove(&self, id: SourceId) {
        self.lock().sources.remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
