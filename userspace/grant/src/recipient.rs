// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Those for whom keys are encrypted.

use std::str::FromStr;

use age::x25519;
use peerfs_text::printable;

/// The most recipients of a grant.
pub const RECIPIENTS_MAX: usize = 100;

/// Whom a key is encrypted for: the public half of an identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recipient(pub(crate) x25519::Recipient);

/// A text that is no recipient.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidRecipient {
    /// It is a key of SSH.
    #[error(
        "a key of SSH is no recipient here: whom it belongs to makes an identity with `peerfs key identity FILE`, which prints \
         the recipient (age1...)"
    )]
    Ssh,
    /// It is an identity.
    #[error(
        "it is the secret half: `peerfs key identity --show FILE` prints the recipient that belongs to it (age1...)"
    )]
    Secret,
    /// It is something else.
    #[error("{} is no recipient, as `peerfs key identity` prints it (age1...): {problem}", printable(.text))]
    Other {
        /// The text.
        text: String,
        /// What age says of it.
        problem: &'static str,
    },
}

impl FromStr for Recipient {
    type Err = InvalidRecipient;

    fn from_str(text: &str) -> Result<Self, InvalidRecipient> {
        if text.starts_with("ssh-") {
            return Err(InvalidRecipient::Ssh);
        }
        // It must get into no message.
        if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            return Err(InvalidRecipient::Secret);
        }
        let parsed = text.parse();
        parsed
            .map(Recipient)
            .map_err(|problem| InvalidRecipient::Other {
                text: text.chars().take(100).collect(),
                problem,
            })
    }
}

impl Recipient {
    /// The recipients that a file has: one a line, with comments behind `#`.
    ///
    /// # Errors
    /// Of the first line that is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidRecipient> {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_those_of_age() {
        let identity = x25519::Identity::generate();
        let text = identity.to_public().to_string();
        let recipient: Recipient = text.parse().unwrap();
        let list = format!("# of the team\n\n{text}\r\n  {text}\n");
        let found = Recipient::parse_list(&list).unwrap();
        assert_eq!(found, [recipient.clone(), recipient]);
        for (text, problem) in [
            ("ssh-ed25519 AAAA me@here", "SSH"),
            ("age-secret-key-1qq", "secret half"),
            ("age1qqqq", "no recipient"),
            ("\u{1b}[2J", "no recipient"),
            ("", "no recipient"),
        ] {
            let error = text.parse::<Recipient>().unwrap_err().to_string();
            assert!(
                error.contains(problem) && !error.contains('\u{1b}'),
                "{error}"
            );
        }
        assert!(Recipient::parse_list(&format!("{text}\nage1\n")).is_err());
    }
}
