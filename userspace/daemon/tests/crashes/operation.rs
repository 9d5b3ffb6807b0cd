// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What may be interrupted, and how.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::support::process::{configure, peerfs};
use crate::world::{Sandbox, World};

/// System calls by which a store changes; with a question mark those that not every machine has.
const CHANGES: &str = "write,pwrite64,ftruncate,fallocate,?mkdir,mkdirat,linkat,?renameat,?renameat2,unlinkat,fsync,fdatasync";
/// Those of them that need room, but for write(2): that is how programs wake their threads and say what is wrong.
const WRITES: &str = "pwrite64,ftruncate,fallocate,?mkdir,mkdirat,linkat,?renameat,?renameat2";

/// What goes wrong at a system call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// SIGKILL instead of it.
    Kill,
    /// From there on there is no room.
    DiskFull,
}

impl Fault {
    fn system_calls(self) -> &'static str {
        match self {
            Fault::Kill => CHANGES,
            Fault::DiskFull => WRITES,
        }
    }

    /// The argument of strace for a fault at the call of this number of any thread.
    fn injection(self, point: u32) -> String {
        let calls = self.system_calls();
        match self {
            Fault::Kill => format!("inject={calls}:signal=KILL:when={point}"),
            Fault::DiskFull => format!("inject={calls}:error=ENOSPC:when={point}+"),
        }
    }
}

/// What is done to a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Builds a tree under its name.
    Build(&'static str),
    /// Takes the tag away, and with it the image.
    Remove(&'static str),
    Collect,
    /// Makes all packs of an image blobs.
    Whole(&'static str),
    /// Makes the image of a tree of an archive of it.
    Import(&'static str),
    /// Has a daemon fetch the image of a tree from another store.
    Pull(&'static str),
    /// Gets it from a registry, without a daemon.
    PullFromRegistry(&'static str),
    /// Brings it to a registry, to a place of this store's own.
    Push(&'static str),
    /// Removes what finds chunks.
    LoseCatalogue,
}

impl Operation {
    /// Does it, with a fault at a point; says what was wrong if it did not succeed.
    pub fn run(
        &self,
        world: &World,
        sandbox: &Sandbox,
        fault: Option<(Fault, u32)>,
    ) -> Result<(), String> {
        let mut options = vec!["--trace=none".to_owned()];
        if let Some((fault, point)) = fault {
            options = vec![
                "--output=/dev/null".to_owned(),
                "-e".to_owned(),
                fault.injection(point),
            ];
        }
        self.run_traced(world, sandbox, fault.map(|_| options.as_slice()))
    }

    /// Does it, and counts the points at which a fault would hit it: the system calls of the thread that has the most.
    pub fn points(&self, world: &World, sandbox: &Sandbox, fault: Fault) -> u32 {
        let log = sandbox.path().join("trace");
        let options = [
            format!("--output={}", log.display()),
            format!("--trace={}", fault.system_calls()),
        ];
        self.run_traced(world, sandbox, Some(&options)).unwrap();
        let mut counts: HashMap<String, u32> = HashMap::new();
        for line in fs::read_to_string(log).unwrap().lines() {
            let thread = line.split_whitespace().next().unwrap_or_default();
            // A call that another thread's line has interrupted has two lines.
            let is_call = line.contains('(') && !line.contains("resumed>");
            *counts.entry(thread.to_owned()).or_default() += u32::from(is_call);
        }
        counts.into_values().max().unwrap()
    }

    fn run_traced(
        &self,
        world: &World,
        sandbox: &Sandbox,
        trace: Option<&[String]>,
    ) -> Result<(), String> {
        let store = sandbox.store();
        let mut arguments: Vec<&Path> = Vec::new();
        let (tree, reference);
        match self {
            Operation::LoseCatalogue => {
                fs::remove_dir_all(store.join("catalogue")).unwrap();
                return Ok(());
            }
            Operation::Pull(tree) => return pull(world, sandbox, tree, trace),
            Operation::Build(name) => {
                tree = world.tree(name);
                arguments.extend([Path::new("build"), &tree]);
                arguments.extend(["--tag", name, "--threads", "1"].map(Path::new));
            }
            Operation::Remove(name) => {
                // Done again it has nothing to do.
                if !sandbox.images().contains_key(*name) {
                    return Ok(());
                }
                arguments.extend(["rm", name].map(Path::new));
            }
            Operation::Import(name) => {
                tree = world.archive(name);
                arguments.extend([Path::new("import"), &tree]);
                arguments.extend(["--tag", name, "--threads", "1"].map(Path::new));
            }
            Operation::PullFromRegistry(name) => {
                reference = world.reference("library", name);
                arguments.extend(["pull", "--tag", name, "--timeout", "20"].map(Path::new));
                arguments.extend(["--root-dir".as_ref(), store.as_path()]);
                arguments.push(Path::new(&reference));
            }
            Operation::Push(name) => {
                reference = world.reference(&sandbox.name(), name);
                arguments.extend(["push", name, &reference].map(Path::new));
            }
            Operation::Collect => arguments.push(Path::new("gc")),
            Operation::Whole(name) => {
                arguments.extend(["tag", "--whole", name, name].map(Path::new));
            }
        }
        let mut process = traced(&peerfs(), trace);
        process.args(arguments).env("PEERFS_ROOT_DIR", store);
        let output = process.output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{output:?}")),
        }
    }
}

/// Builds a tree into a copy of the store on a filesystem of its own, of so many KiB; `sandbox` has what is there then.
/// None if nobody may mount one here.
pub fn build_on_a_small_disk(
    world: &World,
    sandbox: &Sandbox,
    tree: &str,
    kib: u64,
) -> Option<Result<(), String>> {
    // What does not fit has no store to copy back.
    const SCRIPT: &str = "mount -t tmpfs -o size=$2k small $1 || exit 77\n\
        cp --archive --sparse=always $3/. $1 || exit 78\n\
        shift 3; \"$@\"; status=$?\n\
        rm -r \"$SANDBOX\"/* && cp --archive --sparse=always \"$SMALL\"/. \"$SANDBOX\" || exit 79\n\
        exit $status";
    let small = tempfile::tempdir().unwrap();
    let mut process = Command::new("unshare");
    process.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        SCRIPT,
        "sh",
    ]);
    process
        .arg(small.path())
        .arg(kib.to_string())
        .arg(sandbox.path());
    process.arg(peerfs()).arg("build").arg(world.tree(tree));
    process.args(["--tag", tree, "--threads", "1", "--root-dir"]);
    process.arg(small.path().join("store"));
    process
        .env("SMALL", small.path())
        .env("SANDBOX", sandbox.path());
    let output = process.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Some(Ok(())),
        Some(1) => Some(Err(message)),
        Some(77) => None,
        // What was there before does not fit.
        Some(78) => Some(Err("No space left".to_owned())),
        _ => panic!("{output:?}"),
    }
}

/// A program, under strace if its calls are to be counted or to go wrong. It is the child all the same, and strace its own.
fn traced(program: &Path, trace: Option<&[String]>) -> Command {
    let Some(options) = trace else {
        return Command::new(program);
    };
    let mut process = Command::new("strace");
    process.args([
        "--daemonize",
        "--seccomp-bpf",
        "--follow-forks",
        "--quiet=all",
    ]);
    process.args(options).arg(program);
    process
}

/// Starts a daemon, has it pull an image, and ends it.
fn pull(
    world: &World,
    sandbox: &Sandbox,
    tree: &str,
    trace: Option<&[String]>,
) -> Result<(), String> {
    let source = format!("[[source]]\ndirectory = {:?}\n", world.library().store());
    let config = configure(sandbox.path(), &source);
    let mut process = traced(Path::new(env!("CARGO_BIN_EXE_peerfsd")), trace);
    process.arg("--config").arg(config).stderr(Stdio::piped());
    let mut daemon = process.spawn().unwrap();
    let mut lines = BufReader::new(daemon.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let is_started = lines.by_ref().any(|line| line.contains("started"));
    let reader = std::thread::spawn(move || lines.for_each(drop));
    let mut client = Command::new(peerfs());
    client.args(["pull", "--timeout", "20", "--tag", tree, "--socket"]);
    client
        .arg(sandbox.path().join("control"))
        .arg(world.manifest(tree));
    let output = is_started.then(|| client.output().unwrap());
    // It may have been killed.
    let _ = kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM);
    wait(&mut daemon);
    reader.join().unwrap();
    match output {
        Some(output) if output.status.success() => Ok(()),
        output => Err(format!("{output:?}")),
    }
}

/// Waits until a process has ended.
fn wait(process: &mut Child) {
    let begun = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(60) {
            process.kill().unwrap();
            panic!("{} does not end", process.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
