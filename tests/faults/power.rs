//! The power cut: what was reported as done is there after it, and the rest is whole or absent.
//!
//! A store lies on a file system on a disk that writes down each write and flush it gets. Afterwards
//! the disk is put together as of one moment: all up to the last flush before it, and of the writes
//! since then none, all, or some at random, the last of them torn. The file system recovers, the
//! store is opened and looked at.
//!
//! A few moments in an ordinary run; `OVERLAY2_CUTS=N` for N on each file system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::store::Done;
use crate::common::{Compression, Layer, TestImage, need};
use crate::disk::{Disk, Mounted};
use crate::sample::{self, Random};
use crate::{require, require_tool, sandbox};

const CUTS: usize = 8;

/// What was reported, by when: the number of writes and flushes that the disk had seen.
#[derive(Debug, Default)]
struct Reports {
    /// What is there, with when that was reported.
    done: BTreeMap<String, u64>,
    /// When its removal began.
    doomed: BTreeMap<String, u64>,
    /// When it was reported as removed.
    gone: BTreeMap<String, u64>,
    rotten: Vec<Rot>,
}

/// Damage that was done to a layer, and repaired.
#[derive(Debug)]
struct Rot {
    layer: String,
    /// The image that has the layer, to repair it from.
    given: PathBuf,
    /// What its files hold when they are sound, and when they are damaged.
    files: [(&'static str, Vec<u8>, Vec<u8>); 2],
    /// When the damage began, when it was durable, and when it was reported as repaired.
    begun: u64,
    durable: u64,
    repaired: u64,
}

#[test]
fn e40_a_power_cut_on_ext4_takes_nothing_that_was_reported() {
    sandbox!();
    require_disk!("mkfs.ext4");
    cuts("ext4");
}

#[test]
fn e40_a_power_cut_on_xfs_takes_nothing_that_was_reported() {
    sandbox!();
    require_disk!("mkfs.xfs");
    cuts("xfs");
}

fn cuts(file_system: &str) {
    let count = std::env::var("OVERLAY2_CUTS").map_or(CUTS, |text| text.parse().unwrap());
    let mut disk = Disk::new(file_system);
    let reports = {
        let mounted = disk.mount_logged();
        work(&disk, &mounted)
    };
    let log = disk.log();
    let mut random = Random::new(sample::seed());
    let mut moments: Vec<_> = (0..count).map(|_| 1 + random.below(log.len())).collect();
    moments.sort_unstable();
    let (mut failures, mut promised) = (Vec::new(), 0);
    for moment in moments {
        let (durable, how) = disk.cut(&log, moment, &mut random);
        let mounted = match disk.mount_cut() {
            Ok(mounted) => mounted,
            Err(error) => {
                failures.push(format!("cut at {moment}, {how}: cannot be mounted: {error}"));
                continue;
            }
        };
        let seen =
            std::panic::catch_unwind(|| look(mounted.path(), &reports, durable, moment as u64));
        match seen {
            Ok(count) => promised += count,
            Err(_) => failures.push(format!("cut at {moment} of {}, {how}", log.len())),
        }
    }
    eprintln!(
        "power cut on {file_system}: {count} moments of {} writes and flushes, {} reports, {promised} of them looked for, {} losses",
        log.len(),
        reports.done.len() + reports.gone.len() + reports.rotten.len(),
        failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn command(place: &Path) -> Command {
    let mut command = Command::new(need::binary());
    command.arg("--root").arg(place.join("store"));
    command
}

/// Loads, commits, damages, repairs, removes and collects; notes what was reported when.
fn work(disk: &Disk, mounted: &Mounted) -> Reports {
    let mut reports = Reports::default();
    let place = mounted.path();
    let run = |args: &[&str]| Done::of(command(place).args(args)).good().stdout;
    for round in 0..6 {
        let name = format!("power.test/app{round}:latest");
        let own = Layer::new()
            .dir("own", 0o755)
            .file("own/number", 0o644, format!("{round}\n"))
            .file("own/large", 0o644, vec![b'l'; 200_000 + round]);
        let image = TestImage::new(&name)
            .layer("ADD base", crate::bed::base_layer())
            .layer("ADD own", own)
            .layer("RUN rm", Layer::new().whiteout("etc/gone"));
        let given = disk.path(&format!("given{round}"));
        image.write_oci(&given, Compression::Zstd);
        run(&["load", "-q", "-i", given.to_str().unwrap()]);
        reports.done.insert(format!("image {name}"), disk.seen());
        let web = format!("web{round}");
        run(&["create", "--name", &web, &name]);
        reports.done.insert(format!("container {web}"), disk.seen());
        let merged = run(&["mount", &web]);
        fs::write(Path::new(merged.trim_end()).join("own/number"), "changed\n").unwrap();
        run(&["unmount", &web]);
        let committed = format!("power.test/committed{round}:latest");
        run(&["commit", "-q", &web, &committed]);
        reports.done.insert(format!("image {committed}"), disk.seen());
        reports.rotten.push(rot(disk, place, round, &given));
        if round % 2 == 0 {
            // As one is removed whose remover dies: what only it stood on is left to a collection.
            let what = format!("image {committed}");
            reports.doomed.insert(what.clone(), disk.seen());
            forsake(place, &run(&["inspect", &committed]));
            run(&["gc"]);
            reports.gone.insert(what, disk.seen());
        } else {
            for (args, what) in [
                (["rm", web.as_str()], format!("container {web}")),
                (["rmi", committed.as_str()], format!("image {committed}")),
                (["rmi", name.as_str()], format!("image {name}")),
            ] {
                reports.doomed.insert(what.clone(), disk.seen());
                run(&args);
                reports.gone.insert(what, disk.seen());
            }
        }
    }
    reports
}

/// Damages the layer that is an image's own, and repairs it.
fn rot(disk: &Disk, place: &Path, round: usize, given: &Path) -> Rot {
    let number = format!("{round}\n").into_bytes();
    let large = vec![b'l'; 200_000 + round];
    let mut flipped = large.clone();
    flipped[100_000] = b'L';
    let files = [("own/number", number, b"rot\n".to_vec()), ("own/large", large, flipped)];
    let (number, sound, _) = &files[0];
    let mut layers = fs::read_dir(place.join("store/layers")).unwrap().map(|at| at.unwrap());
    let is_own = |at: &fs::DirEntry| {
        fs::read(at.path().join("diff").join(number)).is_ok_and(|found| found == *sound)
    };
    let layer = layers.find(is_own).unwrap();
    let begun = disk.seen();
    for (name, _, rotten) in &files {
        let file = layer.path().join("diff").join(name);
        let mut file = File::options().write(true).open(file).unwrap();
        file.write_all(rotten).unwrap();
        file.set_len(rotten.len() as u64).unwrap();
        file.sync_all().unwrap();
    }
    let durable = disk.seen();
    let found = Done::of(command(place).args(["check", "--quick"]));
    assert_eq!(found.status, 1, "{found:?}");
    Done::of(command(place).args(["repair", "--from"]).arg(given)).good();
    let repaired = disk.seen();
    let layer = layer.file_name().into_string().unwrap();
    Rot { layer, given: given.to_owned(), files, begun, durable, repaired }
}

/// Moves an image, as `inspect` shows it, into the trash.
fn forsake(place: &Path, inspected: &str) {
    let shown: serde_json::Value = serde_json::from_str(inspected).unwrap();
    let id = shown[0]["Id"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let (images, trash) = (place.join("store/images"), place.join("store/trash"));
    fs::rename(images.join(&id), trash.join(format!("image-{id}.0"))).unwrap();
    for dir in [trash, images] {
        File::open(dir).unwrap().sync_all().unwrap();
    }
}

/// Checks the whole store: nothing is wrong but what was damaged and not repaired yet, each file of
/// which is as it was damaged or as it was. That is repaired then. Returns how many repairs there
/// had been.
fn mend(place: &Path, reports: &Reports, durable: u64, moment: u64) -> usize {
    let checked = Done::of(command(place).args(["check", "--format", "json"]));
    let checked: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    for finding in checked["findings"].as_array().unwrap() {
        let layer = finding["layer"].as_str().unwrap_or_default();
        let known = reports.rotten.iter().find(|rot| layer.contains(&rot.layer));
        let rot = known.unwrap_or_else(|| panic!("{finding}"));
        assert!(rot.begun < moment && rot.repaired > durable, "{finding}: {rot:?}");
        let path = finding["path"].as_str().unwrap();
        assert!(rot.files.iter().any(|(name, ..)| *name == path), "{finding}");
        for (name, sound, rotten) in rot.files.iter().filter(|_| rot.durable <= durable) {
            let file = place.join("store/layers").join(&rot.layer).join("diff").join(name);
            let found = fs::read(file).unwrap();
            assert!(found == *sound || found == *rotten, "{name} is torn: {finding}");
        }
        Done::of(command(place).args(["repair", "--from"]).arg(&rot.given)).good();
    }
    Done::of(command(place).arg("check")).good();
    reports.rotten.iter().filter(|rot| rot.repaired <= durable).count()
}

/// Opens the store as it was left, and compares it with what was reported until then. Returns how
/// many reports there were.
fn look(place: &Path, reports: &Reports, durable: u64, moment: u64) -> usize {
    let run = |args: &[&str]| Done::of(command(place).args(args));
    let good = |args: &[&str]| run(args).good().stdout;
    if !place.join("store").exists() {
        assert!(reports.done.values().all(|at| *at > durable), "there is no store");
        return 0;
    }
    let mut looked_for = 0;
    good(&["ps", "-q"]);
    let staging = fs::read_dir(place.join("store/staging")).unwrap().count();
    assert_eq!(staging, 0, "swept when opened");
    // What is large is thrown away bit by bit, or at once.
    good(&["gc"]);
    for place in ["staging", "trash"].map(|name| place.join("store").join(name)) {
        let left: Vec<_> =
            fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left: {left:?}");
    }
    looked_for += mend(place, reports, durable, moment);
    for (what, at) in &reports.done {
        let doomed = reports.doomed.get(what).is_some_and(|at| *at < moment);
        if *at > durable || doomed {
            continue;
        }
        looked_for += 1;
        let (kind, name) = what.split_once(' ').unwrap();
        match kind {
            "image" => good(&["save", "-q", "-o", "/dev/null", name]),
            _ => good(&["diff", name]),
        };
    }
    for (what, at) in &reports.gone {
        if *at <= durable {
            looked_for += 1;
            let (_, name) = what.split_once(' ').unwrap();
            assert_eq!(run(&["inspect", name]).status, 1, "{what} is there again");
        }
    }
    // Whatever else is there is whole, and can go; nothing is left then.
    let list = |args: &[&str]| -> Vec<serde_json::Value> {
        serde_json::from_str(&good(&[args, &["--format", "json"]].concat())).unwrap()
    };
    for container in list(&["ps"]) {
        let name = container["name"].as_str().unwrap();
        good(&["diff", name]);
        good(&["mount", name]);
        good(&["unmount", name]);
        good(&["rm", name]);
    }
    for image in list(&["images"]) {
        let id = image["id"].as_str().unwrap();
        good(&["save", "-q", "-o", "/dev/null", id]);
        assert_eq!(image["names"].as_array().unwrap().len(), 1, "an image came with its name");
        good(&["rmi", id]);
    }
    for kind in ["layers", "chains", "images", "names", "containers", "container-names"] {
        let left: Vec<_> = fs::read_dir(place.join("store").join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    looked_for
}

/// Goes on where a logged disk can be made.
#[macro_export]
macro_rules! require_disk {
    ($mkfs:literal) => {
        require!(
            !need::in_user_namespace(),
            need::Lack::Root("only real root has disks that can be cut off")
        );
        require_tool!("qemu-storage-daemon");
        require_tool!("losetup");
        require_tool!($mkfs);
        require!(
            Path::new("/dev/fuse").exists(),
            need::Lack::Missing("there is no /dev/fuse, by which the disk is shown")
        );
    };
}
use require_disk;
