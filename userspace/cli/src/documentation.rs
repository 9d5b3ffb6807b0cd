// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Completions and man pages, from the definition of the command line.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::output::Output;

/// Prints completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "peerfs", &mut script);
    let mut output = Output::new();
    output.bytes(&script)?;
    output.finish()
}

/// Writes `peerfs.1`, a page for each subcommand, and `mount.peerfs.8`.
pub(crate) fn man_pages(directory: &Path) -> Result<()> {
    let write = || {
        fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Arguments::command(), directory)?;
        let helper = clap_mangen::Man::new(crate::mount_helper::command()).section("8");
        helper.render(&mut fs::File::create(directory.join("mount.peerfs.8"))?)
    };
    write().map_err(|source| Error::Write {
        path: directory.to_owned(),
        source,
    })
}
