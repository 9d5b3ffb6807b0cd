// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The envelope of a realm: its key, encrypted for those who may have it. What is in it is text that anybody may have written;
//! only decrypting it says what it is.

/// The most bytes of a grant: about a hundred recipients have room.
pub const GRANT_MAX: usize = 16 * 1024;
/// The most grants of an envelope.
pub const GRANTS_MAX: usize = 16;
/// The most bytes of an envelope.
pub const ENVELOPE_MAX: usize = GRANTS_MAX * GRANT_MAX;

/// The first and the last line of a grant, as age has them.
const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
/// The most characters of a line between these.
const LINE_MAX: usize = 64;

/// The key of a realm for some recipients: a file of age, armored. Whether it is one is not known before it is decrypted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant(String);

impl Grant {
    /// The grant that bytes are; None if they are too many, or not armored.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > GRANT_MAX {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let inner = text.trim_ascii_end().strip_prefix(BEGIN)?;
        let inner = inner.strip_suffix(END)?.strip_prefix(['\r', '\n'])?;
        let lines = inner.lines().map(str::trim_ascii);
        let lines = lines.filter(|line| !line.is_empty());
        // The same in one form: without what editors and mails make of the ends of lines.
        let mut grant = format!("{BEGIN}\n");
        for line in lines {
            let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            if line.len() > LINE_MAX || !line.bytes().all(is_base64) {
                return None;
            }
            grant.push_str(line);
            grant.push('\n');
        }
        grant.push_str(END);
        grant.push('\n');
        (grant.len() <= GRANT_MAX).then_some(Grant(grant))
    }

    /// The text of it.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The grants of a realm's key that are known, the newest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Envelope(Vec<Grant>);

impl Envelope {
    /// The grants that a file has, one behind the other. What is none of them is left out, and so is what is too much.
    pub fn parse(bytes: &[u8]) -> Self {
        let bytes = bytes.get(..ENVELOPE_MAX).unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let texts = text.split_inclusive(END);
        let grants = texts.filter_map(|text| Grant::parse(text.trim_ascii_start().as_bytes()));
        Envelope::of(grants)
    }

    /// Some grants, each once. What is too many is left out.
    pub fn of(grants: impl IntoIterator<Item = Grant>) -> Self {
        let mut kept: Vec<Grant> = Vec::new();
        for grant in grants {
            if kept.len() < GRANTS_MAX && !kept.contains(&grant) {
                kept.push(grant);
            }
        }
        Envelope(kept)
    }

    /// The same with these grants before the others, of which the last ones make room.
    pub fn with(self, new: &[Grant]) -> Self {
        Envelope::of(new.iter().cloned().chain(self.0))
    }

    /// The grants.
    pub fn grants(&self) -> &[Grant] {
        &self.0
    }

    /// The text of a file with them.
    pub fn to_text(&self) -> String {
        self.0.iter().map(Grant::text).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant(content: &str) -> Grant {
        Grant::parse(format!("{BEGIN}\n{content}\n{END}\n").as_bytes()).unwrap()
    }

    #[test]
    fn the_newest_is_the_first_and_the_oldest_makes_room() {
        let mut envelope = Envelope::default();
        for number in 0..GRANTS_MAX + 4 {
            envelope = envelope.with(&[grant(&number.to_string()), grant("other")]);
        }
        assert_eq!(envelope.grants().len(), GRANTS_MAX);
        assert_eq!(envelope.grants()[0], grant("19"));
        assert_eq!(envelope.grants()[1], grant("other"));
        assert_eq!(Envelope::parse(envelope.to_text().as_bytes()), envelope);
    }

    #[test]
    fn what_is_no_grant_is_left_out() {
        let line = "A".repeat(LINE_MAX);
        let long = format!("{BEGIN}\n{}{END}\n", format!("{line}\n").repeat(300));
        for text in [
            "",
            "garbage",
            BEGIN,
            &format!("{BEGIN}{END}"),
            &format!("{BEGIN}\n{line}A\n{END}\n"),
            &format!("{BEGIN}\n\u{1b}[2J\n{END}\n"),
            &format!("{BEGIN}\n{BEGIN}\nAA\n{END}\n"),
            &long,
        ] {
            assert_eq!(Grant::parse(text.as_bytes()), None, "{text}");
            let both = [text, grant("AA").text()].concat();
            assert!(Envelope::parse(both.as_bytes()).grants().len() <= 1);
        }
        let windows = grant("AA").text().replace('\n', "\r\n");
        assert_eq!(Grant::parse(windows.as_bytes()), Some(grant("AA")));
        let behind = format!("garbage{END}\n{}", grant("AA").text());
        assert_eq!(Envelope::parse(behind.as_bytes()).grants(), [grant("AA")]);
        let many = grant("AA").text().repeat(100_000);
        assert_eq!(Envelope::parse(many.as_bytes()).grants(), [grant("AA")]);
    }

    proptest! {
        #[test]
        fn an_envelope_has_one_form(bytes: Vec<u8>, lines in prop::collection::vec("[A-Za-z0-9+/=]{0,66}", 0..9)) {
            let text = format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"));
            for bytes in [bytes.clone(), text.clone().into_bytes(), [text.as_bytes(), &bytes, text.as_bytes()].concat()] {
                let envelope = Envelope::parse(&bytes);
                prop_assert_eq!(&Envelope::parse(envelope.to_text().as_bytes()), &envelope);
            }
        }
    }
}
