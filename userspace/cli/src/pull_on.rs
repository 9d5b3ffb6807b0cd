// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs pull --on`: the same on other machines, by what runs commands there. Who may do that there is theirs to say, and
//! nothing that peers could ask each other.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
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
/// The most letters of what it says is wrong.
const PROBLEM_MAX: usize = 4096;
/// How often it is looked whether somebody wants the command to end.
const TICK: Duration = Duration::from_millis(100);
/// How long what a machine says of an error may be on its way when the program has ended. Something that stays behind, such as
/// ssh's master of connections, may hold that output open for longer.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What machines have said that was not looked at yet.
const EVENTS_MAX: usize = 1024;
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
    Said(Box<Reply>),
    Ended(std::result::Result<PullStatus, String>),
}

/// The programs that were started.
#[derive(Default)]
struct Programs {
    children: Vec<Arc<Mutex<Child>>>,
    /// Whether they are to end, those that start just now too.
    are_ended: bool,
}

/// Has machines bring an image into the stores of their daemons.
pub(crate) fn run(arguments: &PullArguments) -> Result<()> {
    let _ = interrupt::watch();
    let nodes = &arguments.on;
    let queue = Mutex::new((0..nodes.len()).collect::<VecDeque<usize>>());
    let programs = Mutex::new(Programs::default());
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(nodes.len()) {
            let (sender, queue, programs) = (sender.clone(), &queue, &programs);
            scope.spawn(move || loop {
                let next = lock(queue).pop_front();
                let Some(number) = next.filter(|_| !interrupt::is_requested()) else {
                    return;
                };
                let end = ask(arguments, number, programs, &sender);
                // Whoever is interrupted listens no more.
                let _ = sender.send((number, Event::Ended(end)));
            });
        }
        drop(sender);
        let shown = show(arguments, &events);
        // Who has still something to say does not wait until it is heard.
        drop(events);
        if matches!(shown, Err(Error::Cancelled)) {
            tell("peerfs: interrupted; what has come stays in the stores of the machines");
        }
        if shown.is_err() {
            lock(&queue).clear();
            let mut programs = lock(&programs);
            programs.are_ended = true;
            for child in &programs.children {
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
                    if let Reply::Progress(status) = *reply {
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
            let sum = here
                .iter()
                .fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
            let sum = size(sum);
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
    programs: &Mutex<Programs>,
    sender: &SyncSender<(usize, Event)>,
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
    {
        let mut programs = lock(programs);
        programs.children.push(Arc::clone(&child));
        if programs.are_ended {
            end(&mut lock(&child));
        }
    }
    let problem = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&problem);
    let noting = thread::spawn(move || note_last_line(stderr, &noted));
    let mut last = None;
    let mut lines = stdout.map(BufReader::new);
    while let Some(line) = lines.as_mut().and_then(next_line) {
        // What a login prints is none of it.
        if let Ok(reply) = serde_json::from_str::<Reply>(&line) {
            if let Reply::Done(status) = &reply {
                last = Some(status.clone());
            }
            let _ = sender.send((number, Event::Said(Box::new(reply))));
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
        _ => {
            let ended = Instant::now();
            while !noting.is_finished() && ended.elapsed() < LAST_WORDS {
                thread::sleep(TICK);
            }
            let problem = std::mem::take(&mut *lock(&problem));
            Err(match problem.strip_prefix("peerfs: ").unwrap_or(&problem) {
                "" => format!("{} ended with {status}", arguments.rsh),
                problem => problem.to_owned(),
            })
        }
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

/// The next line, whatever encoding it has.
fn next_line(lines: &mut BufReader<impl Read>) -> Option<String> {
    let mut line = Vec::new();
    let read = lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
    (read.ok()? > 0).then(|| String::from_utf8_lossy(&line).into_owned())
}

/// Notes the last line of what is wrong.
fn note_last_line(stderr: Option<impl Read>, last: &Mutex<String>) {
    let mut lines = stderr.map(BufReader::new);
    while let Some(line) = lines.as_mut().and_then(next_line) {
        if !line.trim().is_empty() {
            *lock(last) = line.trim().chars().take(PROBLEM_MAX).collect();
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is valid after every step.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
