// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The one grammar of what a user may call an image (Documentation/references.md).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use peerfs_format::Digest;

/// The longest tag, name or reference to a registry.
const LENGTH_MAX: usize = 255;
/// The longest tag of a registry.
const REGISTRY_TAG_MAX: usize = 128;
/// A word that may stand before a publisher's key.
const SCHEME: &str = "peerfs:";

/// A text by which a user names an image.
///
/// ```
/// use peerfs_oci::Reference;
///
/// let reference: Reference = "registry.example:5000/team/base:12".parse()?;
/// let Reference::Registry(image) = &reference else { panic!() };
/// assert_eq!((image.registry.as_str(), image.repository.as_str()), ("registry.example:5000", "team/base"));
/// assert_eq!(image.tag.as_deref(), Some("12"));
/// assert_eq!(reference.to_string(), "registry.example:5000/team/base:12");
/// assert!(matches!("debian:12".parse()?, Reference::Tag(_)));
/// # Ok::<(), peerfs_oci::InvalidReference>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Reference {
    /// `[sha256:]HEX`: a manifest, or an OCI image manifest that names one.
    Digest(Digest),
    /// `[peerfs:]KEY/NAME`: what a publisher has signed under that name.
    Published {
        /// The key of who has signed it.
        key: PublisherKey,
        /// Its name there.
        name: String,
    },
    /// `peerfs:ALIAS`: a publisher's name that the configuration of peerfsd gives another one.
    Alias(String),
    /// `REGISTRY/NAME[:TAG][@DIGEST]`.
    Registry(RegistryReference),
    /// A name in the store.
    Tag(Tag),
}

/// An image of a registry.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RegistryReference {
    /// The registry's host, and a port.
    pub registry: String,
    /// The name of the repository there.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest, which decides if there is a tag as well.
    pub digest: Option<Digest>,
}

/// The name of an image in a store: any that OCI allows in a layout and that does not say by itself what
/// it stands for, as digests do, and names that a publisher has signed.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tag(String);

/// A publisher's public key: 52 letters and digits of Base32.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PublisherKey(pub [u8; PublisherKey::SIZE]);

/// A text that is no reference.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} can't be what an image is called: {reason}")]
pub struct InvalidReference {
    text: String,
    reason: &'static str,
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason| InvalidReference::new(text, reason);
        if let Ok(digest) = text.parse() {
            return Ok(Reference::Digest(digest));
        }
        if let Some(published) = parse_published(text) {
            return published.map_err(invalid);
        }
        check_characters(text).map_err(invalid)?;
        let digest = text.rsplit_once('@').map(|(_, digest)| digest);
        match parse_registry(text) {
            Some(registry) => Ok(Reference::Registry(registry)),
            None if digest.is_some_and(is_digest) => {
                Err(invalid("before @DIGEST a registry and a name are expected"))
            }
            None => Ok(Reference::Tag(Tag(text.to_owned()))),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Digest(digest) => digest.fmt(f),
            Reference::Published { key, name } => write!(f, "{SCHEME}{key}/{name}"),
            Reference::Alias(alias) => write!(f, "{SCHEME}{alias}"),
            Reference::Registry(registry) => registry.fmt(f),
            Reference::Tag(tag) => tag.fmt(f),
        }
    }
}

impl RegistryReference {
    /// What its image is called in a store: by its digest alone, if it has that and no tag.
    pub fn tag_in_store(&self) -> Option<Tag> {
        if self.tag.is_none() && self.digest.is_some() {
            return None;
        }
        let without_digest = RegistryReference {
            digest: None,
            ..self.clone()
        };
        Some(Tag(without_digest.to_string()))
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@sha256:{digest}"),
            None => Ok(()),
        }
    }
}

impl Tag {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidReference;

    /// Accepts what a registry's images are called, too: that is what they are called in a store.
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason| Err(InvalidReference::new(text, reason));
        match text.parse()? {
            Reference::Tag(tag) => Ok(tag),
            Reference::Registry(RegistryReference { digest: None, .. }) => Ok(Tag(text.to_owned())),
            Reference::Digest(_) | Reference::Registry(_) => {
                invalid("a digest is no tag: an image has its digest anyway")
            }
            Reference::Published { .. } | Reference::Alias(_) => {
                invalid("what has this name is what its key has signed")
            }
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PublisherKey {
    /// Bytes of a key.
    pub const SIZE: usize = 32;

    fn parse(text: &str) -> Option<Self> {
        let is_lower = |byte: u8| !byte.is_ascii_uppercase();
        if !text.bytes().all(is_lower) {
            return None;
        }
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes());
        Some(PublisherKey(bytes.ok()?.try_into().ok()?))
    }
}

impl fmt::Display for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl InvalidReference {
    fn new(text: &str, reason: &'static str) -> Self {
        // What is too long is not repeated as a whole.
        let text = text.chars().take(LENGTH_MAX).collect();
        InvalidReference { text, reason }
    }
}

/// A text that begins with a publisher's key and a slash, or says that it does.
fn parse_published(text: &str) -> Option<Result<Reference, &'static str>> {
    let rest = text.strip_prefix(SCHEME);
    let parts = rest.unwrap_or(text).split_once('/');
    let key = parts.and_then(|(key, _)| PublisherKey::parse(key));
    match (key, parts) {
        (Some(key), Some((_, name))) if is_published_name(name) => {
            let name = name.to_owned();
            Some(Ok(Reference::Published { key, name }))
        }
        (Some(_), _) => Some(Err(
            "behind the key's slash letters, digits and -._/ are expected, with a letter or digit first",
        )),
        (None, None) if rest.is_some_and(is_published_name) => {
            rest.map(|alias| Ok(Reference::Alias(alias.to_owned())))
        }
        (None, _) if rest.is_some() => Some(Err(
            "behind peerfs: a key, a slash and a name are expected, or an alias",
        )),
        (None, _) => None,
    }
}

fn is_published_name(name: &str) -> bool {
    let is_component = |component: &str| {
        component.starts_with(|first: char| first.is_ascii_alphanumeric())
            && component
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    name.len() <= LENGTH_MAX && name.split('/').all(is_component)
}

/// Accepts the characters that OCI allows in the name of an image in a layout, so that other tools can name it too.
fn check_characters(text: &str) -> Result<(), &'static str> {
    let is_valid = text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._:@/+".contains(&byte));
    if !is_valid {
        return Err("letters, digits and -._:@/+ are allowed, with a letter or digit first");
    }
    match text.len() {
        0..=LENGTH_MAX => Ok(()),
        _ => Err("it has more than 255 characters"),
    }
}

/// A text that OCI's registries understand: the first component is a host, as a dot, a port or the name `localhost`
/// says, as in Docker's grammar.
fn parse_registry(text: &str) -> Option<RegistryReference> {
    let (registry, rest) = text.split_once('/')?;
    if !is_host(registry) {
        return None;
    }
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.parse().ok()?)),
        Some(_) => return None,
        None => (rest, None),
    };
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let is_valid =
        repository.split('/').all(is_repository_component) && tag.is_none_or(is_registry_tag);
    is_valid.then(|| RegistryReference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Whether it is a digest as OCI writes it.
fn is_digest(text: &str) -> bool {
    text.starts_with("sha256:") && text.parse::<Digest>().is_ok()
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        let is_end = |letter: char| letter.is_ascii_alphanumeric();
        label.starts_with(is_end)
            && label.ends_with(is_end)
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    host.split('.').all(is_label)
        && port.is_none_or(is_port)
        && (host.contains('.') || port.is_some() || host == "localhost")
}

/// `[a-z0-9]+` with single separators between: `.`, `_`, `__` or any number of `-`.
fn is_repository_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut words = text.split(|letter: char| letter.is_ascii() && is_word(letter as u8));
    let is_separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    text.bytes().next().is_some_and(is_word)
        && text.bytes().last().is_some_and(is_word)
        && words.all(is_separator)
}

fn is_registry_tag(text: &str) -> bool {
    let is_first = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.starts_with(is_first)
        && text.len() <= REGISTRY_TAG_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "aB3d00112233445566778899aabbccddeeff00112233445566778899aabbccdd";

    fn kind(text: &str) -> &'static str {
        match text.parse() {
            Ok(Reference::Digest(_)) => "digest",
            Ok(Reference::Published { .. }) => "published",
            Ok(Reference::Alias(_)) => "alias",
            Ok(Reference::Registry(_)) => "registry",
            Ok(Reference::Tag(_)) => "tag",
            Err(_) => "invalid",
        }
    }

    #[test]
    fn a_text_has_one_meaning() {
        let key = PublisherKey([77; 32]).to_string();
        assert_eq!(key.len(), 52);
        for (text, expected) in [
            (HEX, "digest"),
            (&format!("sha256:{HEX}"), "digest"),
            (&HEX[1..], "tag"),
            ("debian", "tag"),
            ("debian:12-slim", "tag"),
            ("team/debian:12", "tag"),
            ("Registry.example/Upper", "tag"),
            ("localhost/debian", "registry"),
            ("registry.example/debian", "registry"),
            ("registry.example:5000/a/b__c/d--e:1.0_x", "registry"),
            (&format!("host:1/a@sha256:{HEX}"), "registry"),
            (&format!("host:1/a:tag@sha256:{HEX}"), "registry"),
            ("host:65536/a", "tag"),
            ("host:/a", "tag"),
            ("-host.example/a", "invalid"),
            ("registry.example/a..b", "tag"),
            // What a digest does not decide, a tag must not seem to.
            (&format!("debian@sha256:{HEX}"), "invalid"),
            (&format!("debian:12@sha256:{HEX}"), "invalid"),
            (&format!("{key}/base"), "published"),
            (&format!("peerfs:{key}/team/base-1.0"), "published"),
            (&format!("{key}/../base"), "invalid"),
            (&format!("{key}/"), "invalid"),
            (&format!("{key}/base:12"), "invalid"),
            (&format!("peerfs:{}/base", &key[1..]), "invalid"),
            (&key, "tag"),
            ("peerfs:base", "alias"),
            ("peerfs:-base", "invalid"),
            ("", "invalid"),
            ("-x", "invalid"),
            ("a b", "invalid"),
            ("ä", "invalid"),
            ("a\u{1b}[31m", "invalid"),
            (&"a".repeat(255), "tag"),
            (&"a".repeat(256), "invalid"),
        ] {
            assert_eq!(kind(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_tag_hides_nothing_that_says_what_it_is() {
        let key = PublisherKey([77; 32]);
        for tag in ["debian:12-slim", "registry.example/debian:12", "a@b"] {
            assert_eq!(tag.parse::<Tag>().unwrap().as_str(), tag);
        }
        for text in [
            HEX,
            &format!("sha256:{HEX}"),
            &format!("registry.example/a@sha256:{HEX}"),
            &format!("{key}/base"),
            &format!("peerfs:{key}/base"),
            "",
        ] {
            assert!(text.parse::<Tag>().is_err(), "{text:?}");
        }
    }

    fn any_reference() -> impl Strategy<Value = Reference> {
        let digest = any::<[u8; 32]>().prop_map(Digest);
        let registry = (
            "([a-z0-9]{1,5}\\.[a-z]{1,3}|localhost)(:[1-9][0-9]{0,3})?",
            "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,4}){0,2}",
            proptest::option::of("[A-Za-z0-9_][A-Za-z0-9._-]{0,6}"),
            proptest::option::of(digest.clone()),
        );
        prop_oneof![
            digest.prop_map(Reference::Digest),
            registry.prop_map(|(registry, repository, tag, digest)| {
                Reference::Registry(RegistryReference {
                    registry,
                    repository,
                    tag,
                    digest,
                })
            }),
            (
                any::<[u8; 32]>(),
                "[A-Za-z0-9][A-Za-z0-9._-]{0,5}(/[a-z0-9]{1,3}){0,2}"
            )
                .prop_map(|(key, name)| Reference::Published {
                    key: PublisherKey(key),
                    name,
                }),
            "[A-Za-z0-9][A-Za-z0-9._+-]{0,9}".prop_map(|name| Reference::Tag(Tag(name))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(reference in any_reference()) {
            prop_assert_eq!(reference.to_string().parse(), Ok(reference));
        }

        #[test]
        fn any_text_is_read_to_an_end_and_printed_as_the_same(text in "\\PC{0,20}|[a-z0-9:@/._+-]{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
                if let Ok(tag) = text.parse::<Tag>() {
                    prop_assert_eq!(tag.as_str(), &text);
                    let is_its_own = matches!(
                        reference,
                        Reference::Tag(_) | Reference::Registry(RegistryReference { digest: None, .. })
                    );
                    prop_assert!(is_its_own);
                }
            }
        }
    }
}
