// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Saying who asks: Basic, or a token that another server gives out (distribution's token specification).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::challenge::Challenge;
use crate::credentials::{Credential, Credentials};
use crate::error::{Error, Result};
use crate::http::{host_of, send, Answer};

/// The most bytes of what a token server answers.
const TOKEN_MAX: u64 = 256 * 1024;
/// A token is not used any more so long before it expires.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a token holds if nobody says.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Tokens that are remembered.
const TOKENS_MAX: usize = 64;

/// What a registry is told of who asks. One for each; what it asks for is found out once.
pub(crate) struct Auth {
    registry: String,
    repository: String,
    credentials: Credentials,
    /// Held while a token is fetched: who needs the same one waits for it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    basic: Option<HeaderValue>,
    tokens: HashMap<String, Token>,
}

struct Token {
    header: HeaderValue,
    usable_until: Instant,
}

/// What a token server answers.
#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Auth {
    pub(crate) fn new(registry: &str, repository: &str, credentials: Credentials) -> Self {
        Auth {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            credentials,
            state: Mutex::default(),
        }
    }

    /// What to say for this scope, as far as it is known that something has to be said.
    pub(crate) async fn header(&self, client: &Client, scope: &str) -> Result<Option<HeaderValue>> {
        let mut state = self.state.lock().await;
        match &state.challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(state.basic.clone()),
            Some(Challenge::Bearer { .. }) => {
                let now = Instant::now();
                let known = state.tokens.get(scope);
                match known.filter(|token| now < token.usable_until) {
                    Some(token) => Ok(Some(token.header.clone())),
                    None => self.fetch(&mut state, client, scope).await,
                }
            }
        }
    }

    /// What to say after `refusal`, which `used` did not prevent; None if nothing else can be said.
    pub(crate) async fn renew(
        &self,
        client: &Client,
        scope: &str,
        refusal: &Answer,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        let mut state = self.state.lock().await;
        // Another one has asked meanwhile.
        let current = match &state.challenge {
            Some(Challenge::Bearer { .. }) => state.tokens.get(scope).map(|token| &token.header),
            _ => state.basic.as_ref(),
        };
        if let Some(current) = current.filter(|current| used != Some(*current)) {
            return Ok(Some(current.clone()));
        }
        let headers = refusal.headers().get_all(WWW_AUTHENTICATE).iter();
        let mut challenges: Vec<Challenge> = headers
            .filter_map(|header| Challenge::parse(header.to_str().ok()?))
            .collect();
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        let Some(challenge) = challenges.into_iter().next() else {
            return Ok(None);
        };
        // Only what is sent over TLS stays between the two; a server without it has none to lose.
        if let Challenge::Bearer { realm, .. } = &challenge {
            let may_be_plain = refusal.url().scheme() == "http";
            let is_safe = realm.parse().is_ok_and(|realm: Url| {
                realm.scheme() == "https" || may_be_plain && realm.scheme() == "http"
            });
            if !is_safe {
                return Err(Error::Protocol {
                    host: self.registry.clone(),
                    problem: "its tokens are at no URL that can be trusted with a password",
                });
            }
        }
        state.challenge = Some(challenge.clone());
        match challenge {
            Challenge::Bearer { .. } => {
                state.tokens.remove(scope);
                self.fetch(&mut state, client, scope).await
            }
            Challenge::Basic => {
                let basic = match self.credential().await? {
                    Some(Credential::Password(user, password)) => basic(&user, &password),
                    _ => None,
                };
                state.basic.clone_from(&basic);
                // The same once more would be refused once more.
                Ok(basic.filter(|basic| used != Some(basic)))
            }
        }
    }

    async fn credential(&self) -> Result<Option<Credential>> {
        let found = self.credentials.find(&self.registry, &self.repository);
        Ok(found.await?)
    }

    /// Gets a token for a scope, and remembers it.
    async fn fetch(
        &self,
        state: &mut State,
        client: &Client,
        scope: &str,
    ) -> Result<Option<HeaderValue>> {
        let Some(Challenge::Bearer { realm, service }) = &state.challenge else {
            return Ok(None);
        };
        let malformed = || Error::Protocol {
            host: self.registry.clone(),
            problem: "what it says of its tokens is not understood",
        };
        let mut url: Url = realm.parse().map_err(|_| malformed())?;
        let mut fields: Vec<(&str, &str)> = Vec::new();
        if let Some(service) = service {
            fields.push(("service", service));
        }
        // Several scopes are several fields.
        fields.extend(scope.split(' ').map(|scope| ("scope", scope)));
        let request = match self.credential().await? {
            Some(Credential::Identity(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "peerfs"),
                    ("refresh_token", token.as_str()),
                ];
                let body = encode(fields.into_iter().chain(form));
                let media_type = "application/x-www-form-urlencoded";
                let request = client.post(url.clone());
                request
                    .header(reqwest::header::CONTENT_TYPE, media_type)
                    .body(body)
            }
            Some(Credential::Password(user, password)) => {
                fields.push(("account", &user));
                url.query_pairs_mut().extend_pairs(fields);
                client.get(url.clone()).basic_auth(&user, Some(&password))
            }
            None => {
                url.query_pairs_mut().extend_pairs(fields);
                client.get(url.clone())
            }
        };
        let asked = Instant::now();
        let answer = send(&host_of(&url), request).await?;
        if !answer.status().is_success() {
            return Err(answer.into_error().await);
        }
        let given = answer.read(TOKEN_MAX).await?;
        let given: Given = serde_json::from_slice(&given).map_err(|_| malformed())?;
        let token = given.token.filter(|token| !token.is_empty());
        let token = token.or(given.access_token).ok_or_else(malformed)?;
        let mut header =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| malformed())?;
        header.set_sensitive(true);
        if state.tokens.len() >= TOKENS_MAX {
            state.tokens.clear();
        }
        let life = given.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        let token = Token {
            header: header.clone(),
            usable_until: asked + usable(life),
        };
        state.tokens.insert(scope.to_owned(), token);
        Ok(Some(header))
    }
}

/// For how long a token is used that holds for so long.
fn usable(life: Duration) -> Duration {
    // A longer one would not be renewed while a daemon runs that nobody restarts.
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    life.saturating_sub(MARGIN).max(life / 2).min(LONGEST)
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let text = BASE64.encode(format!("{user}:{password}").as_bytes());
    let mut header = HeaderValue::try_from(format!("Basic {text}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// A form, as a body.
fn encode<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut url = Url::parse("form:").expect("it is a URL");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_given_up_before_they_expire() {
        for (life, expected) in [(0, 0), (20, 10), (60, 30), (300, 270), (u64::MAX, 86400)] {
            let usable = usable(Duration::from_secs(life));
            assert_eq!(usable.as_secs(), expected, "{life}");
        }
    }

    #[test]
    fn forms_are_escaped() {
        let form = encode([("a", "x y&z"), ("b", "=")].into_iter());
        assert_eq!(form, "a=x+y%26z&b=%3D");
    }
}
