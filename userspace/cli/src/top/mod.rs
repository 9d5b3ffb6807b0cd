// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs top`.

mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use peerfs_control::{Activity, Reply, Request};
use peerfs_sys::interrupt;

use crate::arguments::DaemonArguments;
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::{is_reader_gone, Output};
use screen::{Screen, Wish};
use view::{Frame, Reading};

/// How often it is looked whether somebody wants the command to end.
const TICK: Duration = Duration::from_millis(100);
/// The shortest and the longest time between two looks, in seconds.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

/// Watch what a running peerfsd is busy with.
///
/// What comes and goes a second, the kernel's requests that wait, how much was in the store already, the images that are
/// being pulled, and the peers, the busiest first. q ends it. Without a terminal it prints that once.
#[derive(Args)]
pub(crate) struct TopArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The time between two looks.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "2", value_parser = parse_interval)]
    interval: Duration,
    /// End after so many looks.
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Print one look after the other, as for a file, also to a terminal; without --iterations it goes on until it is ended.
    #[arg(short, long)]
    batch: bool,
}

fn parse_interval(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| INTERVALS.contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds from 0.1 to 3600 is expected".to_owned())
}

/// Shows what the daemon is busy with, until somebody ends that.
pub(crate) fn run(arguments: &TopArguments) -> Result<()> {
    let is_interactive =
        !arguments.batch && io::stdout().is_terminal() && io::stdin().is_terminal();
    // Without it the process just ends, and the terminal is left as it is: nothing to refuse for.
    let _ = interrupt::watch();
    let ended = if is_interactive {
        watch(arguments)?
    } else {
        print(arguments)?
    };
    match ended {
        Ended::Wished => Ok(()),
        Ended::Interrupted => Err(Error::Cancelled),
    }
}

/// Why it ended.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Ended {
    /// The user, or the number of looks, said so.
    Wished,
    /// By a signal.
    Interrupted,
}

fn watch(arguments: &TopArguments) -> Result<Ended> {
    // Before the terminal is changed: if the daemon is not there, the message stays to be read.
    let mut reading = read(arguments)?;
    let mut before = None;
    let mut looks = 1;
    let screen = Screen::open().map_err(Error::Output)?;
    loop {
        let frame = Frame::new(before.as_ref(), &reading);
        screen.show(&frame).map_err(Error::Output)?;
        if arguments.iterations.is_some_and(|most| looks >= most) {
            return Ok(Ended::Wished);
        }
        let next = Instant::now() + arguments.interval;
        while Instant::now() < next {
            let left = next.saturating_duration_since(Instant::now());
            match screen.wait(left.min(TICK)).map_err(Error::Output)? {
                _ if interrupt::is_requested() => return Ok(Ended::Interrupted),
                Wish::End => return Ok(Ended::Wished),
                Wish::Redraw => screen.show(&frame).map_err(Error::Output)?,
                Wish::Nothing => (),
            }
        }
        before = Some(std::mem::replace(&mut reading, read(arguments)?));
        looks += 1;
    }
}

fn print(arguments: &TopArguments) -> Result<Ended> {
    let most = match arguments.iterations {
        None if arguments.batch => u64::MAX,
        None => 1,
        Some(most) => most,
    };
    let mut output = Output::new();
    let mut before: Option<Reading> = None;
    for look in 1..=most {
        let reading = read(arguments)?;
        for line in Frame::new(before.as_ref(), &reading).lines(usize::MAX) {
            output.line(&line)?;
        }
        output.flush()?;
        if look == most {
            break;
        }
        output.line("")?;
        before = Some(reading);
        let next = Instant::now() + arguments.interval;
        while Instant::now() < next {
            if interrupt::is_requested() {
                return Ok(Ended::Interrupted);
            }
            if is_reader_gone() {
                return Ok(Ended::Wished);
            }
            let left = next.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(TICK));
        }
    }
    Ok(Ended::Wished)
}

fn read(arguments: &TopArguments) -> Result<Reading> {
    let Reply::Activity(activity) = ask(&arguments.daemon.socket, &Request::Activity)? else {
        return Err(Error::UnexpectedReply);
    };
    let activity: Activity = activity;
    Ok(Reading {
        activity,
        at: Instant::now(),
    })
}
