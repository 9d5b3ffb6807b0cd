// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::io;

use super::*;

const KEY: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "beaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn parse(text: &str) -> Result<Policy, InvalidPolicy> {
    Policy::parse(text, |path| match path {
        "/keys/team.pub" => Ok(include_str!("../tests/data/p256.pub").to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    })
}

fn requires(policy: &Policy, image: &str) -> &'static str {
    match policy.requires(&image.parse().unwrap()) {
        Requirement::Nothing => "nothing",
        Requirement::Signature(_) => "signature",
        Requirement::Refused => "refused",
    }
}

#[test]
fn the_rule_that_names_most_of_an_image_counts() {
    let policy = parse(&format!(
        "default = 'refuse'\n\
         [[rule]]\nimages = 'registry.example'\nrequire = 'signature'\nkeys = ['/keys/team.pub', '{KEY}']\n\
         [[rule]]\nimages = 'registry.example/free'\nrequire = 'nothing'\n\
         [[rule]]\nimages = 'registry.example/free/not'\nrequire = 'refused'\n\
         [[rule]]\nimages = '{KEY}'\nrequire = 'nothing'\n\
         [[rule]]\nimages = '{KEY}/team/base'\nrequire = 'signature'\nkeys = ['{OTHER}']\n"
    ))
    .unwrap();
    for (image, expected) in [
        ("registry.example/team/base:12", "signature"),
        ("registry.example/free:1", "nothing"),
        ("registry.example/free/a", "nothing"),
        ("registry.example/freedom", "signature"),
        ("registry.example/free/not/this:1", "refused"),
        ("registry.example.org/free", "refused"),
        (&format!("{KEY}/other"), "nothing"),
        (&format!("{KEY}/team/base"), "signature"),
        (&format!("{OTHER}/team/base"), "refused"),
        // Who names one of these has decided.
        ("debian", "nothing"),
        (&"ab".repeat(32), "nothing"),
    ] {
        assert_eq!(requires(&policy, image), expected, "{image}");
    }
    let named = format!("{KEY}/team/base").parse().unwrap();
    let signer = |text: &str| match format!("{text}/x").parse() {
        Ok(Reference::Published { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    let required = policy.requires(&named);
    assert!(required.allows_signer(&signer(OTHER)) && !required.allows_signer(&signer(KEY)));
    assert_eq!(
        requires(&Policy::default(), "registry.example/a"),
        "nothing"
    );
}

#[test]
fn a_rule_is_for_an_image_however_its_registry_is_written() {
    let policy = parse(
        "[[rule]]\nimages = 'Registry.example:0443'\nrequire = 'refused'\n\
         [[rule]]\nimages = 'localhost:5000'\nrequire = 'refused'\n\
         [[rule]]\nimages = 'docker.io/debian'\nrequire = 'refused'\n\
         [[rule]]\nimages = 'registry-1.docker.io/library/alpine'\nrequire = 'refused'\n",
    )
    .unwrap();
    for (image, expected) in [
        ("registry.example/a", "refused"),
        ("REGISTRY.example/a:1", "refused"),
        ("registry.example:443/a", "refused"),
        ("registry.example:00443/a", "refused"),
        ("registry.example:444/a", "nothing"),
        ("LOCALHOST:05000/a", "refused"),
        ("localhost/a", "nothing"),
        ("docker.io/debian:12", "refused"),
        ("docker.io/library/debian", "refused"),
        ("index.docker.io/library/debian", "refused"),
        ("docker.io/team/debian", "nothing"),
        ("docker.io/alpine", "refused"),
        ("docker.io/alpinist", "nothing"),
    ] {
        assert_eq!(requires(&policy, image), expected, "{image}");
    }
}

#[test]
fn a_policy_that_is_not_understood_is_none() {
    let rule = |images: &str, rest: &str| format!("[[rule]]\nimages = '{images}'\n{rest}");
    for (text, named) in [
        ("default = 'maybe'".to_owned(), "unknown variant"),
        ("rules = []".to_owned(), "unknown field"),
        (rule("debian", "require = 'nothing'"), "nothing that a rule"),
        (rule("", "require = 'nothing'"), "nothing that a rule"),
        (
            rule("registry.example/a:1", "require = 'nothing'"),
            "nothing that a rule",
        ),
        (
            rule("registry.example", "require = 'signature'"),
            "needs keys",
        ),
        (
            rule("registry.example", "require = 'nothing'\nkeys = ['x']"),
            "needs keys",
        ),
        (
            rule("registry.example", "require = 'signature'\nkeys = ['x']"),
            "neither a public key",
        ),
        (
            rule(
                "registry.example",
                "require = 'signature'\nkeys = ['/keys/none']",
            ),
            "not found",
        ),
        (
            rule("registry.example", "require = 'signature'\nkey = ['x']"),
            "unknown field",
        ),
        (
            rule("registry.example", "require = 'nothing'\n").repeat(RULES_MAX + 1),
            "more than",
        ),
    ] {
        let problem = parse(&text).unwrap_err().to_string();
        assert!(problem.contains(named), "{named}: {problem}");
    }
}
