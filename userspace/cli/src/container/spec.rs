// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a container runtime is told: `config.json` of OCI's runtime specification, version 1.0.2.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use peerfs_store::RuntimeConfig;
use serde_json::{json, Value};

use super::user::{Accounts, User};
use crate::error::{Error, Result};

/// The capabilities that containers have with other tools as well.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// What of `/proc` and `/sys` would tell of the machine, or change it.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// Where programs are looked for if the image does not say it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a container on the machine's network needs to know of it.
const NETWORK_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The network of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Network {
    /// The machine's.
    Host,
    /// None but its own loopback.
    None,
}

/// A file or directory of the machine that a container sees.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Bind {
    source: PathBuf,
    target: String,
    is_read_only: bool,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut parts = text.split(':');
        let (source, target, access) = (parts.next(), parts.next(), parts.next());
        let (Some(source), Some(target), None) = (source, target, parts.next()) else {
            return Err("must be SOURCE:TARGET or SOURCE:TARGET:ro".to_owned());
        };
        if !source.starts_with('/') || !target.starts_with('/') {
            return Err("both paths must be absolute".to_owned());
        }
        let is_read_only = match access {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(_) => return Err("what follows the second path must be ro or rw".to_owned()),
        };
        Ok(Bind {
            source: source.into(),
            target: target.to_owned(),
            is_read_only,
        })
    }
}

/// What the user wants otherwise than the image.
pub(super) struct Settings<'a> {
    pub(super) env: &'a [String],
    pub(super) workdir: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) entrypoint: Option<&'a str>,
    pub(super) command: &'a [String],
    pub(super) binds: &'a [Bind],
    pub(super) is_read_only: bool,
    pub(super) network: Network,
    /// Whether root is that of a user namespace alone.
    pub(super) is_rootless: bool,
    pub(super) has_terminal: bool,
    pub(super) name: &'a str,
}

/// What the runtime is told of a container with this root directory.
///
/// # Errors
/// [`Error::Container`] if there is nothing to run, or nobody of that name to run it as.
pub(super) fn make(config: &RuntimeConfig, settings: &Settings<'_>, root: &Path) -> Result<Value> {
    let image_user = config.user().as_deref().unwrap_or_default();
    let user = Accounts::read(root).find(settings.user.unwrap_or(image_user));
    let user = user.map_err(Error::Run)?;
    let arguments = arguments(config, settings)?;
    let own_env = |name: &str| std::env::var(name).ok();
    let env = environment(config, settings, &user, own_env);
    let workdir = config
        .working_dir()
        .as_deref()
        .filter(|dir| !dir.is_empty());
    let workdir = settings.workdir.or(workdir).unwrap_or("/");
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if settings.network == Network::None {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> = namespaces
        .iter()
        .map(|name| json!({ "type": name }))
        .collect();
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": settings.has_terminal,
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
            "args": arguments,
            "env": env,
            "cwd": workdir,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": false,
        },
        "root": { "path": "rootfs", "readonly": settings.is_read_only },
        "hostname": settings.name,
        "mounts": mounts(settings),
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    }))
}

/// What is run: as other tools have it, a command replaces the image's, and an entry point both.
fn arguments(config: &RuntimeConfig, settings: &Settings<'_>) -> Result<Vec<String>> {
    let entrypoint = match settings.entrypoint {
        Some("") => Vec::new(),
        Some(entrypoint) => vec![entrypoint.to_owned()],
        None => config.entrypoint().clone().unwrap_or_default(),
    };
    let command = match (settings.command, settings.entrypoint) {
        ([], None) => config.cmd().clone().unwrap_or_default(),
        (command, _) => command.to_vec(),
    };
    let arguments = [entrypoint, command].concat();
    if arguments.is_empty() {
        let problem = "the image says nothing of what to run; name a command after it";
        return Err(Error::Run(problem.to_owned()));
    }
    Ok(arguments)
}

/// The environment: the image's, then the user's.
fn environment(
    config: &RuntimeConfig,
    settings: &Settings<'_>,
    user: &User,
    own: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |variable: String| {
        let name = variable.split('=').next().unwrap_or_default().to_owned();
        env.retain(|other| other.split('=').next() != Some(&name));
        env.push(variable);
    };
    set(PATH.to_owned());
    set(format!("HOSTNAME={}", settings.name));
    set(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    if settings.has_terminal {
        set("TERM=xterm".to_owned());
    }
    config.env().iter().flatten().cloned().for_each(&mut set);
    for variable in settings.env {
        match (variable.contains('='), own(variable)) {
            (true, _) => set(variable.clone()),
            (false, Some(value)) => set(format!("{variable}={value}")),
            // As other tools have it: what is not set here is not set there.
            (false, None) => (),
        }
    }
    env
}

fn mounts(settings: &Settings<'_>) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let bind = |source: &dyn Display, target: &str, access: &str| {
        json!({
            "destination": target, "type": "bind", "source": source.to_string(),
            "options": ["rbind", "rprivate", access],
        })
    };
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"];
    mounts.push(match settings.is_rootless && settings.network == Network::Host {
        // Not the machine's own, under which others are mounted that could be written: its control groups.
        false => mount("/sys", "sysfs", &options[2..]),
        // It belongs to the network, which is not the user's; nor are the control groups.
        true => json!({ "destination": "/sys", "type": "bind", "source": "/sys", "options": options }),
    });
    if settings.network == Network::Host {
        let files = NETWORK_FILES.iter().filter(|file| Path::new(file).exists());
        mounts.extend(files.map(|file| bind(file, file, "ro")));
    }
    mounts.extend(settings.binds.iter().map(|one| {
        let access = if one.is_read_only { "ro" } else { "rw" };
        bind(&one.source.display(), &one.target, access)
    }));
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> RuntimeConfig {
        serde_json::from_str(text).unwrap()
    }

    const NOTHING: Settings<'static> = Settings {
        env: &[],
        workdir: None,
        user: None,
        entrypoint: None,
        command: &[],
        binds: &[],
        is_read_only: false,
        network: Network::Host,
        is_rootless: false,
        has_terminal: false,
        name: "c",
    };

    #[test]
    fn a_command_replaces_the_images_and_an_entry_point_both() {
        let config = config(r#"{"Entrypoint":["/init","-x"],"Cmd":["serve"]}"#);
        let run = |entrypoint: Option<&str>, command: &[&str]| {
            let command: Vec<String> = command.iter().map(ToString::to_string).collect();
            let settings = Settings {
                entrypoint,
                command: &command,
                ..NOTHING
            };
            arguments(&config, &settings)
                .map(|arguments| arguments.join(" "))
                .ok()
        };
        assert_eq!(run(None, &[]).as_deref(), Some("/init -x serve"));
        assert_eq!(run(None, &["-h"]).as_deref(), Some("/init -x -h"));
        assert_eq!(run(Some("sh"), &[]).as_deref(), Some("sh"));
        assert_eq!(run(Some(""), &["ls", "/"]).as_deref(), Some("ls /"));
        assert_eq!(run(Some(""), &[]), None);
    }

    #[test]
    fn later_variables_replace_earlier_ones() {
        let config = config(r#"{"Env":["PATH=/bin","A=1","B=x=y"]}"#);
        let env = ["A=2".to_owned(), "HERE".to_owned(), "NOT_HERE".to_owned()];
        let settings = Settings {
            env: &env,
            ..NOTHING
        };
        let user = Accounts::default().find("").unwrap();
        let own = |name: &str| (name == "HERE").then(|| "yes".to_owned());
        let env = environment(&config, &settings, &user, own);
        assert_eq!(
            env,
            [
                "HOSTNAME=c",
                "HOME=/",
                "PATH=/bin",
                "B=x=y",
                "A=2",
                "HERE=yes"
            ]
        );
    }

    #[test]
    fn a_bind_has_two_absolute_paths() {
        let bind: Bind = "/a:/b:ro".parse().unwrap();
        assert!(bind.is_read_only && bind.target == "/b");
        for text in ["/a", "a:/b", "/a:b", "/a:/b:x", "/a:/b:ro:z"] {
            assert!(text.parse::<Bind>().is_err(), "{text}");
        }
    }
}
