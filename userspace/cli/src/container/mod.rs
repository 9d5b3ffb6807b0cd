// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs run`, `commit` and `containers`: a container over an image that comes while it runs.
//!
//! | module | what is in it |
//! |---|---|
//! | `state` | the containers that there are, and what belongs to each |
//! | `files` | what a container sees: the image, and over it what it writes |
//! | `user` | who its program runs as |
//! | `spec` | what the runtime is told |
//! | `runtime` | the program that makes it: runc or crun |

mod files;
mod runtime;
mod spec;
mod state;
mod user;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use peerfs_build::DirectorySource;
use peerfs_format::Digest;
use peerfs_oci::ContainerConfig;
use peerfs_store::{printable, Reference, Store};
use peerfs_sys::interrupt;
use serde::Serialize;

use crate::arguments::{MakeArguments, StoreArguments};
use crate::build::{Maker, Origin};
use crate::error::{Error, Result};
use crate::mount::check_policy;
use crate::output::{tell, Output};
use crate::pull;
use crate::rootless::{be_root, is_in_user_namespace, Entrance};
use files::Files;
use runtime::Runtime;
use spec::{Bind, Network, Settings};
use state::{Containers, Record};

/// What an ordinary user's containers are in, with the user's further ids (subuid(5)).
const USERS: Entrance = Entrance {
    program: "unshare",
    options: &["--user", "--map-root-user", "--map-auto", "--mount", "--"],
    package: "util-linux",
};

/// Run a program of an image in a container.
///
/// It starts at once; what it reads of the image is fetched meanwhile. What it writes is the container's own, and stays when it
/// has ended unless --rm is given: `peerfs commit` makes an image of it. The exit status is the program's; 125 if the container
/// could not be made.
#[derive(Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Where peerfsd listens.
    #[arg(long, value_name = "PATH", default_value = peerfs_control::DEFAULT_SOCKET, value_hint = ValueHint::FilePath)]
    socket: PathBuf,
    /// Where containers are kept [default: /var/lib/peerfs-containers, for ordinary users ~/.local/share/peerfs-containers].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    containers: Option<PathBuf>,
    /// What to call the container; by default a random name, which is printed if the container stays.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Remove the container when its program has ended.
    #[arg(long)]
    rm: bool,
    /// Let the program read the standard input.
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Set a variable of its environment; without a value, to that of this one.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The directory that it starts in.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Who it runs as, by name or number.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// What it runs in place of the image's entry point.
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Mount a file or directory of this machine.
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    volume: Vec<Bind>,
    /// Mount the root read-only.
    #[arg(long)]
    read_only: bool,
    /// The machine's network, or none.
    #[arg(long, value_name = "NETWORK", default_value = "host")]
    network: Network,
    /// The container runtime [default: runc or crun, whichever is installed].
    #[arg(long, value_name = "PROGRAM", value_hint = ValueHint::CommandName)]
    runtime: Option<PathBuf>,
    /// Mount options for the image, such as `fuse`.
    #[arg(short = 'o', value_name = "OPTIONS")]
    mount_options: Vec<std::ffi::OsString>,
    /// The image: a tag of the store, a digest, or an image of a registry.
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// What to run in place of the image's command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Make an image of a container.
///
/// It has what the container's program saw when it ended, and runs as that container's image did. The container must not be running.
/// All of its image is read, and so fetched if it is not here; what is in the store already is not stored again.
#[derive(Args)]
pub(crate) struct CommitArguments {
    /// Where containers are kept [default: /var/lib/peerfs-containers, for ordinary users ~/.local/share/peerfs-containers].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    containers: Option<PathBuf>,
    /// The container.
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[command(flatten)]
    make: MakeArguments,
}

/// List containers that `peerfs run` has made, or remove some.
#[derive(Args)]
pub(crate) struct ContainersArguments {
    /// Where containers are kept [default: /var/lib/peerfs-containers, for ordinary users ~/.local/share/peerfs-containers].
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    containers: Option<PathBuf>,
    /// Print a line of JSON for each.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Remove containers with what they have written. Running ones are refused.
    Rm {
        /// The containers.
        #[arg(required = true, value_name = "CONTAINER")]
        names: Vec<String>,
    },
}

/// A line of `peerfs containers --json`.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    image: &'a str,
    manifest: String,
    running: bool,
}

/// Runs a container. Returns its program's exit status.
pub(crate) fn run(arguments: &RunArguments) -> Result<u8> {
    be_root(&USERS)?;
    let (store, manifest) = find_image(
        &arguments.store.root_dir,
        &arguments.image,
        &arguments.socket,
    )?;
    let origin = origin_of(&store, &arguments.image, &manifest)?;
    let runtime = Runtime::find(arguments.runtime.as_deref())?;
    runtime.check(origin.architecture.as_ref())?;
    let containers = Containers::open(arguments.containers.as_deref())?;
    let record = Record {
        image: arguments.image.to_string(),
        manifest: manifest.to_string(),
        root_dir: absolute(&arguments.store.root_dir)?,
        socket: absolute(&arguments.socket)?,
        runtime: runtime.program().to_owned(),
    };
    let container = containers.add(arguments.name.as_deref(), &record)?;
    let mut unmounted = Ok(());
    let ended = container.keep_image(&store, &manifest).and_then(|()| {
        let files = Files::mount(&container, &record, &arguments.mount_options)?;
        let settings = Settings {
            env: &arguments.env,
            workdir: arguments.workdir.as_deref(),
            user: arguments.user.as_deref(),
            entrypoint: arguments.entrypoint.as_deref(),
            command: &arguments.command,
            binds: &arguments.volume,
            is_read_only: arguments.read_only,
            network: arguments.network,
            is_rootless: is_in_user_namespace(),
            has_terminal: arguments.tty,
            name: container.name(),
        };
        let spec = spec::make(&origin.config, &settings, files.root())?;
        container.write_spec(&spec)?;
        let ended = runtime.run(
            container.bundle(),
            container.name(),
            arguments.interactive || arguments.tty,
        );
        unmounted = files.unmount();
        ended
    });
    // One that never began has nothing to keep.
    if arguments.rm || ended.is_err() {
        container.remove(Some(&store))?;
    } else if arguments.name.is_none() {
        tell(&format!(
            "the container {} stays; `peerfs commit` makes an image of it",
            container.name()
        ));
    }
    unmounted?;
    ended
}

/// Makes an image of a container.
pub(crate) fn commit(arguments: &CommitArguments) -> Result<()> {
    be_root(&USERS)?;
    let containers = Containers::open(arguments.containers.as_deref())?;
    let container = containers.take(&arguments.container)?;
    let record = container.record()?;
    let store = Store::open(&record.root_dir)?;
    let manifest: Digest = record.manifest.parse().map_err(|_| {
        Error::Run(format!(
            "the record of the container {} is damaged",
            arguments.container
        ))
    })?;
    let origin = origin_of(&store, &Reference::Digest(manifest), &manifest)?;
    let files = Files::mount(&container, &record, &[])?;
    let made = Maker::new(&arguments.make).and_then(|maker| {
        let source = DirectorySource::new(files.root(), &maker.store).one_file_system(true);
        maker.make(source, &origin, |_| ())
    });
    files.unmount()?;
    made.map(drop)
}

/// Lists containers, or removes some.
pub(crate) fn containers(arguments: &ContainersArguments) -> Result<()> {
    be_root(&USERS)?;
    let containers = Containers::open(arguments.containers.as_deref())?;
    if let Some(Action::Rm { names }) = &arguments.action {
        for name in names {
            let container = containers.take(name)?;
            // Of one that was not made or not removed to its end there may be nothing else, and the store may be gone.
            let record = container.record();
            let store = record.and_then(|record| Ok(Store::open(&record.root_dir)?));
            container.remove(store.ok().as_ref())?;
        }
        return Ok(());
    }
    let mut output = Output::new();
    for (name, record, is_running) in containers.list()? {
        if arguments.json {
            output.json(&Listed {
                name: &name,
                image: &record.image,
                manifest: record.manifest.clone(),
                running: is_running,
            })?;
        } else {
            let state = if is_running { "running" } else { "ended" };
            output.line(&format!("{name}  {state:7}  {}", printable(&record.image)))?;
        }
    }
    output.finish()
}

/// The image, of which at least what a mount needs is in the store then.
fn find_image(root_dir: &Path, image: &Reference, socket: &Path) -> Result<(Store, Digest)> {
    if let Ok(store) = Store::open(root_dir) {
        if let Ok(manifest) = store.resolve(image) {
            // A digest is known whether or not it is here.
            if store.has_blob(&manifest) {
                check_policy(&store, image, &manifest)?;
                return Ok((store, manifest));
            }
        }
    }
    let _ = interrupt::watch();
    let manifest = pull::to_run(socket, image)?;
    let store = Store::open(root_dir)?;
    if !store.has_blob(&manifest) {
        return Err(Error::Run(format!(
            "peerfsd has the image {} now, but in another store than {}; name its store with --root-dir",
            printable(&image.to_string()),
            printable(root_dir)
        )));
    }
    // What a name stands for peerfsd says by the policy.
    if let Reference::Registry(_) = image {
        check_policy(&store, image, &manifest)?;
    }
    Ok((store, manifest))
}

/// How the image's programs are run; nothing of it is known of one that came from peers by its digest.
fn origin_of(store: &Store, image: &Reference, manifest: &Digest) -> Result<Origin> {
    let Some(config) = store.oci_config(image, manifest)? else {
        return Ok(Origin::default());
    };
    let config = ContainerConfig::parse(&config).map_err(|source| {
        Error::Run(format!(
            "the image's configuration cannot be used: {source}"
        ))
    })?;
    Ok(Origin {
        architecture: Some(config.platform.architecture),
        config: config.runtime,
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
