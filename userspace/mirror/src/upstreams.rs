// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The registries that may be asked for others.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use peerfs_oci::{Reference, RegistryReference};
use peerfs_registry::{Options, Remote};

/// Repositories whose connections and tokens are kept.
const REMOTES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// The registries that may be asked for others, and no others: what asks everybody for everybody is an open proxy.
pub struct Upstreams {
    names: Vec<String>,
    options: Options,
    remotes: Mutex<LruCache<(String, String), Remote>>,
}

/// A text that is no registry.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no registry; one is such as \"registry.example\" or \"registry.example:5000\"")]
pub struct InvalidUpstream(String);

impl Upstreams {
    /// These, as references write them.
    ///
    /// # Errors
    /// [`InvalidUpstream`].
    pub fn new(names: &[String], options: Options) -> Result<Self, InvalidUpstream> {
        for name in names {
            let is_registry = match format!("{name}/a").parse() {
                Ok(Reference::Registry(reference)) => reference.registry == *name,
                _ => false,
            };
            if !is_registry {
                return Err(InvalidUpstream(name.clone()));
            }
        }
        Ok(Upstreams {
            names: names.to_vec(),
            options,
            remotes: Mutex::new(LruCache::new(REMOTES_MAX)),
        })
    }

    /// The repository that a client means: at the registry that it names beside, else at the one that the name begins
    /// with, else at the only one. None if that is not a name, or not of a registry that may be asked.
    pub(crate) fn repository(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<RegistryReference> {
        let (registry, repository) = match namespace {
            Some(registry) => (registry, name),
            None => match name.split_once('/') {
                Some((first, rest)) if self.has(first) => (first, rest),
                _ => match self.names.as_slice() {
                    [only] => (only.as_str(), name),
                    _ => return None,
                },
            },
        };
        if !self.has(registry) {
            return None;
        }
        match format!("{registry}/{repository}").parse().ok()? {
            Reference::Registry(found)
                if found.registry == registry && found.repository == repository =>
            {
                Some(found)
            }
            _ => None,
        }
    }

    /// What asks for a repository.
    ///
    /// # Errors
    /// [`peerfs_registry::Error::Tls`] if no connections can be made.
    pub(crate) fn remote(&self, repository: &RegistryReference) -> peerfs_registry::Result<Remote> {
        let key = (repository.registry.clone(), repository.repository.clone());
        // A cache is valid after every step.
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = remotes.get(&key) {
            return Ok(known.clone());
        }
        let remote = Remote::repository(repository, &self.options)?;
        remotes.put(key, remote.clone());
        Ok(remote)
    }

    fn has(&self, registry: &str) -> bool {
        self.names.iter().any(|name| name == registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(names: &[&str]) -> Upstreams {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Upstreams::new(&names, Options::default()).unwrap()
    }

    #[test]
    fn only_who_is_named_is_asked() {
        let both = upstreams(&["a.example", "b.example:5000"]);
        let asked = |namespace, name: &str| {
            let found = both.repository(namespace, name);
            found.map(|found| format!("{}/{}", found.registry, found.repository))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(asked(Some("a.example"), "x/y"), some("a.example/x/y"));
        assert_eq!(asked(Some("b.example:5000"), "x"), some("b.example:5000/x"));
        assert_eq!(asked(None, "a.example/x"), some("a.example/x"));
        assert_eq!(asked(Some("c.example"), "x"), None);
        assert_eq!(asked(Some("169.254.169.254"), "latest"), None);
        assert_eq!(asked(None, "c.example/x"), None);
        assert_eq!(asked(None, "x"), None);
        let one = upstreams(&["a.example"]);
        let name = one.repository(None, "team/base").unwrap().repository;
        assert_eq!(name, "team/base");
        for name in ["../x", "x:1", "x@y", "X", "", "x?y", "x#y", "x%2fy"] {
            assert!(one.repository(None, name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_registry_is_a_host() {
        for name in ["", "a", "https://a.example", "a.example/b", "a.example/"] {
            let refused = Upstreams::new(&[name.to_owned()], Options::default());
            assert!(refused.is_err(), "{name}");
        }
    }
}
