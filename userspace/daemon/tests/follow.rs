// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs follow`: mounts that change under their readers. They need root, who may mount, and a kernel with FUSE.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::{geteuid, Pid};
use support::process::{peerfs, succeed, Running};

fn can_mount() -> bool {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    let can = device.is_ok() && geteuid().is_root();
    if !can {
        eprintln!("skipped: only root may mount, and /dev/fuse is needed");
    }
    can
}

/// A daemon with images of one file, which can be published.
struct World {
    daemon: Running,
    name: String,
}

impl World {
    /// With an image for each of these contents, called so, of which the first is published.
    fn new(contents: &[&str]) -> Self {
        let daemon = Running::start(&[]);
        for content in contents {
            let tree = daemon.root.path().join(format!("tree-{content}"));
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("file"), content).unwrap();
            let mut build = Command::new(peerfs());
            build.args(["build", "--tag", content, "--root-dir"]);
            succeed(build.arg(daemon.store()).arg(tree));
        }
        let mut world = World {
            daemon,
            name: "base".to_owned(),
        };
        succeed(world.peerfs("key").arg("new"));
        world.name = world.publish(contents[0]);
        world
    }

    fn peerfs(&self, command: &str) -> Command {
        let mut process = Command::new(peerfs());
        process.arg(command);
        process.env("PEERFS_KEYS", self.daemon.root.path().join("keys"));
        process.env("PEERFS_ROOT_DIR", self.daemon.store());
        process
    }

    fn publish(&self, image: &str) -> String {
        let mut publish = self.peerfs("publish");
        publish.arg("--socket").arg(self.daemon.socket());
        succeed(publish.args([&self.name, image]))
            .trim_end()
            .to_owned()
    }

    fn mountpoint(&self) -> PathBuf {
        let place = self.daemon.root.path().join("mount");
        fs::create_dir_all(&place).unwrap();
        place
    }

    fn follow(&self, options: &[&str]) -> Following {
        let mut follow = Command::new("env");
        follow.arg("--default-signal").arg(peerfs()).arg("follow");
        follow.arg("--root-dir").arg(self.daemon.store());
        follow.arg("--socket").arg(self.daemon.socket());
        follow.args(options).args(["--fuse", &self.name]);
        let mut child = follow
            .arg(self.mountpoint())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Following {
            child,
            lines,
            mountpoint: self.mountpoint(),
        }
    }
}

struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    mountpoint: PathBuf,
}

impl Following {
    /// Waits until an image was mounted; the sequence of its record.
    fn next(&mut self) -> u64 {
        let line = self.lines.next().expect("it goes on").unwrap();
        line.split_once(' ').unwrap().0.parse().unwrap()
    }

    fn read(&self) -> String {
        fs::read_to_string(self.mountpoint.join("file")).unwrap()
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
        assert_eq!(mounts(&self.mountpoint), 0);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        while mounts(&self.mountpoint) > 0 {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(&self.mountpoint)
                .status();
        }
    }
}

/// How many mounts there are at this place, one above the other.
fn mounts(place: &Path) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_there = |line: &&str| line.split(' ').nth(4) == place.to_str();
    text.lines().filter(is_there).count()
}

#[test]
fn a_hundred_switches_under_readers_are_seen_by_nobody_as_an_error() {
    if !can_mount() {
        return;
    }
    let world = World::new(&["one", "two"]);
    let mut following = world.follow(&[]);
    assert_eq!(following.next(), 1);
    assert_eq!(following.read(), "one");
    let file = following.mountpoint.join("file");
    let mut opened = fs::File::open(&file).unwrap();

    let (is_over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (is_over, reads) = (&is_over, &reads);
    thread::scope(|scope| {
        let file = &file;
        for _ in 0..3 {
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    match fs::read_to_string(file).as_deref() {
                        Ok("one" | "two") => reads.fetch_add(1, Ordering::Relaxed),
                        other => {
                            is_over.store(true, Ordering::Relaxed);
                            panic!("a reader found {other:?}");
                        }
                    };
                }
            });
        }
        for sequence in 2..=101 {
            world.publish(["two", "one"][sequence as usize % 2]);
            assert_eq!(following.next(), sequence);
            assert!(!is_over.load(Ordering::Relaxed));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    eprintln!("{} reads", reads.load(Ordering::Relaxed));
    assert!(reads.load(Ordering::Relaxed) > 1000);
    // What was open all the time is what it was.
    let mut content = String::new();
    opened.rewind().unwrap();
    opened.read_to_string(&mut content).unwrap();
    assert_eq!(
        (content.as_str(), following.read().as_str()),
        ("one", "one")
    );
    assert_eq!(mounts(&following.mountpoint), 1);
    following.stop();
}

#[test]
fn a_check_refuses_an_image_and_another_start_does_not_forget_it() {
    if !can_mount() {
        return;
    }
    let world = World::new(&["good", "bad", "better"]);
    // It hangs, and so does what it has started.
    let started = world.daemon.root.path().join("started");
    let check = format!(
        "grep -q good \"$PEERFS_ROOT/file\" || {{ sleep 1000 & echo $! >{}; wait; }}",
        started.display()
    );
    let mut following = world.follow(&["--check", &check, "--check-timeout", "1s"]);
    following.next();
    world.publish("bad");
    let status = || world.daemon.succeed("history", &[&world.name]);
    let begun = Instant::now();
    while !status().starts_with('*') {
        assert!(
            begun.elapsed().as_secs() < 60,
            "it is rolled back: {}",
            status()
        );
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(following.read(), "good");
    let pid = fs::read_to_string(started).unwrap();
    let command = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()));
    assert_eq!(command.unwrap_or_default(), "", "nothing of it is left");
    following.stop();
    let mut following = world.follow(&[]);
    assert_eq!((following.next(), following.read().as_str()), (1, "good"));
    world.publish("better");
    assert_eq!((following.next(), following.read().as_str()), (3, "better"));
    // By hand, to what was refused.
    world
        .daemon
        .succeed("rollback", &[&world.name, "--to", "2"]);
    assert_eq!((following.next(), following.read().as_str()), (2, "bad"));
    following.stop();
}

#[test]
fn the_daemon_may_end_and_a_mount_that_was_left_is_taken_over() {
    if !can_mount() {
        return;
    }
    let mut world = World::new(&["one", "two"]);
    let mut following = world.follow(&[]);
    following.next();
    world.daemon = world.daemon.restart("").0;
    world.publish("two");
    assert_eq!((following.next(), following.read().as_str()), (2, "two"));
    following.child.kill().unwrap();
    following.child.wait().unwrap();
    // It serves those who have it, whoever follows the name.
    assert_eq!(following.read(), "two");
    let mut next = world.follow(&["--replace"]);
    assert_eq!((next.next(), next.read().as_str()), (2, "two"));
    assert_eq!(mounts(&next.mountpoint), 1);
    next.stop();
    // As a service is started the first time.
    let mut next = world.follow(&["--replace"]);
    assert_eq!((next.next(), next.read().as_str()), (2, "two"));
    next.stop();
}

/// Waits until there is a file.
#[track_caller]
fn wait_for(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed().as_secs() < 60, "{}", file.display());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_somebody_else_has_mounted_over_it_is_not_taken_away() {
    if !can_mount() {
        return;
    }
    let world = World::new(&["one", "two"]);
    let checked = world.daemon.root.path().join("checked");
    let check = format!("echo >{}", checked.display());
    let mut following = world.follow(&["--check", &check]);
    following.next();
    fs::remove_file(&checked).unwrap();
    let place = &following.mountpoint;
    let mut mount = Command::new("mount");
    succeed(mount.args(["-t", "tmpfs", "cover"]).arg(place));
    fs::write(place.join("file"), "another's").unwrap();
    world.publish("two");
    wait_for(&checked);
    thread::sleep(Duration::from_millis(300));
    assert_eq!((mounts(place), following.read().as_str()), (2, "another's"));
    kill(Pid::from_raw(following.child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(!following.child.wait().unwrap().success());
    assert_eq!(following.read(), "another's");
}

#[test]
fn a_mount_stays_when_the_daemon_is_away_as_an_image_is_refused() {
    if !can_mount() {
        return;
    }
    let mut world = World::new(&["good", "bad"]);
    let [asked, go_on] = ["asked", "go-on"].map(|name| world.daemon.root.path().join(name));
    let check = format!(
        "grep -q good \"$PEERFS_ROOT/file\" || {{ echo >{}; until [ -e {} ]; do sleep 0.05; done; false; }}",
        asked.display(),
        go_on.display()
    );
    let mut following = world.follow(&["--check", &check]);
    following.next();
    world.publish("bad");
    wait_for(&asked);
    world.daemon.stop(Signal::SIGTERM);
    fs::write(&go_on, "").unwrap();
    thread::sleep(Duration::from_millis(500));
    let World { daemon, name } = world;
    let world = World {
        daemon: daemon.restart_after_death("").0,
        name,
    };
    let begun = Instant::now();
    while !world
        .daemon
        .succeed("history", &[&world.name])
        .starts_with('*')
    {
        assert!(begun.elapsed().as_secs() < 60, "it is rolled back");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(following.read(), "good");
    following.stop();
}
