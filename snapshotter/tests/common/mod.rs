//! The snapshotter as a process, in a directory that goes with the test.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on ends"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Says why a test did not run; where everything is required, that is a failure.
pub(crate) fn skip(name: &str, reason: &str) {
    eprintln!("SKIP {name}: {reason}");
    let required = std::env::var_os("OVERLAY2_REQUIRE").is_some_and(|value| value == "all");
    assert!(!required, "{name} has to run: {reason}");
}

/// A process that ends with the test, however that ends.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// As by the kernel that ran out of memory.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A directory of snapshots and its socket.
pub(crate) struct Bed {
    place: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("s.sock")
    }

    /// Starts the snapshotter, and waits until it listens.
    pub(crate) fn serve(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_overlay2-snapshotter"));
        command.arg("--root").arg(self.root()).arg("--address").arg(self.socket());
        let process = Process::start(&mut command);
        wait_for("the snapshotter", || {
            std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
        process
    }

    /// The names in a folder of the directory of snapshots.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Waits until something is so, a minute at most.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
