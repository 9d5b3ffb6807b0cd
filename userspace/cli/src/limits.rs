// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a command asks of the system before it begins with long work.

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// Raises the number of open files as far as it goes: each thread keeps some files and directories open.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it can't be raised, few threads can do without.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
