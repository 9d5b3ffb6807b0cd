// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The key, and its text.

use std::fmt;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use libp2p_pnet::PreSharedKey;
use zeroize::Zeroizing;

pub use libp2p_pnet::Fingerprint;

/// Bytes of a key.
const KEY_SIZE: usize = 32;
/// The first line of its text.
const KIND: &str = "/key/swarm/psk/1.0.0/";
/// The second line, which says how the third one has the key.
const ENCODING: &str = "/base16/";

/// What all nodes of a private swarm have and nobody else: 32 random bytes.
#[derive(Clone)]
pub struct SwarmKey {
    bytes: Zeroizing<[u8; KEY_SIZE]>,
}

/// A text that is no key, or no randomness for one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidSwarmKey {
    /// It begins otherwise.
    #[error("it does not begin with {KIND}, as `peerfs key swarm` writes it")]
    Kind,
    /// The key is written otherwise.
    #[error("its second line is not {ENCODING}: no other form is read")]
    Encoding,
    /// The key is no such number.
    #[error("its third line is not 64 hexadecimal digits")]
    Digits,
    /// There is more.
    #[error("there is something behind its third line")]
    Trailing,
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

impl SwarmKey {
    /// A new key.
    ///
    /// # Errors
    /// [`InvalidSwarmKey::Random`].
    pub fn generate() -> Result<Self, InvalidSwarmKey> {
        let mut bytes = Zeroizing::new([0; KEY_SIZE]);
        getrandom::fill(&mut *bytes).map_err(|_| InvalidSwarmKey::Random)?;
        Ok(SwarmKey { bytes })
    }

    /// The key in the text of a file: that of go-ipfs's `swarm.key`, in base 16.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidSwarmKey> {
        let mut lines = text.lines().map(str::trim_end);
        if lines.next() != Some(KIND) {
            return Err(InvalidSwarmKey::Kind);
        }
        if lines.next() != Some(ENCODING) {
            return Err(InvalidSwarmKey::Encoding);
        }
        let digits = lines.next().unwrap_or_default().as_bytes();
        let mut bytes = Zeroizing::new([0; KEY_SIZE]);
        if digits.len() != 2 * KEY_SIZE
            || HEXLOWER_PERMISSIVE.decode_mut(digits, &mut *bytes) != Ok(KEY_SIZE)
        {
            return Err(InvalidSwarmKey::Digits);
        }
        match lines.any(|line| !line.is_empty()) {
            true => Err(InvalidSwarmKey::Trailing),
            false => Ok(SwarmKey { bytes }),
        }
    }

    /// The text of a file with it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(HEXLOWER.encode(&*self.bytes));
        Zeroizing::new(format!("{KIND}\n{ENCODING}\n{}\n", *digits))
    }

    /// What tells it from others and is no secret: the same that go-ipfs prints.
    pub fn fingerprint(&self) -> Fingerprint {
        self.pre_shared().fingerprint()
    }

    /// The key as libp2p takes it.
    pub fn pre_shared(&self) -> PreSharedKey {
        PreSharedKey::new(*self.bytes)
    }
}

impl fmt::Debug for SwarmKey {
    // The key must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SwarmKey({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "6189c5cf0b87fb800c1a9feeda73c6ab5e998db48fb9e6a978575c770ceef683";

    fn text(digits: &str) -> String {
        format!("{KIND}\n{ENCODING}\n{digits}")
    }

    #[test]
    fn files_of_others_are_read_and_the_fingerprint_is_theirs() {
        // What go-ipfs says of that key, by libp2p's tests.
        let fingerprint = "45fc986bbc9388a11d939df26f730f0c";
        let dos = text(DIGITS).replace('\n', "\r\n");
        for text in [
            text(DIGITS),
            text(&DIGITS.to_uppercase()),
            text(&format!("{DIGITS}\n\n")),
            dos,
        ] {
            let key = SwarmKey::parse(&text).unwrap();
            assert_eq!(key.fingerprint().to_string(), fingerprint, "{text}");
        }
    }

    #[test]
    fn a_new_key_is_another_one_and_is_shown_to_nobody() {
        let [one, two] = [(); 2].map(|()| SwarmKey::generate().unwrap());
        assert!(one.fingerprint() != two.fingerprint());
        let again = SwarmKey::parse(&one.to_text()).unwrap();
        assert!(one.bytes == again.bytes);
        assert_eq!(
            format!("{one:?}"),
            format!("SwarmKey({})", one.fingerprint())
        );
        assert!(one.to_text().parse::<PreSharedKey>() == Ok(one.pre_shared()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        use InvalidSwarmKey::*;
        let other = format!("{KIND}\n/base64/\nYYnFzwuH");
        // As many bytes as digits are expected, and fewer characters.
        let wide = text(&"ä".repeat(KEY_SIZE));
        for (text, expected) in [
            (String::new(), Kind),
            (DIGITS.to_owned(), Kind),
            (KIND.to_owned(), Encoding),
            (other, Encoding),
            (text(""), Digits),
            (text(&DIGITS[1..]), Digits),
            (text(&format!("{DIGITS}00")), Digits),
            (text(&DIGITS.replace('c', "+")), Digits),
            (wide, Digits),
            (text(&format!("{DIGITS}\n{DIGITS}")), Trailing),
        ] {
            assert_eq!(SwarmKey::parse(&text).unwrap_err(), expected, "{text}");
        }
    }
}
