// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Showing names that somebody else chose.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A name, tag or path as a person may see it: what a terminal obeys or does not show is escaped, such as
/// `\u{1b}`, and so are bytes that are not UTF-8 (`\xff`) and the backslash, so that different names look different.
pub struct Printable<'a>(&'a [u8]);

/// Shows a name, tag or path.
pub fn printable<N: AsRef<OsStr> + ?Sized>(name: &N) -> Printable<'_> {
    Printable(name.as_ref().as_bytes())
}

/// Shows a name that is bytes.
pub fn printable_bytes(name: &[u8]) -> Printable<'_> {
    Printable(name)
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_quote = |letter| letter == '"' || letter == '\'';
        for piece in self.0.utf8_chunks() {
            // Quotes harm nobody; the library would escape them too.
            for part in piece.valid().split_inclusive(is_quote) {
                let text = part.trim_end_matches(is_quote);
                write!(f, "{}", text.escape_debug())?;
                f.write_str(part.get(text.len()..).unwrap_or_default())?;
            }
            for byte in piece.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let name = b"a\x1b]0;owned\x07\n'\"\"\\ \xffz\xe2\x80\xae";
        let shown = printable_bytes(name).to_string();
        assert_eq!(shown, r#"a\u{1b}]0;owned\u{7}\n'""\\ \xffz\u{202e}"#);
        // Letters with accents, composed or not, stay what they are.
        assert_eq!(
            printable("größe e\u{301} 名").to_string(),
            "größe e\u{301} 名"
        );
        assert_eq!(printable("").to_string(), "");
    }
}
