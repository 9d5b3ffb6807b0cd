// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Ordinary users, who are root in a user namespace over what is theirs.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::geteuid;

use crate::error::{Error, Result};

/// What a map of ids is where all are as they are.
const ALL_IDS: [&str; 3] = ["0", "0", "4294967295"];

/// What goes on with a command in a user namespace.
pub(crate) struct Entrance {
    pub(crate) program: &'static str,
    /// Its options, up to the command.
    pub(crate) options: &'static [&'static str],
    /// The package that has it.
    pub(crate) package: &'static str,
}

/// Whether this process is not the machine's root, though it may be that of a user namespace.
pub(crate) fn is_users() -> bool {
    !geteuid().is_root() || is_in_user_namespace()
}

/// Whether ids are others here than those of the machine.
pub(crate) fn is_in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.split_whitespace().eq(ALL_IDS))
}

/// Root's folder of this name for data, or the user's.
pub(crate) fn data_folder(name: &str) -> PathBuf {
    own_folder("/var/lib", "XDG_DATA_HOME", Some(".local/share")).join(name)
}

/// Root's folder of this name for what is needed until the machine is started again, or the user's.
pub(crate) fn run_folder(name: &str) -> PathBuf {
    own_folder("/run", "XDG_RUNTIME_DIR", None).join(name)
}

fn own_folder(of_root: &str, variable: &str, in_home: Option<&str>) -> PathBuf {
    let folder = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = || Some(folder("HOME")?.join(in_home?));
    let of_user = is_users().then(|| folder(variable).or_else(home)).flatten();
    of_user.unwrap_or_else(|| of_root.into())
}

/// Goes on as root: an ordinary user's process begins again in a user namespace.
///
/// # Errors
/// [`Error::Program`] if it can't.
pub(crate) fn be_root(entrance: &Entrance) -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let own = env::current_exe().map_err(|source| Error::Read {
        path: "/proc/self/exe".into(),
        source,
    })?;
    let mut command = Command::new(entrance.program);
    command
        .args(entrance.options)
        .arg(own)
        .args(env::args_os().skip(1));
    Err(Error::Program {
        program: entrance.program,
        package: entrance.package,
        source: command.exec(),
    })
}
