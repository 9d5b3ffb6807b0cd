// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeps the store attached to the kernel, whenever there is one.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::upcall::{serve, Device, RequestHandler};
use crate::uses::Uses;

/// How often it is looked whether the device is there.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Attaches the store and serves the kernel, until `shutdown`. When the device is not there, or
/// goes away, it is tried again until it is.
pub async fn attach(
    device: &Path,
    root_dir: &Path,
    handler: Arc<dyn RequestHandler>,
    uses: &Uses,
    limit: usize,
    shutdown: CancellationToken,
) {
    // The same problem is reported once, not with every attempt.
    let mut reported = None;
    while !shutdown.is_cancelled() {
        // The store may be on a disk that does not answer, which must not hold up those who share this thread.
        let (device_path, store_path) = (device.to_owned(), root_dir.to_owned());
        let opening = tokio::task::spawn_blocking(move || open(&device_path, &store_path));
        let opened = tokio::select! {
            () = shutdown.cancelled() => return,
            opened = opening => opened.unwrap_or_else(|error| Err(error.into())),
        };
        match opened {
            Ok(opened) => {
                reported = None;
                uses.attached(&opened);
                info!(device = %device.display(), store = %root_dir.display(), "attached");
                let served = serve(opened, Arc::clone(&handler), limit, shutdown.clone()).await;
                if let Err(error) = served {
                    warn!(device = %device.display(), %error, "detached");
                }
            }
            Err(error) => {
                if reported != Some(error.kind()) {
                    warn!(
                        device = %device.display(),
                        %error,
                        "cannot serve the kernel: {}",
                        advice(&error)
                    );
                    reported = Some(error.kind());
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => (),
            () = tokio::time::sleep(RETRY_INTERVAL) => (),
        }
    }
}

fn open(device: &Path, root_dir: &Path) -> io::Result<Arc<Device<crate::upcall::KernelIoctls>>> {
    let device = Device::open(device)?;
    device.attach(File::open(root_dir)?.as_fd())?;
    Ok(Arc::new(device))
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "load the module with `modprobe peerfs`, or set device = \"none\" to serve peers only; \
             it is attached as soon as it is there"
        }
        io::ErrorKind::PermissionDenied => "run as root, or as a user who may open the device",
        _ => "is it the device of the peerfs module, with its upcall switched on?",
    }
}
