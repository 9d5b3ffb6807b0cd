// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which snapshots a client wants to hear of, in the language of containerd's filters: conditions with commas between, all
//! of which hold.

use std::iter::Peekable;
use std::str::Chars;

use crate::error::{Error, Result};
use crate::record::Record;

/// The longest filter, in bytes.
const LENGTH_MAX: usize = 16 * 1024;

/// A filter: conditions that all hold.
#[derive(Debug, Eq, PartialEq)]
pub struct Filter {
    conditions: Vec<Condition>,
}

#[derive(Debug, Eq, PartialEq)]
struct Condition {
    field: Vec<String>,
    test: Test,
}

#[derive(Debug, Eq, PartialEq)]
enum Test {
    Present,
    Is(String),
    IsNot(String),
}

impl Filter {
    /// Reads a filter. Patterns (`~=`) are not known: nothing of containerd asks a snapshotter for them.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the place.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid =
            |problem: &str| Error::Invalid(format!("the filter {text:?} is wrong: {problem}"));
        if text.len() > LENGTH_MAX {
            return Err(Error::Invalid(format!(
                "a filter has at most {LENGTH_MAX} bytes"
            )));
        }
        let mut conditions = Vec::new();
        let mut rest = text.chars().peekable();
        while rest.peek().is_some() {
            let mut field = vec![name(&mut rest).ok_or_else(|| invalid("a field is missing"))?];
            while rest.next_if_eq(&'.').is_some() {
                field.push(name(&mut rest).ok_or_else(|| invalid("a field is missing"))?);
            }
            let test = match rest.peek() {
                None | Some(',') => Test::Present,
                Some(_) => {
                    let operator = [rest.next(), rest.next()];
                    let mut value =
                        || value(&mut rest).ok_or_else(|| invalid("a value is missing"));
                    match operator {
                        [Some('='), Some('=')] => Test::Is(value()?),
                        [Some('!'), Some('=')] => Test::IsNot(value()?),
                        _ => return Err(invalid("only == and != are known")),
                    }
                }
            };
            conditions.push(Condition { field, test });
            if rest.peek().is_some() && rest.next() != Some(',') {
                return Err(invalid("a comma is missing"));
            }
        }
        Ok(Filter { conditions })
    }

    /// Whether a snapshot fits.
    pub fn fits(&self, record: &Record) -> bool {
        self.conditions.iter().all(|condition| {
            let value = field(record, &condition.field);
            match &condition.test {
                Test::Present => value.is_some(),
                Test::Is(wanted) => value == Some(wanted.as_str()),
                Test::IsNot(unwanted) => value != Some(unwanted.as_str()),
            }
        })
    }
}

fn field<'a>(record: &'a Record, path: &[String]) -> Option<&'a str> {
    match path {
        [name] => match name.as_str() {
            "kind" => Some(record.kind.name()),
            "name" => Some(&record.key),
            // None is as good as an empty one.
            "parent" => Some(record.parent.as_deref().unwrap_or_default()),
            _ => None,
        },
        [name, label @ ..] if name == "labels" => {
            record.labels.get(&label.join(".")).map(String::as_str)
        }
        _ => None,
    }
}

/// The name of a field.
fn name(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    if rest.peek() == Some(&'"') {
        return quoted(rest);
    }
    let mut name = String::new();
    while let Some(next) = rest.next_if(|next| next.is_ascii_alphanumeric() || *next == '_') {
        name.push(next);
    }
    (!name.is_empty()).then_some(name)
}

/// A value, which ends before a comma unless it is quoted.
fn value(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    if rest.peek() == Some(&'"') {
        return quoted(rest);
    }
    let mut value = String::new();
    while let Some(next) = rest.next_if(|next| *next != ',' && !next.is_whitespace()) {
        value.push(next);
    }
    (!value.is_empty()).then_some(value)
}

/// What stands between double quotes, in Go's syntax as far as names need it.
fn quoted(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    rest.next();
    let mut text = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(text),
            '\\' => match rest.next()? {
                escaped @ ('"' | '\\' | '\'') => text.push(escaped),
                'n' => text.push('\n'),
                't' => text.push('\t'),
                _ => return None,
            },
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::record::Kind;

    fn record() -> Record {
        let labels = [
            ("containerd.io/snapshot.ref", "sha256:aa"),
            ("other", "x,y"),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Record::new(
            Kind::Committed,
            "default/1/a",
            None,
            labels.into(),
            SystemTime::now(),
        )
    }

    #[test]
    fn what_containerd_asks_for_is_found() {
        for (text, fits) in [
            ("", true),
            (
                r#"labels."containerd.io/snapshot.ref"==sha256:aa,parent=="""#,
                true,
            ),
            (
                r#"labels."containerd.io/snapshot.ref"==sha256:ab,parent=="""#,
                false,
            ),
            (
                r#"labels."containerd.io/snapshot.ref"==sha256:aa,parent=="default/1/b""#,
                false,
            ),
            (r#"labels.other=="x,y",kind==committed"#, true),
            ("kind!=committed", false),
            ("labels.missing!=x,name==default/1/a", true),
            ("labels.missing", false),
            ("labels.other", true),
            ("size==1", false),
        ] {
            assert_eq!(Filter::parse(text).unwrap().fits(&record()), fits, "{text}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [
            "==a",
            "name=a",
            "name~=a",
            "name==",
            "name==a b",
            "labels.",
            r#"name=="a"#,
        ] {
            assert!(
                matches!(Filter::parse(text), Err(Error::Invalid(_))),
                "{text}"
            );
        }
        assert!(Filter::parse(&"a".repeat(LENGTH_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_quotes_keep_a_value(value in "[^\\\\\"\n\t]{0,40}", noise in ".{0,60}") {
            let _ = Filter::parse(&noise);
            let filter = Filter::parse(&format!("name=={value:?}"));
            if let Ok(filter) = filter {
                let mut record = record();
                record.key = value;
                prop_assert!(filter.fits(&record));
            }
        }
    }
}
