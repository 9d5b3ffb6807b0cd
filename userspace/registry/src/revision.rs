// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Documents under a tag that several may change: whose change comes second must not take away the first one's.

use std::time::Duration;

use reqwest::header::{HeaderValue, ACCEPT, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use reqwest::StatusCode;

use crate::documents::DOCUMENT_MAX;
use crate::error::{Error, Result};
use crate::http::WRITE_TIMEOUT;
use crate::remote::Remote;
use crate::retry::persist;

/// Attempts to have a change last.
const ATTEMPTS_MAX: u32 = 8;
/// How long others may take from reading to writing, at a registry that compares nothing: so much later it is looked again.
const SETTLE: Duration = Duration::from_millis(300);

/// A document that a tag stood for.
pub(crate) struct Revision {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// By what the registry knows it, if it says that.
    tag: Option<HeaderValue>,
}

/// The attempts to change a document so far.
#[derive(Default)]
pub(crate) struct Revising(u32);

impl Revising {
    /// Waits after an attempt: what was put may have been put over.
    ///
    /// # Errors
    /// [`Error::Contended`] if that has happened too often.
    pub(crate) async fn settle(&mut self, host: &str) -> Result<()> {
        self.0 += 1;
        if self.0 >= ATTEMPTS_MAX {
            return Err(Error::Contended {
                host: host.to_owned(),
            });
        }
        // Those who were at it at once come again at different times.
        tokio::time::sleep(SETTLE.mul_f64(1.0 + fastrand::f64())).await;
        Ok(())
    }
}

impl Remote {
    /// What a tag stands for, of these media types; None if there is nothing.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn revision(&self, tag: &str, accept: &str) -> Result<Option<Revision>> {
        let url = self.url(self.base().await?, &format!("manifests/{tag}"))?;
        let scope = self.pull_scope();
        persist(|| async {
            let asked = self.ask(&scope, |client| {
                client.get(url.clone()).header(ACCEPT, accept)
            });
            let answer = asked.await?;
            match answer.status() {
                StatusCode::OK => {
                    let tag = answer.headers().get(ETAG).cloned();
                    // A weak one is for nothing that is to be the same in all bytes.
                    let tag = tag.filter(|tag| !tag.as_bytes().starts_with(b"W/"));
                    let bytes = answer.read(DOCUMENT_MAX).await?;
                    Ok(Some(Revision { bytes, tag }))
                }
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(answer.into_error().await),
            }
        })
        .await
    }

    /// Has a tag stand for a document, unless it stands for another one by now than `before`, as far as the registry compares
    /// that: whether it has come to stand for it, is to be looked at again.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn revise(
        &self,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
        before: Option<&Revision>,
    ) -> Result<()> {
        let url = self.url(self.base().await?, &format!("manifests/{tag}"))?;
        let scope = self.push_scope();
        persist(|| async {
            let put = self.ask_within(&scope, WRITE_TIMEOUT, |client| {
                let request = client.put(url.clone()).header(CONTENT_TYPE, media_type);
                let request = match before.map(|before| &before.tag) {
                    Some(Some(tag)) => request.header(IF_MATCH, tag),
                    Some(None) => request,
                    None => request.header(IF_NONE_MATCH, "*"),
                };
                request.body(bytes.to_vec())
            });
            let answer = put.await?;
            match answer.status() {
                StatusCode::CREATED | StatusCode::PRECONDITION_FAILED => Ok(()),
                _ => Err(answer.into_error().await),
            }
        })
        .await
    }
}
