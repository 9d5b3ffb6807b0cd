// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs-snapshotter`: see `peerfs-snapshotter --help`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{absolute, Path};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use peerfs_snapshotter::arguments::{man_page, Arguments};
use peerfs_snapshotter::messages::snapshots_server::SnapshotsServer;
use peerfs_snapshotter::{check_path, Images, Overlay, Service, Snapshots, Snapshotter};
use peerfs_sys::unix_socket;
use peerfs_text::Causes;
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing_subscriber::filter::LevelFilter;

/// Exit status of one that could not start or run.
const FAILED: u8 = 1;
/// How long requests may take to end when it is to end itself.
const END_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // Before anything else is opened, since what was passed is known by its number.
    let passed = peerfs_sys::activation::take();
    let arguments = Arguments::parse();
    if arguments.man {
        let printed = man_page().and_then(|page| io::stdout().write_all(&page));
        return match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(LevelFilter::INFO)
        .init();
    match run(arguments, passed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

/// Descriptors that systemd has passed, by name.
type Passed = io::Result<Vec<(String, OwnedFd)>>;

fn run(mut arguments: Arguments, passed: Passed) -> Result<(), Box<dyn Error>> {
    arguments.root = absolute(&arguments.root)?;
    arguments.root_dir = absolute(&arguments.root_dir)?;
    check_path(&arguments.root)?;
    let snapshots = Snapshots::open(&arguments.root)?;
    let passed = passed?.into_iter().map(|(_, descriptor)| descriptor).next();
    let is_passed = passed.is_some();
    let listener = match passed {
        Some(descriptor) => unix_socket::passed(descriptor)?,
        None => listen(&arguments.address)?,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(async {
        let images = Images::new(arguments.images());
        let overlay = Overlay::of_this_machine();
        let snapshotter = Arc::new(Snapshotter::new(snapshots, images, overlay));
        let listener = UnixListenerStream::new(UnixListener::from_std(listener)?);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        if let Err(error) = snapshotter.cleanup().await {
            tracing::warn!(error = %Causes(&error), "something of removed snapshots stays");
        }
        tokio::spawn({
            let snapshotter = Arc::clone(&snapshotter);
            async move { snapshotter.restore().await }
        });
        let (end, ended) = oneshot::channel::<()>();
        let service = SnapshotsServer::new(Service(snapshotter));
        let server = Server::builder().add_service(service);
        let server = server.serve_with_incoming_shutdown(listener, async { drop(ended.await) });
        let mut server = tokio::spawn(server);
        tell_manager(&[NotifyState::Ready]);
        tokio::select! {
            served = &mut server => return Ok(served??),
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        tell_manager(&[NotifyState::Stopping]);
        // What containerd has asked is answered, and containerd told to connect again for more.
        drop(end);
        match timeout(END_MAX, server).await {
            Ok(served) => Ok::<_, Box<dyn Error>>(served??),
            Err(_) => Ok(()),
        }
    });
    runtime.shutdown_background();
    if !is_passed {
        let _ = fs::remove_file(&arguments.address);
    }
    served
}

/// Listens for containerd, and for nobody who is not root.
fn listen(address: &Path) -> io::Result<StdListener> {
    if let Some(directory) = address.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory)?;
    }
    unix_socket::listen(address, 0o600).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen at {}: {error}", address.display()),
        )
    })
}

/// Tells systemd, if it started this process.
fn tell_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Prints an error and its causes on one line.
fn fail(error: &dyn Error) -> ExitCode {
    let text = Causes(error).to_string();
    let _ = writeln!(io::stderr(), "peerfs-snapshotter: {}", text.trim_end());
    ExitCode::from(FAILED)
}
