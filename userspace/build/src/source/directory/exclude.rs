// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What of a directory is left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use globset::{GlobBuilder, GlobMatcher};

/// A pattern that can't be understood.
#[derive(Debug, thiserror::Error)]
#[error("{pattern:?} is no pattern")]
pub struct PatternError {
    pattern: String,
    source: globset::Error,
}

/// The patterns of what is left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Exclusions {
    names: Vec<GlobMatcher>,
    paths: Vec<GlobMatcher>,
}

impl Exclusions {
    pub(super) fn add(&mut self, pattern: &str) -> Result<(), PatternError> {
        // A slash at the end is what a shell adds to the name of a directory.
        let trimmed = pattern.trim_end_matches('/');
        // `./name` is how a shell completes what is in the tree.
        let path = trimmed
            .strip_prefix('.')
            .filter(|path| path.starts_with('/'));
        let glob = GlobBuilder::new(path.unwrap_or(trimmed).trim_start_matches('/'))
            .literal_separator(true)
            .backslash_escape(true)
            .build();
        let glob = glob.map_err(|source| PatternError {
            pattern: pattern.to_owned(),
            source,
        })?;
        let patterns = match trimmed.contains('/') {
            true => &mut self.paths,
            false => &mut self.names,
        };
        patterns.push(glob.compile_matcher());
        Ok(())
    }

    /// Whether an entry is left out.
    pub(super) fn has(&self, name: &[u8], path: impl FnOnce() -> PathBuf) -> bool {
        let name = OsStr::from_bytes(name);
        if self.names.iter().any(|pattern| pattern.is_match(name)) {
            return true;
        }
        if self.paths.is_empty() {
            return false;
        }
        let path = path();
        self.paths.iter().any(|pattern| pattern.is_match(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_anywhere_and_paths_from_the_root() {
        let has = |pattern: &str, path: &str| {
            let mut exclusions = Exclusions::default();
            exclusions.add(pattern).unwrap();
            let name = path.rsplit('/').next().unwrap();
            exclusions.has(name.as_bytes(), || path.into())
        };
        assert!(has("*.o", "a.o") && has("*.o", "lib/a.o") && !has("*.o", "a.os"));
        assert!(has("/boot", "boot") && !has("/boot", "usr/boot"));
        assert!(has("var/cache/*", "var/cache/apt") && !has("var/cache/*", "var/cache"));
        assert!(!has("var/*", "var/cache/apt") && has("var/**/apt", "var/cache/apt"));
        assert!(has("cache/", "var/cache"));
        assert!(has("./boot", "boot") && !has("./boot", "usr/boot") && has(".b*", "usr/.boot"));
        assert!(has("[ab]?", "b1") && has("{x,y}", "y") && has("a\\*", "a*") && !has("a\\*", "ab"));
        assert!(Exclusions::default().add("[").is_err());
        // A name need not be text.
        let mut exclusions = Exclusions::default();
        exclusions.add("a*").unwrap();
        assert!(exclusions.has(b"a\xff", || unreachable!()));
    }
}
