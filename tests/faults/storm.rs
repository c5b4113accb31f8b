//! Eight processes at once on one store, each doing what it likes, and killed when it happens: nobody
//! waits for the dead, what was kept is there, and nothing stays of what was removed.
//!
//! Ten seconds in an ordinary run, `OVERLAY2_STORM=SECONDS` for another time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::bed::{APP, BASE, Bed};
use crate::common::store::{Done, mounts_beneath};
use crate::common::{Compression, Layer, TestImage};
use crate::sample::{self, Random};
use crate::sandbox;

const WORKERS: usize = 8;
const CONTAINERS: usize = 6;
/// No command on these small images takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command may fail for while others work on the same things.
const CONFLICTS: &[&str] = &[
    "there is no image",
    "there is no container",
    "is not in store",
    "is not in the store",
    "is taken by",
    "is used by",
    "is mounted at",
    "is not mounted",
    "is held by another process",
    "was removed while it was read",
    "it changed while it was read",
];

#[derive(Debug, Default)]
struct Tally {
    done: usize,
    refused: usize,
    killed: usize,
    wrong: Vec<String>,
    by_name: BTreeMap<&'static str, usize>,
}

#[test]
fn e82_a_storm_of_processes_loses_nothing_and_leaves_nothing() {
    sandbox!();
    let seconds = std::env::var("OVERLAY2_STORM").map_or(10, |text| text.parse().unwrap());
    let bed = Bed::new();
    let place = bed.place();
    let empty = fresh(&bed);
    let keepers: Vec<_> = (0..WORKERS).map(|worker| keeper(&bed, worker)).collect();
    let tally = Mutex::new(Tally::default());
    let end = Instant::now() + Duration::from_secs(seconds);
    let seed = sample::seed();
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (bed, tally) = (&bed, &tally);
            scope.spawn(move || {
                let mut random = Random::new(seed + 1000 * worker as u64 + 1);
                while Instant::now() < end {
                    blow(bed, &mut random, tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    eprintln!(
        "storm of {seconds} s: {} operations done, {} refused, {} killed; {:?}",
        tally.done, tally.refused, tally.killed, tally.by_name
    );
    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
    settle(&bed, &place, &keepers);
    let left = contents(&place);
    assert_eq!(left, empty, "what was removed is gone");
}

/// An image that nobody removes, and a container with a file in it.
fn keeper(bed: &Bed, worker: usize) -> (String, String) {
    let name = format!("faults.test/keeper{worker}:latest");
    let own = Layer::new().file("own", 0o600, format!("{worker}\n"));
    let image =
        TestImage::new(&name).layer("ADD base", crate::bed::base_layer()).layer("ADD own", own);
    let given = bed.path("given").join(format!("keeper{worker}"));
    image.write_oci(&given, Compression::Raw);
    let place = bed.path("place");
    Done::of(bed.command(&place).args(["load", "-q", "-i"]).arg(&given)).good();
    let container = format!("keeper{worker}");
    Done::of(bed.command(&place).args(["create", "--name", &container, &name])).good();
    let merged = Done::of(bed.command(&place).args(["mount", &container])).good().stdout;
    fs::write(PathBuf::from(merged.trim_end()).join("kept"), "kept\n").unwrap();
    (name, container)
}

/// One command, which may be killed.
fn blow(bed: &Bed, random: &mut Random, tally: &Mutex<Tally>) {
    let place = bed.path("place");
    let given = |name: &str| bed.path("given").join(name).to_str().unwrap().to_owned();
    // No name that could be the start of an ID.
    let container = format!("box{}", random.below(CONTAINERS));
    let new = format!("faults.test/new{}:latest", random.below(3));
    let image = [APP, BASE, &new][random.below(3)].to_owned();
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (name, args) = match random.below(23) {
        0 => ("load", words(&["load", "-q", "-i", &given("app")])),
        1 => ("load", words(&["load", "-q", "-i", &given("app.tar.gz")])),
        2 => ("load", words(&["load", "-q", "-i", &given("base")])),
        3 => ("load", words(&["load", "-q", "-i", &given("newer")])),
        4..=6 => ("create", words(&["create", "--name", &container, &image])),
        7 | 8 => ("mount", words(&["mount", &container])),
        9 => ("mount", words(&["mount", "--volatile", &container])),
        10 | 11 => ("unmount", words(&["unmount", &container])),
        12 => ("commit", words(&["commit", "-q", &container, &new])),
        13 => ("rm", words(&["rm", &container])),
        14 => ("rmi", words(&["rmi", &image])),
        15 if random.below(4) == 0 && bed.knows("check") => ("check", words(&["check"])),
        15 if random.below(4) == 0 && bed.knows("gc") => ("gc", words(&["gc"])),
        15 => ("ps", words(&["ps"])),
        16 => ("images", words(&["images"])),
        17 => ("diff", words(&["diff", &container])),
        18 => ("save", words(&["save", "-q", "-o", "/dev/null", &image])),
        19 => return hurt(&place.join("store/layers"), random),
        20 if bed.knows("repair") => ("repair", words(&["repair", "-q"])),
        21 if bed.knows("repair") => {
            let from = given(["app", "base", "newer"][random.below(3)]);
            ("repair", words(&["repair", "-q", "--from", &from]))
        }
        _ => {
            // Somebody works in whatever is mounted.
            for merged in mounts_beneath(&place) {
                let _ = fs::write(merged.join("written"), format!("{}", random.below(1000)));
            }
            return;
        }
    };
    let mut command = bed.command(&place);
    command.args(&args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if random.below(4) == 0 {
        std::thread::sleep(Duration::from_micros(random.below(30_000) as u64));
        let _ = child.kill();
    }
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            let stacks = fs::read_to_string(format!("/proc/{}/stack", child.id()));
            child.kill().unwrap();
            tally.lock().unwrap().wrong.push(format!("{args:?} does not end: {stacks:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    note(&mut tally.lock().unwrap(), name, &args, child);
}

/// Changes a file of some layer by its attributes, which hurts nobody who reads it.
fn hurt(layers: &Path, random: &mut Random) {
    let Ok(entries) = fs::read_dir(layers) else { return };
    let mut at: Vec<_> = entries.flatten().map(|entry| entry.path().join("diff")).collect();
    while !at.is_empty() {
        let path = at.swap_remove(random.below(at.len()));
        // It may be gone by now, and no link is followed.
        match fs::symlink_metadata(&path).map(|found| found.file_type()) {
            Ok(kind) if kind.is_dir() => {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                at.extend(entries.map(|entry| entry.path()));
            }
            Ok(kind) if kind.is_file() => {
                let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o606));
            }
            _ => {}
        }
        if random.below(8) == 0 {
            return;
        }
    }
}

fn note(tally: &mut Tally, name: &'static str, args: &[String], child: Child) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&stderr);
    *tally.by_name.entry(name).or_default() += 1;
    if status.success() {
        tally.done += 1;
    } else if status.signal() == Some(9) {
        tally.killed += 1;
    } else if status.code() == Some(1) && CONFLICTS.iter().any(|word| told.contains(word)) {
        tally.refused += 1;
    } else if status.code() == Some(1) && told.is_empty() && ["check", "repair"].contains(&name) {
        // There is damage, which is told on the standard output.
        tally.refused += 1;
    } else {
        tally.wrong.push(format!("{args:?}: {status}: {told}"));
    }
}

/// What was kept is whole; then everything goes.
fn settle(bed: &Bed, place: &Path, keepers: &[(String, String)]) {
    let run = |args: &[&str]| Done::of(bed.command(place).args(args)).good().stdout;
    for (image, container) in keepers {
        run(&["save", "-q", "-o", "/dev/null", image]);
        let merged = mounts_beneath(place)
            .into_iter()
            .find(|mount| {
                fs::read_to_string(mount.join("own"))
                    .is_ok_and(|own| container.ends_with(own.trim_end()))
            })
            .unwrap_or_else(|| panic!("{container} is mounted no more"));
        assert_eq!(fs::read_to_string(merged.join("kept")).unwrap(), "kept\n");
        assert_eq!(fs::read_to_string(merged.join("etc/motd")).unwrap(), "hello\n");
    }
    // Every image that is left is whole, and every container can be used.
    for image in run(&["images", "-q"]).lines() {
        run(&["save", "-q", "-o", "/dev/null", image]);
    }
    let listed = run(&["ps", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    for container in listed.as_array().unwrap() {
        let name = container["name"].as_str().unwrap();
        if container["mounted"].is_null() {
            run(&["mount", name]);
        }
        run(&["unmount", name]);
        run(&["diff", name]);
        run(&["rm", name]);
    }
    if bed.knows("repair") {
        run(&["repair", "-q"]);
    }
    if bed.knows("check") {
        run(&["check"]);
    }
    let listed: serde_json::Value =
        serde_json::from_str(&run(&["images", "--format", "json"])).unwrap();
    for image in listed.as_array().unwrap() {
        let names = image["names"].as_array().unwrap();
        for name in names.iter().filter_map(serde_json::Value::as_str) {
            run(&["rmi", name]);
        }
        if names.is_empty() {
            run(&["rmi", image["id"].as_str().unwrap()]);
        }
    }
    assert_eq!(mounts_beneath(place), Vec::<PathBuf>::new());
    if bed.knows("gc") {
        run(&["gc"]);
    }
}

/// The names in a store that has had nothing in it.
fn fresh(bed: &Bed) -> Vec<String> {
    let place = bed.path("fresh");
    Done::of(bed.command(&place).args(["ps", "-q"])).good();
    contents(&place)
}

fn contents(place: &Path) -> Vec<String> {
    let listed = Command::new("find").arg("store").current_dir(place).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
    names.sort();
    names
}
