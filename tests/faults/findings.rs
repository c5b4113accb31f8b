//! What the faults have brought to light, each by itself.

use std::fs;
use std::io::Write;
use std::process::Command;

use overlay2::changeset::DiffOptions;
use overlay2::mount::{MountOptions, Syncing};
use overlay2::{Driver, ErrorKind, Watch};

use crate::bed::Bed;
use crate::common::need;
use crate::trace::{self, Fault, Outcome};
use crate::{require_tool, sandbox};

#[test]
fn e44_a_volatile_mount_that_ended_otherwise_is_no_crash_unless_the_machine_was() {
    sandbox!();
    let bed = Bed::with_container();
    let place = bed.place();
    let driver = Driver::open(place.join("store")).unwrap();
    let mut volatile = MountOptions::default();
    volatile.syncing = Syncing::Volatile;
    // Held by a value, and let go.
    drop(driver.mount_detached("web", &volatile).unwrap());
    // Unmounted by somebody who knows nothing of the mark.
    let mounted = driver.mount("web", None, &volatile).unwrap();
    need::run(Command::new("umount").arg(&mounted.target));
    driver.mount("web", None, &volatile).unwrap();
    driver.unmount("web").unwrap();
    // Mounted when the machine went down.
    let mounted = driver.mount("web", None, &volatile).unwrap();
    need::run(Command::new("umount").arg(&mounted.target));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for name in ["mount.json", "unsynced.json"] {
        let record = mounted.target.with_file_name(name);
        let text = fs::read_to_string(&record).unwrap();
        let before = text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
        assert_ne!(before, text, "{name}");
        fs::write(&record, before).unwrap();
    }
    let refused = driver.mount("web", None, &volatile).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    bed.clear();
}

/// Removes the container `web` when it is written to first.
struct Remover<'a>(Option<&'a Driver>);

impl Write for Remover<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(driver) = self.0.take() {
            driver.remove_container("web", Watch::new()).unwrap();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn e82_changes_of_a_container_that_goes_meanwhile_are_not_taken_for_whole() {
    sandbox!();
    let bed = Bed::with_container();
    for export in [false, true] {
        let place = bed.place();
        let driver = Driver::open(place.join("store")).unwrap();
        let (mut out, options) = (Remover(Some(&driver)), DiffOptions::default());
        let read = match export {
            true => driver.export("web", &mut out, &options, Watch::new()),
            false => driver.diff("web", &mut out, &options, Watch::new()),
        };
        let error = read.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("was removed while it was read"), "{error}");
    }
    bed.clear();
}

#[test]
fn e81_an_interrupted_look_at_what_an_archive_is_is_tried_again() {
    sandbox!();
    require_tool!("strace");
    let bed = Bed::new();
    let archive = bed.path("given/app.tar.gz");
    let load = |place: &std::path::Path| {
        let mut command = bed.command(place);
        command.args(["load", "-q", "-i"]).arg(&archive);
        command
    };
    let place = bed.place();
    let calls = trace::calls(&load(&place), &bed.path("log"), &place);
    let looks = |point: &trace::Point| point.call == "pread64" && point.line.contains(", 512, 0)");
    let look = calls.into_iter().find(looks).unwrap();
    let done = trace::run(&load(&bed.place()), &bed.path("log"), &look, Fault::Error("EINTR"));
    let Some(Outcome::Ended(done)) = done else { panic!("{look:?}: {done:?}") };
    done.good();
    bed.clear();
}
