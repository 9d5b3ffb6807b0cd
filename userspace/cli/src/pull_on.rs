// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs pull --on`: the same on other machines, by what runs commands there. Who may do that there is theirs to say, and
//! nothing that peers could ask each other.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use peerfs_control::{PullState, PullStatus, Reply};
use peerfs_store::printable;
use peerfs_sys::interrupt;
use rustix::process::{kill_process_group, Pid, Signal};
use serde::Serialize;

use crate::arguments::PullArguments;
use crate::error::{Error, Result};
use crate::output::{size, tell, Output};

/// Machines that are asked at a time.
const AT_A_TIME: usize = 32;
/// The most bytes of a line that a machine says.
const LINE_MAX: u64 = 1024 * 1024;
/// The most bytes of what it says is wrong.
const PROBLEM_MAX: u64 = 4096;
/// How often it is looked whether somebody wants the command to end.
const TICK: Duration = Duration::from_millis(100);
/// Between two lines of how it goes.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// What a machine says, as a line of JSON.
#[derive(Serialize)]
struct Told<'a> {
    node: &'a str,
    #[serde(flatten)]
    said: Said<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Said<'a> {
    Reply(&'a Reply),
    Failed { failed: &'a str },
}

/// Something that a machine said, or its end: the image, or why there is none.
enum Event {
    Said(Reply),
    Ended(std::result::Result<PullStatus, String>),
}

/// Has machines bring an image into the stores of their daemons.
pub(crate) fn run(arguments: &PullArguments) -> Result<()> {
    let _ = interrupt::watch();
    let nodes = &arguments.on;
    let queue = Mutex::new((0..nodes.len()).collect::<VecDeque<usize>>());
    let children = Mutex::new(Vec::new());
    let (sender, events) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(nodes.len()) {
            let (sender, queue, children) = (sender.clone(), &queue, &children);
            scope.spawn(move || loop {
                let next = lock(queue).pop_front();
                let Some(number) = next.filter(|_| !interrupt::is_requested()) else {
                    return;
                };
                let end = ask(arguments, number, children, &sender);
                // Whoever is interrupted listens no more.
                let _ = sender.send((number, Event::Ended(end)));
            });
        }
        drop(sender);
        let shown = show(arguments, &events);
        if matches!(shown, Err(Error::Cancelled)) {
            tell("peerfs: interrupted; what has come stays in the stores of the machines");
        }
        if shown.is_err() {
            lock(&queue).clear();
            for child in lock(&children).iter() {
                end(&mut lock(child));
            }
        }
        shown
    })
}

/// Shows what they say until all have ended.
fn show(arguments: &PullArguments, events: &mpsc::Receiver<(usize, Event)>) -> Result<()> {
    let nodes = &arguments.on;
    let mut here: Vec<u64> = vec![0; nodes.len()];
    let (mut done, mut failed) = (0, 0);
    let mut last_line = Instant::now();
    loop {
        let event = match events.recv_timeout(TICK) {
            _ if interrupt::is_requested() => return Err(Error::Cancelled),
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some((number, event)) = event {
            let node = &nodes[number];
            let mut output = Output::new();
            let mut json = |said| match arguments.json {
                true => output.json(&Told { node, said }),
                false => Ok(()),
            };
            match event {
                Event::Said(reply) => {
                    json(Said::Reply(&reply))?;
                    if let Reply::Progress(status) = reply {
                        here[number] = status.present_bytes;
                    }
                }
                Event::Ended(Ok(status)) => {
                    done += 1;
                    here[number] = status.present_bytes;
                    if !arguments.json {
                        output.line(&format!("{}: {}", node, printable(&status.image)))?;
                    }
                }
                Event::Ended(Err(problem)) => {
                    failed += 1;
                    json(Said::Failed { failed: &problem })?;
                    tell(&format!("{node}: {}", printable(&problem)));
                }
            }
            output.finish()?;
        }
        if !arguments.json && last_line.elapsed() >= LINE_INTERVAL {
            last_line = Instant::now();
            let sum = size(here.iter().sum());
            tell(&format!(
                "{done} of {} nodes have it; {sum} in all",
                nodes.len()
            ));
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Pull(format!(
            "{failed} of {} nodes do not have the image; see above",
            nodes.len()
        ))),
    }
}

/// Has one machine bring it.
fn ask(
    arguments: &PullArguments,
    number: usize,
    children: &Mutex<Vec<Arc<Mutex<Child>>>>,
    sender: &Sender<(usize, Event)>,
) -> std::result::Result<PullStatus, String> {
    let mut words = arguments.rsh.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg(&arguments.on[number]);
    command.args(remote_command(arguments));
    // With all that it starts, which may hold its output open.
    command.process_group(0);
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("can't run {}: {error}", arguments.rsh))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let child = Arc::new(Mutex::new(child));
    lock(children).push(Arc::clone(&child));
    let problem = thread::spawn(move || last_line(stderr));
    let mut last = None;
    let mut lines = stdout.map(BufReader::new);
    while let Some(line) = lines.as_mut().and_then(next_line) {
        // What a login prints is none of it.
        if let Ok(reply) = serde_json::from_str::<Reply>(&line) {
            if let Reply::Done(status) = &reply {
                last = Some(status.clone());
            }
            let _ = sender.send((number, Event::Said(reply)));
        }
    }
    // It has closed its output, so this takes no time, unless somebody else has that.
    let status = loop {
        match lock(&child).try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => (),
            Err(error) => return Err(error.to_string()),
        }
        thread::sleep(TICK);
    };
    match last.filter(|_| status.success()) {
        Some(status) if status.state != PullState::Failed => Ok(status),
        _ => match problem.join() {
            Ok(problem) if !problem.is_empty() => Err(problem),
            _ => Err(format!("{} ended with {status}", arguments.rsh)),
        },
    }
}

/// Ends what has not ended yet: the number of a process is its own as long as nobody has seen its end.
fn end(child: &mut Child) {
    let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Ok(None), Some(number)) = (child.try_wait(), number) {
        let _ = kill_process_group(number, Signal::KILL);
    }
}

/// What is run there. No word of it means anything to a shell: references and numbers have no such letters.
fn remote_command(arguments: &PullArguments) -> Vec<String> {
    let mut words: Vec<String> = ["peerfs", "pull", "--json"].map(str::to_owned).to_vec();
    if arguments.lazy {
        words.push("--lazy".to_owned());
    }
    if let Some(timeout) = arguments.timeout {
        words.push(format!("--timeout={timeout}"));
    }
    if let Some(tag) = &arguments.tag {
        words.push(format!("--tag={tag}"));
    }
    words.push(arguments.image.to_string());
    words
}

fn next_line(lines: &mut BufReader<impl Read>) -> Option<String> {
    let mut line = String::new();
    let read = lines.by_ref().take(LINE_MAX).read_line(&mut line).ok()?;
    (read > 0).then_some(line)
}

/// The last line of what is wrong.
fn last_line(stderr: Option<impl Read>) -> String {
    let mut last = String::new();
    let mut lines = stderr.map(BufReader::new);
    while let Some(line) = lines.as_mut().and_then(next_line) {
        if !line.trim().is_empty() {
            last = line.trim().chars().take(PROBLEM_MAX as usize).collect();
        }
    }
    let own = last.strip_prefix("peerfs: ");
    own.unwrap_or(&last).to_owned()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is valid after every step.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
