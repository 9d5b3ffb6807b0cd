// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reading a whole damaged mount: everything must be right or an error.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::entry::{escape, names_in, unescape, Entry};
use crate::{ensure, Error, Result};

/// The errors that say "I can't give you that". Any other one is an answer, and a wrong one: ENOENT
/// for a name that exists would be.
const HONEST: [Errno; 5] = [
    Errno::IO,
    Errno::TIMEDOUT,
    Errno::HOSTUNREACH,
    Errno::NODATA,
    Errno::NOMEM,
];

/// The numbers of paths that were right, and of answers that were errors.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) right: u64,
    pub(crate) errors: u64,
}

impl Survey {
    /// Whether an answer is right; an error of the kind that is allowed is counted.
    fn judge<T: PartialEq>(
        &mut self,
        answer: io::Result<T>,
        expected: &T,
    ) -> Result<bool, io::Error> {
        match answer {
            Ok(answer) => {
                self.right += 1;
                Ok(answer == *expected)
            }
            Err(error)
                if HONEST
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                self.errors += 1;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads everything in `mount` that the lines of `manifest` name.
pub(crate) fn survey(manifest: &str, mount: &Path) -> Result<Survey> {
    let mut expected = BTreeMap::new();
    let mut children: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    for line in manifest.lines() {
        let malformed = || Error::Finding(format!("not a line of a manifest: {line}"));
        let (name, entry) = line.split_once(' ').ok_or_else(malformed)?;
        let path = PathBuf::from(OsString::from_vec(unescape(name).ok_or_else(malformed)?));
        if entry.starts_with('d') {
            children.entry(path.clone()).or_default();
        }
        if name != "." {
            let parent = match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            let name = path.file_name().ok_or_else(malformed)?.to_owned();
            children.entry(parent.to_owned()).or_default().insert(name);
        }
        expected.insert(path, entry);
    }

    let mut survey = Survey::default();
    for (path, line) in &expected {
        let answer = Entry::read(&mount.join(path)).map(|entry| entry.to_string());
        let shown = answer.as_deref().unwrap_or_default().to_owned();
        let good = survey
            .judge(answer, &(*line).to_owned())
            .map_err(wrong(path))?;
        ensure(good, || {
            let path = path.display();
            format!("{path}: wrong\n  expected {line}\n  found    {shown}")
        })?;
    }
    for (path, names) in &children {
        let answer = names_in(&mount.join(path)).map(|names| names.into_iter().collect());
        let good = survey.judge(answer, names).map_err(wrong(path))?;
        ensure(good, || {
            format!("{}: its list of names is wrong", path.display())
        })?;
    }
    Ok(survey)
}

fn wrong(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = escape(path.as_os_str().as_encoded_bytes());
    move |error| Error::Finding(format!("{path}: a wrong answer: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn right_and_wrong_trees() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("a b")).unwrap();
        fs::write(root.join("a b/file"), b"content").unwrap();
        let manifest: String = crate::entry::walk(root)
            .unwrap()
            .iter()
            .map(|path| {
                let name = path.to_str().unwrap();
                let name = if name.is_empty() { "." } else { name };
                format!(
                    "{} {}\n",
                    escape(name.as_bytes()),
                    Entry::read(&root.join(path)).unwrap()
                )
            })
            .collect();
        let found = survey(&manifest, root).unwrap();
        assert_eq!((found.right, found.errors), (5, 0));

        let path = root.join("a b/file");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, b"contenT").unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        assert!(survey(&manifest, root).is_err());
        fs::remove_file(&path).unwrap();
        assert!(survey(&manifest, root).is_err());
    }
}
