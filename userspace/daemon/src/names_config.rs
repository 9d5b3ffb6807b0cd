// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The table of the configuration that is about names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use peerfs_names::Name;
use peerfs_store::{Reference, RegistryReference};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// The repositories that are asked for names.
const REGISTRIES_MAX: usize = 16;

/// Names.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct NamesConfig {
    /// Publishers' names, by what they are called here.
    #[serde(deserialize_with = "aliases")]
    pub aliases: BTreeMap<String, Name>,
    /// Repositories of registries that are asked for records of names, too.
    #[serde(deserialize_with = "registries")]
    pub registries: Vec<RegistryReference>,
    /// The file that says which images need whose signature, in the place of the usual one.
    pub policy: Option<PathBuf>,
}

fn aliases<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Name>, D::Error> {
    let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
    let parse = |(alias, name): (String, String)| {
        if !matches!(format!("peerfs:{alias}").parse(), Ok(Reference::Alias(_))) {
            let problem = "can't be an alias: letters, digits and -._/ are allowed, with a letter or digit first";
            return Err(D::Error::custom(format_args!("{alias:?} {problem}")));
        }
        Ok((alias, name.parse().map_err(D::Error::custom)?))
    };
    texts.into_iter().map(parse).collect()
}

fn registries<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<RegistryReference>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    if texts.len() > REGISTRIES_MAX {
        let problem = format_args!("at most {REGISTRIES_MAX} repositories can be asked");
        return Err(D::Error::custom(problem));
    }
    let parse = |text: String| match text.parse() {
        Ok(Reference::Registry(found)) if found.tag.is_none() && found.digest.is_none() => {
            Ok(found)
        }
        _ => Err(D::Error::custom(format_args!(
            "{text:?} is no repository of a registry, such as \"registry.example/team/names\""
        ))),
    };
    texts.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_stands_for_a_name_and_nothing_else() {
        let key = "a".repeat(52);
        let read = |text: &str| toml::from_str::<NamesConfig>(text);
        let config = read(&format!("[aliases]\nbase = '{key}/team/base'")).unwrap();
        assert_eq!(
            config.aliases["base"].to_string(),
            format!("{key}/team/base")
        );
        for (text, named) in [
            (
                "[aliases]\nbase = 'debian'".to_owned(),
                "no name of a publisher",
            ),
            (
                format!("[aliases]\n'-x' = '{key}/base'"),
                "can't be an alias",
            ),
            (
                format!("[aliases]\n'{key}/base' = '{key}/base'"),
                "can't be an alias",
            ),
            ("names = 1".to_owned(), "unknown field"),
            ("registries = ['debian']".to_owned(), "no repository"),
        ] {
            let problem = read(&text).unwrap_err().to_string();
            assert!(problem.contains(named), "{named}: {problem}");
        }
    }
}
