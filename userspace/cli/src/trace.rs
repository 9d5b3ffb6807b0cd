// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs trace` and `peerfs warm`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use peerfs_control::{Reply, Request};
use peerfs_format::upcall::Workload;
use peerfs_format::Digest;
use peerfs_registry::Remote;
use peerfs_store::{printable, Reference, Store};
use peerfs_sys::interrupt;
use peerfs_text::Causes;
use peerfs_trace::{NoTrace, Part, Trace, TRACE_MAX};
use serde::Serialize;

use crate::arguments::{DaemonArguments, RegistryArguments, StoreArguments};
use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::output::{tell, Align, Output};
use crate::push::{block_on, options};

/// Show, copy and remove what was missed of images when they were started.
///
/// While an image is mounted that is not all here, peerfsd notes what its readers miss, in order, for each image and each
/// workload (the mount option workload=NAME), and has that on its way before anybody asks the next time that the image is
/// mounted. A trace that is copied to another machine spares its readers the waiting the first time.
#[derive(Args)]
pub(crate) struct TraceArguments {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Subcommand)]
enum TraceCommand {
    /// List the traces of a store: image, workload, steps, and chunks that they name.
    List {
        #[command(flatten)]
        store: StoreArguments,
        /// Print each as a line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what a trace names, in order: milliseconds after the first miss, and what was missed.
    Show {
        #[command(flatten)]
        which: WhichArguments,
        /// Print each step as a line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a trace to a file, or to standard output (-), to be imported elsewhere.
    Export {
        #[command(flatten)]
        which: WhichArguments,
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Add a trace from a file, or from standard input (-), to what the store knows. Prints its image.
    ///
    /// It is a hint: what it names is fetched early when the image is mounted, 256 MiB at most, and what it does not name
    /// comes when it is read.
    Import {
        #[command(flatten)]
        store: StoreArguments,
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Put a trace into the registry that the image is in.
    ///
    /// Who pulls the image from there gets it, too, unless more is known of the image there already. It takes the place of one for the
    /// same workload. Prints the digest of the image's manifest.
    Push {
        #[command(flatten)]
        which: WhichArguments,
        /// The repository, REGISTRY/NAME; by default that of IMAGE.
        #[arg(value_name = "DESTINATION")]
        destination: Option<Reference>,
        #[command(flatten)]
        registry: RegistryArguments,
    },
    /// Remove a trace.
    Rm {
        #[command(flatten)]
        which: WhichArguments,
    },
}

/// A trace of a store.
#[derive(Args)]
struct WhichArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// The image: a digest, or a tag of the store (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// What the image was mounted for; without it, mounts that were for nothing in particular.
    #[arg(long, value_name = "NAME", value_parser = parse_workload)]
    workload: Option<Workload>,
}

/// Bring what was missed of an image when it was started before.
///
/// Has a running peerfsd fetch what the trace of the image names (`peerfs trace`), 256 MiB at most, and waits for it. Prints
/// the digest of the image's manifest.
#[derive(Args)]
pub(crate) struct WarmArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The image: a digest, or a tag of the store (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// What it is to be started for; without it, nothing in particular.
    #[arg(long, value_name = "WORKLOAD", value_parser = parse_workload)]
    trace: Option<Workload>,
}

pub(crate) fn parse_workload(text: &str) -> std::result::Result<Workload, String> {
    Workload::new(text).ok_or_else(|| {
        "it must have 1 to 31 letters, digits, `.`, `_` and `-`, and begin with a letter or digit"
            .to_owned()
    })
}

/// Does what is asked with traces.
pub(crate) fn run(arguments: &TraceArguments) -> Result<()> {
    match &arguments.command {
        TraceCommand::List { store, json } => list(store, *json),
        TraceCommand::Show { which, json } => show(which, *json),
        TraceCommand::Export { which, file } => export(which, file),
        TraceCommand::Import { store, file } => import(store, file),
        TraceCommand::Push {
            which,
            destination,
            registry,
        } => push(which, destination.as_ref(), registry),
        TraceCommand::Rm { which } => remove(which),
    }
}

/// Has the daemon bring what a trace names.
pub(crate) fn warm(arguments: &WarmArguments) -> Result<()> {
    let request = Request::Warm {
        image: arguments.image.to_string(),
        workload: arguments
            .trace
            .and_then(|workload| workload.name().map(str::to_owned)),
    };
    let _ = interrupt::watch();
    let mut conversation = Conversation::open(&arguments.daemon.socket, &request)?;
    loop {
        match conversation.next(interrupt::is_requested)? {
            None => return Err(Error::Cancelled),
            Some(Reply::Progress(_)) => continue,
            Some(Reply::Warmed {
                image,
                steps,
                left_out,
            }) => {
                if left_out > 0 {
                    tell(&format!(
                        "peerfs: {left_out} of {steps} steps of the trace did not come"
                    ));
                }
                let mut output = Output::new();
                output.line(&printable(&image).to_string())?;
                return output.finish();
            }
            Some(Reply::Error(problem)) => return Err(Error::Refused(problem)),
            Some(_) => return Err(Error::UnexpectedReply),
        }
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    steps: usize,
    chunks: u64,
}

fn list(store: &StoreArguments, is_json: bool) -> Result<()> {
    let store = Store::open(&store.root_dir)?;
    let mut all = store.traces()?;
    all.sort_by_key(|(image, workload)| (*image, workload.name().map(str::to_owned)));
    let (mut output, mut rows) = (Output::new(), Vec::new());
    for (image, workload) in all {
        let trace = match store.trace(&image, workload) {
            Ok(Some(trace)) => trace,
            // It may just have been removed.
            Ok(None) => continue,
            // One that is damaged hides no other.
            Err(error) => {
                tell(&format!("peerfs: {}", Causes(&error)));
                continue;
            }
        };
        let listed = Listed {
            image: image.to_string(),
            workload: workload.name(),
            steps: trace.steps.len(),
            chunks: trace.chunks(),
        };
        if is_json {
            output.json(&listed)?;
        } else {
            let workload = listed.workload.unwrap_or("-").to_owned();
            let (steps, chunks) = (listed.steps, listed.chunks);
            rows.push([
                listed.image,
                workload,
                format!("{steps} steps"),
                format!("{chunks} chunks"),
            ]);
        }
    }
    let columns = [Align::Left, Align::Left, Align::Right, Align::Right];
    output.table(columns, &rows)?;
    output.finish()
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Shown {
    Shard(u32),
    Chunks { pack: u32, first: u32, count: u32 },
}

#[derive(Serialize)]
struct ShownStep {
    after_ms: u128,
    #[serde(flatten)]
    part: Shown,
}

fn show(which: &WhichArguments, is_json: bool) -> Result<()> {
    let trace = which.read()?;
    let mut output = Output::new();
    for step in trace.steps {
        let after_ms = step.after.as_millis();
        if is_json {
            let part = match step.part {
                Part::Shard(number) => Shown::Shard(number),
                Part::Chunks { pack, first, count } => Shown::Chunks { pack, first, count },
            };
            output.json(&ShownStep { after_ms, part })?;
        } else {
            let part = match step.part {
                Part::Shard(number) => format!("shard {number}"),
                Part::Chunks {
                    pack,
                    first,
                    count: 1,
                } => format!("pack {pack}, chunk {first}"),
                Part::Chunks { pack, first, count } => {
                    let last = u64::from(first) + u64::from(count) - 1;
                    format!("pack {pack}, chunks {first} to {last}")
                }
            };
            output.line(&format!("{after_ms:>8} ms  {part}"))?;
        }
    }
    output.finish()
}

fn export(which: &WhichArguments, file: &PathBuf) -> Result<()> {
    let trace = which.read()?;
    let bytes = trace.encode();
    if file.as_os_str() == "-" {
        let mut output = Output::new();
        output.bytes(&bytes)?;
        return output.finish();
    }
    fs::write(file, &bytes).map_err(|source| Error::Write {
        path: file.clone(),
        source,
    })
}

fn import(store: &StoreArguments, file: &PathBuf) -> Result<()> {
    let bytes = read_trace(file).map_err(|source| Error::Read {
        path: file.clone(),
        source,
    })?;
    let trace = Trace::parse(&bytes).map_err(|source| Error::Trace {
        path: file.clone(),
        source,
    })?;
    let store = Store::create(&store.root_dir)?;
    store.add_trace(&trace)?;
    let mut output = Output::new();
    output.line(&trace.image.to_string())?;
    output.finish()
}

/// The bytes of a file that may be a trace, and one more if it has more than one may have.
fn read_trace(file: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        io::stdin().take(TRACE_MAX + 1).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?
            .take(TRACE_MAX + 1)
            .read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn push(
    which: &WhichArguments,
    destination: Option<&Reference>,
    registry: &RegistryArguments,
) -> Result<()> {
    let Reference::Registry(repository) = destination.unwrap_or(&which.image) else {
        let problem = "say which repository of a registry the image is in, such as registry.example/team/name";
        return Err(Error::Destination(problem.to_owned()));
    };
    let trace = which.read()?;
    let remote = Remote::repository(repository, &options(registry))?;
    block_on(remote.put_trace(&trace))?;
    let mut output = Output::new();
    output.line(&trace.image.to_string())?;
    output.finish()
}

fn remove(which: &WhichArguments) -> Result<()> {
    let (store, image, workload) = which.resolve()?;
    match store.remove_trace(&image, workload)? {
        true => Ok(()),
        false => Err(NoTrace { image, workload }.into()),
    }
}

impl WhichArguments {
    /// The store, and what the trace is of.
    fn resolve(&self) -> Result<(Store, Digest, Workload)> {
        let store = Store::open(&self.store.root_dir)?;
        let image = store.resolve(&self.image)?;
        Ok((store, image, self.workload.unwrap_or_default()))
    }

    fn read(&self) -> Result<Trace> {
        let (store, image, workload) = self.resolve()?;
        let trace = store.trace(&image, workload)?;
        trace.ok_or_else(|| NoTrace { image, workload }.into())
    }
}
