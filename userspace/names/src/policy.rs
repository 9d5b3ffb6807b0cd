// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which images need whose signature.

use peerfs_oci::{PublisherKey, Reference, RegistryReference};
use serde::Deserialize;

use crate::{InvalidKey, VerifyingKey};

/// The most bytes of a policy.
pub const POLICY_MAX: u64 = 1024 * 1024;
/// The most rules of a policy, and keys of a rule.
const RULES_MAX: usize = 1024;
const KEYS_MAX: usize = 64;
/// Where registries are that name no port.
const HTTPS_PORT: u16 = 443;
/// Docker's registry, and where the images are there that are called without a slash.
const DOCKER: &str = "docker.io";
const DOCKER_OFFICIAL: &str = "library/";
/// What may stand before a publisher's key elsewhere.
const PUBLISHED: &str = "peerfs:";

/// A policy: rules for images of registries and of publishers. Digests and tags of a store say by themselves what is meant,
/// and are not asked about.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    default: Requirement,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    images: String,
    requires: Requirement,
}

/// What an image needs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Requirement {
    /// Nothing.
    #[default]
    Nothing,
    /// A signature by one of these keys.
    Signature(Vec<VerifyingKey>),
    /// It is refused.
    Refused,
}

/// What is wrong with a policy.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPolicy {
    /// It is no TOML, or a key of it is unknown or has a wrong value.
    #[error("line {line}: {problem}")]
    Toml {
        /// Where.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// There are too many rules or keys.
    #[error("it has more than {RULES_MAX} rules, or more than {KEYS_MAX} keys in one")]
    TooMany,
    /// A rule is for nothing that can be.
    #[error("{0:?} is nothing that a rule can be for: a registry, REGISTRY/NAME, a publisher's KEY or KEY/NAME is expected")]
    Images(String),
    /// A rule needs keys, or must not have any.
    #[error(
        "the rule for {0:?} needs keys if it requires a signature, and must have none otherwise"
    )]
    Keys(String),
    /// A key is none.
    #[error("the rule for {images:?} has a key that is none, {key:?}: {problem}")]
    Key {
        /// The rule.
        images: String,
        /// The key, or the path of its file.
        key: String,
        /// Why.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
struct File {
    #[serde(default)]
    default: DefaultWord,
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DefaultWord {
    #[default]
    Allow,
    Refuse,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    images: String,
    require: RequireWord,
    #[serde(default)]
    keys: Vec<String>,
}

#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RequireWord {
    Nothing,
    Signature,
    Refused,
}

impl Policy {
    /// The policy in a text. `read` gives the text of the file of a key.
    ///
    /// # Errors
    /// [`InvalidPolicy`]. No part of such a policy counts.
    pub fn parse(
        text: &str,
        read: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, InvalidPolicy> {
        let file: File = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(0, |span| span.start);
            let before = text.as_bytes().iter().take(place);
            InvalidPolicy::Toml {
                line: 1 + before.filter(|&&byte| byte == b'\n').count(),
                // One line, whatever it quotes.
                problem: error.message().trim_end().replace('\n', ", "),
            }
        })?;
        let too_many = |rule: &RuleText| rule.keys.len() > KEYS_MAX;
        if file.rule.len() > RULES_MAX || file.rule.iter().any(too_many) {
            return Err(InvalidPolicy::TooMany);
        }
        let rules = file.rule.into_iter().map(|rule| Rule::new(rule, &read));
        Ok(Policy {
            default: match file.default {
                DefaultWord::Allow => Requirement::Nothing,
                DefaultWord::Refuse => Requirement::Refused,
            },
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// What an image needs: by the rule that names most of it.
    pub fn requires(&self, image: &Reference) -> &Requirement {
        let subjects = match image {
            Reference::Registry(image) => subjects(image),
            Reference::Published { key, name } => vec![format!("{key}/{name}")],
            Reference::Digest(_) | Reference::Tag(_) | Reference::Alias(_) => {
                return &Requirement::Nothing;
            }
        };
        let is_for = |rule: &&Rule| subjects.iter().any(|subject| rule.is_for(subject));
        let rules = self.rules.iter().filter(is_for);
        let closest = rules.max_by_key(|rule| rule.images.len());
        closest.map_or(&self.default, |rule| &rule.requires)
    }
}

impl Requirement {
    /// Whether a record of a name that this key has signed is what is required.
    pub fn allows_signer(&self, signer: &PublisherKey) -> bool {
        match self {
            Requirement::Nothing => true,
            Requirement::Signature(keys) => keys.contains(&VerifyingKey::Ed25519(*signer)),
            Requirement::Refused => false,
        }
    }
}

impl Rule {
    fn new(
        text: RuleText,
        read: &impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, InvalidPolicy> {
        let RuleText {
            images,
            require,
            keys,
        } = text;
        let Some(subject) = subject_of_rule(&images) else {
            return Err(InvalidPolicy::Images(images));
        };
        if keys.is_empty() == (require == RequireWord::Signature) {
            return Err(InvalidPolicy::Keys(images));
        }
        let requires = match require {
            RequireWord::Nothing => Requirement::Nothing,
            RequireWord::Refused => Requirement::Refused,
            RequireWord::Signature => {
                let parsed = keys.iter().map(|key| {
                    parse_key(key, read).map_err(|problem| InvalidPolicy::Key {
                        images: images.clone(),
                        key: key.clone(),
                        problem,
                    })
                });
                Requirement::Signature(parsed.collect::<Result<_, _>>()?)
            }
        };
        Ok(Rule {
            images: subject,
            requires,
        })
    }

    /// Whether the subject is what the rule names, or below it.
    fn is_for(&self, subject: &str) -> bool {
        let rest = subject.strip_prefix(&self.images);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// What a rule is for, as [`subjects`] has it: a registry, a publisher, or an image of one without tag and digest.
fn subject_of_rule(images: &str) -> Option<String> {
    let is_whole = images.contains('/');
    let whole = match is_whole {
        true => images.to_owned(),
        false => format!("{images}/x"),
    };
    match whole.parse() {
        Ok(Reference::Registry(image)) if image.tag.is_none() && image.digest.is_none() => {
            let host = host(&image.registry);
            Some(match is_whole {
                true => format!("{host}/{}", image.repository),
                false => host,
            })
        }
        Ok(Reference::Published { .. }) if !images.starts_with(PUBLISHED) => {
            Some(images.to_owned())
        }
        _ => None,
    }
}

/// What an image of a registry is called in rules: the same, however it is written.
fn subjects(image: &RegistryReference) -> Vec<String> {
    let (host, repository) = (host(&image.registry), &image.repository);
    let official = match host == DOCKER {
        true if !repository.contains('/') => Some(repository.as_str()),
        true => repository.strip_prefix(DOCKER_OFFICIAL),
        false => None,
    };
    match official {
        Some(name) => vec![
            format!("{host}/{DOCKER_OFFICIAL}{name}"),
            format!("{host}/{name}"),
        ],
        None => vec![format!("{host}/{repository}")],
    }
}

/// A registry as it is compared: hosts have no case, HTTPS has a port, and Docker's registry has several names.
fn host(registry: &str) -> String {
    let registry = registry.to_ascii_lowercase();
    let (host, port) = match registry.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (registry.as_str(), None),
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER,
        host => host,
    };
    match port {
        None | Some(HTTPS_PORT) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
    }
}

fn parse_key(
    text: &str,
    read: &impl Fn(&str) -> std::io::Result<String>,
) -> Result<VerifyingKey, String> {
    let invalid = |error: InvalidKey| match error {
        InvalidKey::Form => {
            "it is neither a public key in PEM form nor a publisher's KEY".to_owned()
        }
        _ => "it is neither a P-256 nor an Ed25519 key".to_owned(),
    };
    match text.contains('/') {
        false => VerifyingKey::parse(text).map_err(invalid),
        true => {
            let text = read(text).map_err(|error| error.to_string())?;
            VerifyingKey::parse(&text).map_err(invalid)
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
