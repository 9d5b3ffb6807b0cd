// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs pull`.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use peerfs_control::{Conversion, PullState, PullStatus, Reply, Request};
use peerfs_format::Digest;
use peerfs_store::{printable, Reference};
use peerfs_sys::interrupt;

use crate::arguments::PullArguments;
use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::local_pull;
use crate::output::{size, tell, Output};
use crate::progress::bytes_bar;

/// Between two lines for who has no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Brings an image into the daemon's store, or into one that no daemon fills.
pub(crate) fn run(arguments: &PullArguments) -> Result<()> {
    // Without it the daemon finds out by itself, but nobody is told what stays.
    let _ = interrupt::watch();
    let mut display = Display::new(arguments.json);
    let done = match &arguments.root_dir {
        Some(root_dir) => local_pull::run(root_dir, arguments, |reply| display.take(reply)),
        None => by_daemon(arguments, &mut display),
    };
    display.clear();
    if matches!(done, Err(Error::Cancelled)) {
        tell(match display.is_converting {
            true => "peerfs: interrupted; the image was not made, and another `peerfs pull` begins anew",
            false => "peerfs: interrupted; what has come stays in the store, and another `peerfs pull` goes on with it",
        });
    }
    done
}

fn by_daemon(arguments: &PullArguments, display: &mut Display) -> Result<()> {
    let registry = &arguments.registry;
    if registry.plain_http || !registry.tls_verify {
        return Err(Error::OfDaemon("[registry] insecure"));
    }
    let request = Request::Pull {
        image: arguments.image.to_string(),
        tag: arguments.tag.as_ref().map(ToString::to_string),
        timeout: arguments.timeout,
        lazy: arguments.lazy,
        used_as: None,
        convert: true,
        platform: arguments.platform.as_ref().map(ToString::to_string),
    };
    let mut conversation = Conversation::open(&arguments.daemon.socket, &request)?;
    loop {
        let next = conversation.next(interrupt::is_requested);
        if interrupt::is_requested() {
            return Err(Error::Cancelled);
        }
        let Some(reply) = next? else { continue };
        let is_last = matches!(reply, Reply::Done(_));
        display.take(reply)?;
        if is_last {
            return Ok(());
        }
    }
}

/// Brings what running it needs of an image into the daemon's store: of an ordinary one all, which is shown. Returns its
/// manifest's digest.
pub(crate) fn to_run(socket: &Path, image: &Reference) -> Result<Digest> {
    let request = Request::Pull {
        image: image.to_string(),
        tag: None,
        timeout: None,
        lazy: true,
        used_as: None,
        convert: true,
        platform: None,
    };
    let mut display = Display::new(false);
    let done = wait_for(socket, &request, |status| match status.state {
        PullState::Converting => display.take(Reply::Progress(status)),
        _ => Ok(()),
    });
    display.clear();
    let status = done?;
    tell_of_conversion(&status);
    status.image.parse().map_err(|_| Error::UnexpectedReply)
}

/// Brings what a mount needs of an image into the daemon's store, and says nothing. Returns its manifest's digest.
pub(crate) fn lazily(socket: &Path, image: &str) -> Result<Digest> {
    lazily_as(socket, image, None)
}

/// The same of an image that is used as what a reference to a registry names, if the policy allows that.
pub(crate) fn lazily_as(socket: &Path, image: &str, used_as: Option<&str>) -> Result<Digest> {
    let manifest = silently(socket, image, used_as, true)?;
    manifest.parse().map_err(|_| Error::UnexpectedReply)
}

/// Brings all of an image into the daemon's store, and says nothing.
pub(crate) fn to_end(socket: &Path, image: &str) -> Result<()> {
    silently(socket, image, None, false).map(drop)
}

fn silently(socket: &Path, image: &str, used_as: Option<&str>, lazy: bool) -> Result<String> {
    let request = Request::Pull {
        image: image.to_owned(),
        tag: None,
        timeout: None,
        lazy,
        used_as: used_as.map(str::to_owned),
        convert: false,
        platform: None,
    };
    wait_for(socket, &request, |_| Ok(())).map(|status| status.image)
}

/// Has the daemon pull something, shows how that goes, and returns what it says in the end.
fn wait_for(
    socket: &Path,
    request: &Request,
    mut show: impl FnMut(PullStatus) -> Result<()>,
) -> Result<PullStatus> {
    let _ = interrupt::watch();
    let mut conversation = Conversation::open(socket, request)?;
    loop {
        match conversation.next(interrupt::is_requested)? {
            None => return Err(Error::Cancelled),
            Some(Reply::Progress(status)) => show(status)?,
            Some(Reply::Done(status)) => return Ok(status),
            Some(Reply::Error(problem)) => return Err(Error::Refused(problem)),
            Some(_) => return Err(Error::UnexpectedReply),
        }
    }
}

/// Shows a person how it is going: a bar on a terminal, otherwise a line from time to time.
struct Display {
    bar: ProgressBar,
    is_silent: bool,
    is_converting: bool,
    last_line: Option<Instant>,
}

impl Display {
    fn new(is_silent: bool) -> Self {
        let bar = if is_silent {
            ProgressBar::hidden()
        } else {
            bytes_bar()
        };
        Display {
            bar,
            is_silent,
            is_converting: false,
            last_line: None,
        }
    }

    /// Shows what was said.
    fn take(&mut self, reply: Reply) -> Result<()> {
        if let Reply::Progress(status) = &reply {
            self.is_converting = status.state == PullState::Converting;
        }
        match reply {
            reply @ (Reply::Progress(_) | Reply::Done(_)) if self.is_silent => {
                let mut output = Output::new();
                output.json(&reply)?;
                output.finish()
            }
            Reply::Progress(status) => {
                self.show(&status, Instant::now());
                Ok(())
            }
            Reply::Done(status) => {
                self.clear();
                tell_of_conversion(&status);
                match status.state {
                    _ if status.conversion.is_some() => (),
                    PullState::Mountable => {
                        tell("what a mount needs is here; the rest comes when it is read")
                    }
                    _ => tell(&format!("{}; {}", here(&status), sources(&status))),
                }
                let mut output = Output::new();
                output.line(&printable(&status.image).to_string())?;
                output.finish()
            }
            Reply::Error(problem) => Err(Error::Refused(problem)),
            _ => Err(Error::UnexpectedReply),
        }
    }

    fn show(&mut self, status: &PullStatus, now: Instant) {
        if !self.bar.is_hidden() {
            self.bar.set_length(status.total_bytes.unwrap_or_default());
            self.bar.set_position(status.present_bytes);
            self.bar.set_message(match waits(status) {
                Some(reason) => reason,
                None if status.state == PullState::Converting => "converting".to_owned(),
                None => chunks(status),
            });
        } else if !self.is_silent && self.is_time_for_a_line(now) {
            tell(&match waits(status) {
                Some(reason) => format!("{}; {reason}", here(status)),
                None if status.state == PullState::Converting => converting(status),
                None => format!("{}; {}", here(status), sources(status)),
            });
        }
    }

    fn is_time_for_a_line(&mut self, now: Instant) -> bool {
        let is_time = self
            .last_line
            .is_none_or(|last| now.saturating_duration_since(last) >= LINE_INTERVAL);
        if is_time {
            self.last_line = Some(now);
        }
        is_time
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Says of an ordinary image what was made of it.
fn tell_of_conversion(status: &PullStatus) {
    match status.conversion {
        Some(Conversion::Made) => tell(&format!(
            "it is an ordinary image, and was converted as a whole: {}",
            here(status)
        )),
        Some(Conversion::Known) => {
            tell("it is the ordinary image that was converted before: all of it is here");
        }
        None => (),
    }
}

fn converting(status: &PullStatus) -> String {
    format!(
        "an ordinary image is converted: {} of {}",
        size(status.present_bytes),
        size(status.total_bytes.unwrap_or_default())
    )
}

/// The reason that nothing comes.
fn waits(status: &PullStatus) -> Option<String> {
    let reason = status.reason.as_ref()?;
    let is_waiting = status.state == PullState::Waiting;
    is_waiting.then(|| printable(reason).to_string())
}

fn here(status: &PullStatus) -> String {
    match status.total_bytes {
        Some(total) => format!(
            "{} of {} here, {}",
            size(status.present_bytes),
            size(total),
            chunks(status)
        ),
        None => format!("{} here", size(status.present_bytes)),
    }
}

fn chunks(status: &PullStatus) -> String {
    match status.total_chunks {
        Some(total) => format!("{}/{total} chunks", status.present_chunks),
        None => String::new(),
    }
}

fn sources(status: &PullStatus) -> String {
    let sources = status.bytes_by_source.iter();
    let sources: Vec<String> = sources
        .map(|(source, bytes)| format!("{} from {}", size(*bytes), printable(source)))
        .collect();
    if sources.is_empty() {
        "nothing was fetched".to_owned()
    } else {
        sources.join(", ")
    }
}
