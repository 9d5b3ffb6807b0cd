// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The user's credentials for registries, where Docker and the tools of containers keep them.
//!
//! | file | of |
//! |---|---|
//! | the one that the program or `REGISTRY_AUTH_FILE` names | the user |
//! | `${XDG_RUNTIME_DIR}/containers/auth.json`, else `/run/containers/UID/auth.json`; `~/.config/containers/auth.json` | podman, skopeo, buildah |
//! | `${DOCKER_CONFIG}/config.json`, else `~/.docker/config.json` | Docker |
//!
//! They are read anew each time somebody has to say who they are: credentials that expire are renewed there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use data_encoding::BASE64;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// The most bytes of a file that are read.
const FILE_MAX: u64 = 1024 * 1024;
/// The most bytes that a helper may say.
const HELPER_OUTPUT_MAX: u64 = 64 * 1024;
/// How long a helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
/// What a helper gives as the user's name if the secret is a token.
const TOKEN_USER: &str = "<token>";

/// What a user says to a registry.
#[derive(Clone, Eq, PartialEq)]
pub(crate) enum Credential {
    /// Name and password.
    Password(String, String),
    /// A token by which the registry's token server gives others.
    Identity(String),
}

/// Why credentials can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file that is there can't be read.
    #[error("cannot read the credentials in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what Docker and podman write. What stands there instead may be a secret.
    #[error("the credentials in {} are not as Docker and podman write them: line {line}, column {column}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line where that begins, from 1.
        line: usize,
        /// The column.
        column: usize,
    },
    /// The helper that a file names does not do what it should.
    #[error("the credential helper docker-credential-{helper} {problem}")]
    Helper {
        /// Its name in the file.
        helper: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where credentials are looked for.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    /// Whether somebody has named the file, who thinks that it is there.
    is_named: bool,
}

impl Credentials {
    /// In the places where the user's tools keep them; in `file` alone, if there is one.
    pub fn of_user(file: Option<PathBuf>) -> Self {
        let variable = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        if let Some(file) = file.or_else(|| std::env::var_os("REGISTRY_AUTH_FILE").map(Into::into))
        {
            return Credentials {
                files: vec![file],
                is_named: true,
            };
        }
        let home = variable("HOME");
        let in_home = |name| home.as_ref().map(|home| home.join(name));
        let files = [
            variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            own_uid().map(|uid| PathBuf::from(format!("/run/containers/{uid}/auth.json"))),
            variable("XDG_CONFIG_HOME")
                .or_else(|| in_home(".config"))
                .map(|folder| folder.join("containers/auth.json")),
            variable("DOCKER_CONFIG")
                .or_else(|| in_home(".docker"))
                .map(|folder| folder.join("config.json")),
        ];
        Credentials {
            files: files.into_iter().flatten().collect(),
            is_named: false,
        }
    }

    /// Nowhere: everybody is asked without a name.
    pub fn none() -> Self {
        Credentials::default()
    }

    /// The credential for a repository of a registry, if there is one.
    pub(crate) async fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        for path in &self.files {
            let text = match read(path) {
                Ok(text) => text,
                // Of those that may be there. What is not ours is root's, for whoever became another user since.
                Err(error) if !self.is_named && is_absent(&error) => continue,
                Err(source) => {
                    return Err(CredentialsError::File {
                        path: path.clone(),
                        source,
                    })
                }
            };
            let config: Config =
                serde_json::from_slice(&text).map_err(|error| CredentialsError::Invalid {
                    path: path.clone(),
                    line: error.line(),
                    column: error.column(),
                })?;
            if let Some(found) = config.find(registry, repository).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The user of this process; the file of another one is not ours to read anyway.
fn own_uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata("/proc/self").ok()?.uid())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // To open a pipe is to wait for who writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// The form of the files.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Config {
    async fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        if let Some(helper) = self.cred_helpers.get(registry) {
            return ask_helper(helper, registry).await;
        }
        if let Some(credential) = self.entry(registry, repository).and_then(Entry::credential) {
            return Ok(Some(credential));
        }
        match &self.creds_store {
            Some(helper) => ask_helper(helper, &server_name(registry)).await,
            None => Ok(None),
        }
    }

    /// The entry for the longest beginning of `REGISTRY/REPOSITORY`, as podman writes them; Docker writes URLs.
    fn entry(&self, registry: &str, repository: &str) -> Option<&Entry> {
        let full = format!("{registry}/{repository}");
        let mut name = full.as_str();
        loop {
            if let Some(entry) = self.auths.get(name) {
                return Some(entry);
            }
            match name.rsplit_once('/') {
                Some((shorter, _)) => name = shorter,
                None => break,
            }
        }
        let host_of = |key: &str| {
            let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
            rest.split('/').next().unwrap_or_default().to_owned()
        };
        let is_url = |key: &str| key.contains("://");
        let mut entries = self.auths.iter();
        let found = entries.find(|(key, _)| {
            **key == server_name(registry) || is_url(key) && host_of(key) == registry
        });
        found.map(|(_, entry)| entry)
    }
}

/// What Docker calls a registry in its files and to its helpers.
fn server_name(registry: &str) -> String {
    match registry {
        "docker.io" => "https://index.docker.io/v1/".to_owned(),
        other => other.to_owned(),
    }
}

impl Entry {
    fn credential(&self) -> Option<Credential> {
        let is_text = |text: &&String| !text.is_empty();
        if let Some(token) = self.identitytoken.as_ref().filter(is_text) {
            return Some(Credential::Identity(token.clone()));
        }
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Some(Credential::Password(user.clone(), password.clone()));
        }
        let decoded = BASE64.decode(self.auth.as_ref().filter(is_text)?.as_bytes());
        let text = String::from_utf8(decoded.ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        let password = password.trim_end_matches('\0');
        Some(Credential::Password(user.to_owned(), password.to_owned()))
    }
}

/// What a helper says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    username: String,
    secret: String,
}

/// Asks a helper (docker/docker-credential-helpers): the server's name on its standard input, JSON on its output.
async fn ask_helper(helper: &str, server: &str) -> Result<Option<Credential>, CredentialsError> {
    let failed = |problem: String| CredentialsError::Helper {
        helper: helper.chars().take(80).collect(),
        problem,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if helper.is_empty() || !helper.bytes().all(is_name) {
        return Err(failed("can't be called so".to_owned()));
    }
    let ask = async {
        let mut process = Command::new(format!("docker-credential-{helper}"))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = process.stdin.take() {
            // One that does not read it says why by its status.
            let _ = input.write_all(format!("{server}\n").as_bytes()).await;
        }
        let mut said = Vec::new();
        if let Some(output) = process.stdout.take() {
            output
                .take(HELPER_OUTPUT_MAX)
                .read_to_end(&mut said)
                .await?;
        }
        Ok::<_, io::Error>((process.wait().await?, said))
    };
    let (status, said) = match timeout(HELPER_TIMEOUT, ask).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => return Err(failed(format!("cannot be run: {error}"))),
        Err(_) => return Err(failed(format!("does not end within {HELPER_TIMEOUT:?}"))),
    };
    if !status.success() {
        // Its way to say that it has none.
        let text = String::from_utf8_lossy(&said);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("ends with {status}")));
    }
    let said: Said = serde_json::from_slice(&said)
        .map_err(|_| failed("says something that is not understood".to_owned()))?;
    Ok(match (said.username.as_str(), said.secret) {
        ("", secret) if secret.is_empty() => None,
        (TOKEN_USER, secret) => Some(Credential::Identity(secret)),
        (_, secret) => Some(Credential::Password(said.username, secret)),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password(user.to_owned(), password.to_owned()))
    }

    async fn find(text: &str, registry: &str, repository: &str) -> Option<Credential> {
        let config: Config = serde_json::from_str(text).unwrap();
        config.find(registry, repository).await.unwrap()
    }

    impl std::fmt::Debug for Credential {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Credential::Password(user, _) => write!(f, "{user}"),
                Credential::Identity(_) => f.write_str("a token"),
            }
        }
    }

    #[tokio::test]
    async fn files_of_docker_and_podman_are_understood() {
        let text = format!(
            r#"{{"auths":{{
                "registry.example":{{"auth":"{}"}},
                "registry.example/team":{{"username":"t","password":"p:q"}},
                "https://index.docker.io/v1/":{{"identitytoken":"x"}},
                "https://old.example/v1/":{{"auth":"{}"}},
                "empty.example":{{}}}}}}"#,
            BASE64.encode(b"u:secret"),
            BASE64.encode(b"o:")
        );
        for (registry, repository, expected) in [
            ("registry.example", "a/b", password("u", "secret")),
            ("registry.example", "team/b", password("t", "p:q")),
            ("registry.example", "teams", password("u", "secret")),
            (
                "docker.io",
                "library/a",
                Some(Credential::Identity("x".to_owned())),
            ),
            ("old.example", "a", password("o", "")),
            ("empty.example", "a", None),
            ("other.example", "a", None),
            ("example", "a", None),
        ] {
            assert_eq!(
                find(&text, registry, repository).await,
                expected,
                "{registry}"
            );
        }
    }

    #[tokio::test]
    async fn a_file_that_is_named_has_to_be_there_and_none_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let find = |path: PathBuf, is_named| async move {
            let files = vec![path];
            let credentials = Credentials { files, is_named };
            let found = credentials.find("a.example", "x").await;
            found.map_err(|error| peerfs_text::Causes(&error).to_string())
        };
        // Nothing of what is in it is told.
        let wrong = folder.path().join("wrong");
        let text = "{\"auths\":\n{\"a.example\":\"c2VjcmV0\"}}";
        fs::write(&wrong, text).unwrap();
        let error = find(wrong, true).await.unwrap_err();
        assert!(
            error.contains("line 2") && !error.contains("c2VjcmV0"),
            "{error}"
        );
        let missing = folder.path().join("missing");
        assert_eq!(find(missing.clone(), false).await, Ok(None));
        for path in [missing, pipe] {
            let error = find(path.clone(), true).await.unwrap_err();
            let name = path.display().to_string();
            assert!(error.contains(&name), "{error}");
        }
    }

    #[tokio::test]
    async fn helpers_are_asked_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let helper = |name: &str, script: &str| {
            let path = folder.path().join(format!("docker-credential-{name}"));
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        helper(
            "good",
            r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"of $server\",\"Secret\":\"s\"}""#,
        );
        helper(
            "none",
            "echo 'credentials not found in native keychain'; exit 1",
        );
        helper("broken", "exit 3");
        helper("endless", "exec yes");
        let path = std::env::var("PATH").unwrap();
        std::env::set_var("PATH", format!("{}:{path}", folder.path().display()));
        let ask = |name: &str| {
            let text = format!(r#"{{"credHelpers":{{"a.example":"{name}"}}}}"#);
            async move {
                let config: Config = serde_json::from_str(&text).unwrap();
                config.find("a.example", "x").await
            }
        };
        assert_eq!(ask("good").await.unwrap(), password("of a.example", "s"));
        assert_eq!(ask("none").await.unwrap(), None);
        for (name, problem) in [
            ("broken", "ends with exit status: 3"),
            ("endless", "ends with signal"),
            ("gone", "cannot be run"),
            ("../good", "can't be called so"),
        ] {
            let error = ask(name).await.unwrap_err().to_string();
            assert!(error.contains(problem), "{name}: {error}");
        }
        let store = r#"{"credsStore":"good"}"#;
        let of_docker = find(store, "docker.io", "library/a").await;
        assert_eq!(of_docker, password("of https://index.docker.io/v1/", "s"));
    }
}
