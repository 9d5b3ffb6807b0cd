// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is left of a store when whoever works on it is killed, or when the disk is full: at each of the system calls by
//! which it changes something. The short sweep tries some of them, evenly spread; `scripts/crash-sweep` tries all.

#![forbid(unsafe_code)]

// Other tests look into its folder.
#[allow(dead_code)]
#[path = "../../cli/tests/command/docker_registry.rs"]
mod docker_registry;
#[path = "crashes/operation.rs"]
mod operation;
mod support;
#[path = "crashes/world.rs"]
mod world;

use std::process::Command;

use operation::{build_on_a_small_disk, Fault, Operation};
use support::process::{peerfs, succeed};
use world::{Sandbox, World};

/// Points that are tried of each operation, unless `PEERFS_TEST_FAULTS` says another number of them; so many more than it
/// has begin again, since threads do not run twice in the same way.
const POINTS: u32 = 5;

/// Tries an operation on a store that has gone through others before, with a fault at each of some points.
fn sweep(before: &[Operation], operation: Operation, fault: Fault) {
    let world = World::new();
    let start = world.sandbox();
    for step in before {
        step.run(&world, &start, None).unwrap();
    }
    let right = start.copy();
    let points = operation.points(&world, &right, fault);
    right.settle();
    let (images, room) = (right.images(), right.occupied());
    let wanted = std::env::var("PEERFS_TEST_FAULTS").map_or(POINTS, |text| text.parse().unwrap());
    let mut hits = 0;
    for turn in 0..wanted {
        let point = if wanted < points {
            1 + turn * points / wanted
        } else {
            1 + turn % points
        };
        let sandbox = start.copy();
        let failed = operation
            .run(&world, &sandbox, Some((fault, point)))
            .is_err();
        hits += u32::from(failed);
        let check = Check {
            world: &world,
            sandbox: &sandbox,
            context: format!("{operation:?}, {fault:?} at {point} of {points}"),
        };
        check.nothing_is_lost(&start, &operation);
        operation.run(&world, &sandbox, None).unwrap();
        sandbox.settle();
        check.all_is_as_it_should_be(&images, room);
        if let Operation::Push(tree) = operation {
            check.the_registry_has(tree);
        }
        check.nothing_stays_that_nobody_wants();
    }
    println!(
        "{operation:?} after {before:?}: {points} points, {wanted} tried, {hits} hit ({fault:?})"
    );
    assert!(hits > 0, "{operation:?}: none of {wanted} was hit");
}

/// What must hold of a store after a fault.
struct Check<'a> {
    world: &'a World,
    sandbox: &'a Sandbox,
    context: String,
}

impl Check<'_> {
    /// What was there before is there, and nothing is visible that is not.
    fn nothing_is_lost(&self, before: &Sandbox, operation: &Operation) {
        let images = self.sandbox.images();
        for (tag, manifest) in before.images() {
            let is_removed = matches!(operation, Operation::Remove(removed) if *removed == tag);
            let found = images.get(&tag);
            assert!(
                found == Some(&manifest) || is_removed && found.is_none(),
                "{}: {tag} is {found:?}",
                self.context
            );
        }
        let pulled = match operation {
            Operation::Pull(tree) | Operation::PullFromRegistry(tree) => {
                Some(self.world.manifest(tree))
            }
            _ => None,
        };
        let report = self.sandbox.verify();
        let context = (&self.context, &report, self.sandbox.path());
        assert!(report.damages.is_empty(), "{context:?}");
        // Who pulls an image sees how far it has come; it has no name before its end.
        let mut incomplete = report.incomplete.keys();
        assert!(
            incomplete.all(|name| Some(name) == pulled.as_ref()),
            "{context:?}"
        );
    }

    /// The store is as if nothing had happened.
    fn all_is_as_it_should_be(&self, images: &world::Images, room: u64) {
        assert_eq!(self.sandbox.images(), *images, "{}", self.context);
        let report = self.sandbox.verify();
        assert!(
            report.damages.is_empty() && report.incomplete.is_empty(),
            "{}: {report:?}",
            self.context
        );
        let found = self.sandbox.occupied();
        // A chunk may lie in another file, and blocks be used in another way; the trees' chunks are larger.
        assert!(
            found <= room + 32 * 1024,
            "{}: {found} bytes instead of {room} in {:?}",
            self.context,
            self.sandbox.path()
        );
        assert_eq!(self.sandbox.temporary_files(), 0, "{}", self.context);
    }

    /// Another store gets the image that was pushed.
    fn the_registry_has(&self, tree: &str) {
        let other = self.world.sandbox();
        let reference = self.world.reference(&self.sandbox.name(), tree);
        let mut process = Command::new(peerfs());
        process.args(["pull", "--timeout", "20", "--tag", tree, "--root-dir"]);
        succeed(process.arg(other.store()).arg(reference));
        let report = other.verify();
        assert!(
            report.damages.is_empty() && report.incomplete.is_empty(),
            "{}: {report:?}",
            self.context
        );
        assert_eq!(other.images()[tree], self.world.manifest(tree));
    }

    fn nothing_stays_that_nobody_wants(&self) {
        for tag in self.sandbox.images().keys() {
            Operation::Remove(tag.clone().leak())
                .run(self.world, self.sandbox, None)
                .unwrap();
        }
        self.sandbox.settle();
        assert_eq!(
            self.sandbox.files(),
            Vec::<String>::new(),
            "{}",
            self.context
        );
    }
}

/// A build in a filesystem that is full, in which there is a little more room each time.
#[test]
fn a_disk_that_is_too_small() {
    let world = World::new();
    let start = world.sandbox();
    Operation::Build("one").run(&world, &start, None).unwrap();
    let right = start.copy();
    let operation = Operation::Build("half");
    operation.run(&world, &right, None).unwrap();
    right.settle();
    let step = match std::env::var("PEERFS_TEST_FAULTS") {
        Ok(_) => 4,
        Err(_) => 64,
    };
    let (mut kib, mut failed) = (start.occupied() / 1024, 0);
    loop {
        let sandbox = start.copy();
        let Some(built) = build_on_a_small_disk(&world, &sandbox, "half", kib) else {
            eprintln!("no mounts in user namespaces here");
            return;
        };
        let check = Check {
            world: &world,
            sandbox: &sandbox,
            context: format!("a disk of {kib} KiB"),
        };
        check.nothing_is_lost(&start, &operation);
        let is_enough = built.is_ok();
        if let Err(message) = built {
            assert!(message.contains("No space left"), "{message}");
            failed += 1;
        }
        operation.run(&world, &sandbox, None).unwrap();
        sandbox.settle();
        check.all_is_as_it_should_be(&right.images(), right.occupied());
        check.nothing_stays_that_nobody_wants();
        if is_enough {
            break;
        }
        kib += step;
    }
    println!("builds failed on {failed} disks that were too small");
    assert!(failed > 5, "{failed}");
}

macro_rules! sweeps {
    ($($name:ident: [$($before:expr),*], $operation:expr;)*) => {
        mod killed {
            use super::{operation::{Fault, Operation::*}, sweep};
            $(#[test] fn $name() { sweep(&[$($before),*], $operation, Fault::Kill); })*
        }
        mod full {
            use super::{operation::{Fault, Operation::*}, sweep};
            $(#[test] fn $name() { sweep(&[$($before),*], $operation, Fault::DiskFull); })*
        }
    };
}

/// Of a store only where the image went to is noted.
#[test]
fn killed_while_it_pushes() {
    sweep(
        &[Operation::Build("one")],
        Operation::Push("one"),
        Fault::Kill,
    );
}

sweeps! {
    building: [], Build("one");
    building_an_edit: [Build("one")], Build("edited");
    building_what_is_half_new: [Build("one")], Build("half");
    building_without_a_catalogue: [Build("one"), Build("edited"), LoseCatalogue], Build("half");
    removing: [Build("one"), Build("edited")], Remove("one");
    collecting_the_first: [Build("one"), Build("edited"), Build("half"), Remove("one")], Collect;
    collecting_the_others: [Build("one"), Build("edited"), Build("half"), Remove("edited"), Remove("half")], Collect;
    making_whole: [Build("one"), Build("edited")], Whole("edited");
    making_whole_what_others_share: [Build("one"), Build("half"), Build("edited")], Whole("half");
    pulling: [], Pull("one");
    pulling_an_edit: [Pull("one")], Pull("edited");
    pulling_what_is_half_here: [Build("one"), Pull("edited"), Remove("one"), Collect], Pull("half");
    importing: [Build("one")], Import("half");
    pulling_from_a_registry: [Build("one")], PullFromRegistry("half");
}
