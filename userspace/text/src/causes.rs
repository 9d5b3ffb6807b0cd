// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Showing errors with their causes.

use std::error::Error;
use std::fmt;

/// An error and all its causes, as far as they say something, as one line.
///
/// ```
/// use peerfs_text::Causes;
///
/// let error = std::io::Error::other("no route");
/// assert_eq!(Causes(&error).to_string(), "no route");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        let mut next = Some(self.0);
        while let Some(error) = next {
            let text = error.to_string();
            // Some errors repeat their cause, some say nothing.
            if !last.contains(&text) {
                if !last.is_empty() {
                    f.write_str(": ")?;
                }
                f.write_str(&text)?;
                last = text;
            }
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a text and perhaps a cause.
    #[derive(Debug)]
    struct Because(&'static str, Option<Box<Because>>);

    impl fmt::Display for Because {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Because {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn each_cause_is_told_once() {
        let chain = |texts: &[&'static str]| {
            let error = texts
                .iter()
                .rev()
                .fold(None, |cause, text| Some(Box::new(Because(text, cause))));
            Causes(error.unwrap().as_ref()).to_string()
        };
        assert_eq!(chain(&["cannot listen", "in use"]), "cannot listen: in use");
        assert_eq!(chain(&["a: b", "b", "c"]), "a: b: c");
        assert_eq!(chain(&["", "denied", "", "no key"]), "denied: no key");
    }
}
