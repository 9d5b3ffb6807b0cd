// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a server wants to know before it answers: the header `WWW-Authenticate` (RFC 9110, 11.6.1), in the forms that
//! registries send.

/// The longest header that is looked at, in bytes.
const HEADER_MAX: usize = 8 * 1024;

/// What a server wants to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Challenge {
    /// A user's name and password.
    Basic,
    /// A token, which another server gives out.
    Bearer {
        /// The URL of that server.
        realm: String,
        /// Whom it is for.
        service: Option<String>,
    },
}

impl Challenge {
    /// The first challenge of a header that is understood: with a token, if there is one.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        if header.len() > HEADER_MAX {
            return None;
        }
        let mut basic = None;
        let mut rest = header.trim_start();
        while !rest.is_empty() {
            let end = rest.find([' ', ',']).unwrap_or(rest.len());
            let (scheme, after) = rest.split_at_checked(end)?;
            let (parameters, after) = parameters(after);
            let find = |name: &str| {
                let mut found = parameters
                    .iter()
                    .filter(|(key, _)| key.eq_ignore_ascii_case(name));
                found.next().map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = find("realm") {
                    let service = find("service");
                    return Some(Challenge::Bearer { realm, service });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            rest = after.trim_start_matches([' ', ',', '\t']);
        }
        basic
    }
}

/// The parameters at the beginning of a text, and what is left of it.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut parameters = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start_matches([' ', ',', '\t']);
        let Some((key, value)) = start.split_once('=') else {
            return (parameters, rest);
        };
        let key = key.trim();
        // Otherwise the next scheme has begun.
        if key.is_empty() || key.contains([' ', ',', '"']) {
            return (parameters, rest);
        }
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find([',', ' ']).unwrap_or(value.len());
                let (value, after) = value.split_at_checked(end).unwrap_or((value, ""));
                (value.to_owned(), after)
            }
        };
        parameters.push((key.to_owned(), value));
        rest = after;
    }
}

/// A quoted text up to its end, and what is behind that.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return (value, text.get(place + 1..).unwrap_or_default()),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_of_registries_are_understood() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            })
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull""#,
                bearer("https://auth.example/token", Some("registry.example")),
            ),
            (
                r#"Basic realm="a, b=c", Bearer realm="https://x/""#,
                bearer("https://x/", None),
            ),
            (
                "bearer service=a, realm=https://x/",
                bearer("https://x/", Some("a")),
            ),
            (r#"Bearer realm="a\"b""#, bearer("a\"b", None)),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            ("BASIC", Some(Challenge::Basic)),
            ("Negotiate, Basic", Some(Challenge::Basic)),
            ("Bearer", None),
            ("Digest realm=\"x\"", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_an_end(text in "\\PC{0,60}|[a-z=\", \\\\]{0,60}") {
            let _ = Challenge::parse(&text);
        }
    }
}
