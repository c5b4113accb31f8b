//! Several who want the same, and a disk that is full.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use overlay2::{Driver, LoadOptions, Phase, Progress, Watch};

use crate::bed::{APP, Bed};
use crate::common::need;
use crate::common::store::{Done, mounts_beneath};
use crate::snapshot::snapshot;
use crate::trace;
use crate::{require_tool, sandbox};

#[test]
fn e82_an_image_that_several_load_at_once_is_unpacked_once() {
    sandbox!();
    let bed = Bed::new();
    for _ in 0..10 {
        let place = bed.place();
        let unpacked = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let observer = |at: &Progress<'_>| {
                        let done = at.phase == Phase::Done;
                        unpacked.fetch_add(usize::from(done), Ordering::Relaxed);
                    };
                    let driver = Driver::open(place.join("store")).unwrap();
                    let watch = Watch::new().observer(&observer);
                    let options = LoadOptions::default();
                    driver.load(bed.path("given/app"), &options, watch).unwrap();
                });
            }
        });
        // Of three layers one was there before.
        assert_eq!(unpacked.into_inner(), 2);
    }
    bed.clear();
}

#[test]
fn e82_who_dies_while_it_unpacks_holds_up_nobody() {
    sandbox!();
    require_tool!("strace");
    let bed = Bed::new();
    let place = bed.place();
    let load = |command: &mut Command| {
        command.args(["load", "-q", "-i"]).arg(bed.path("given/app"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    };
    // It stops where everything is unpacked and nothing is committed, with all of it reserved.
    let mut stopping = Command::new("strace");
    stopping.args(["-f", "-qq", "-e", "trace=syncfs", "-e", "inject=syncfs:signal=STOP:when=1"]);
    stopping.arg("-o").arg(bed.path("log")).arg("--").arg(need::binary());
    let mut first = load(stopping.arg("--root").arg(place.join("store")));
    let stopped = trace::stopped_child(first.id(), &bed.path("log"));
    let mut second = load(&mut bed.command(&place));
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        second.try_wait().unwrap().is_none(),
        "it waits for the layers that are being unpacked"
    );
    let died = Instant::now();
    need::run(Command::new("kill").args(["-KILL", &stopped.to_string()]));
    assert!(second.wait().unwrap().success());
    let waited = died.elapsed();
    assert!(!first.wait().unwrap().success());
    // Unpacking these takes milliseconds; the rest is a machine that is busy.
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    let saved = Done::of(bed.command(&place).args(["save", "-q", "-o", "/dev/null", APP]));
    saved.good();
    bed.clear();
}

#[test]
fn e45_a_disk_that_is_full_anywhere_leaves_the_store_as_it_was() {
    sandbox!();
    let bed = Bed::new();
    for (refused, pages) in (0..80).enumerate() {
        let place = bed.place();
        let small = place.join("small");
        std::fs::create_dir(&small).unwrap();
        let mount = |options: &str| {
            need::run(
                Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&small),
            );
        };
        mount("size=64m");
        need::run(Command::new("cp").arg("-a").arg(place.join("store")).arg(&small));
        let old = bed.opened(&small);
        let used = rustix::fs::statvfs(&small).unwrap();
        let blocks = used.f_blocks - used.f_bfree + pages;
        mount(&format!("remount,size={}", blocks * used.f_frsize));
        let load = || {
            let mut command = bed.command(&small);
            Done::of(command.args(["load", "-q", "-i"]).arg(bed.path("given/app")))
        };
        let done = load();
        if done.status == 0 {
            assert!(refused > 2, "{refused}");
            bed.clear();
            return;
        }
        let told = done.failed();
        assert!(told.contains("No space left on device"), "{told}");
        assert!(mounts_beneath(&place).contains(&small));
        // The directory may have grown: what is compared are the store's own files.
        mount("remount,size=64m");
        assert_eq!(bed.opened(&small), old, "{pages} pages: {told}");
        load().good();
        assert_ne!(snapshot(&small), old);
    }
    panic!("the image should have found room");
}
