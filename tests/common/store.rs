//! A store of a test's own, and the command run on it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::image::{Compression, TestImage};
use super::need;

/// An empty store in a scratch directory; both go, unmounted, when it is dropped.
#[derive(Debug)]
pub struct Store {
    scratch: Scratch,
    root: PathBuf,
}

/// What a run of the command left.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Store {
    /// A store that does not exist yet, in a scratch directory of its own.
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let root = scratch.path().join("store");
        Self { scratch, root }
    }

    /// The same, with a place for the store that lies elsewhere.
    pub fn at(root: PathBuf) -> Self {
        Self { root, ..Self::new() }
    }

    /// Where the test may put its files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The store's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The command, with the store named.
    pub fn command(&self) -> Command {
        let mut command = Command::new(need::binary());
        command.arg("--root").arg(&self.root).stdin(Stdio::null());
        command
    }

    /// Runs the command to its end, whatever that is.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        Done::of(self.command().args(args))
    }

    /// Runs the command, which has to succeed; returns its standard output without the last
    /// newline.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        need::run(self.command().args(args))
    }

    /// Runs the command, which has to fail with status 1, an error on standard error and nothing
    /// on standard output; returns the error.
    pub fn fails<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.run(args).failed()
    }

    /// Runs the command with `--format json` and parses what it prints.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let text = need::run(self.command().args(args).args(["--format", "json"]));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    /// Loads an image from a file or directory and returns its name.
    pub fn load(&self, source: &Path) -> String {
        self.ok(["load".as_ref(), "-q".as_ref(), "-i".as_ref(), source.as_os_str()])
    }

    /// Loads an image from an archive given on standard input and returns its name.
    pub fn load_from_stdin(&self, source: &Path) -> String {
        let done = Done::of(self.command().args(["load", "-q"]).stdin(pipe_from(source)));
        assert_eq!(done.status, 0, "{}", done.stderr);
        done.stdout.trim_end().to_owned()
    }

    /// Creates a container of an image and returns the container's name.
    pub fn create(&self, image: &str) -> String {
        self.ok(["create", image])
    }

    /// Mounts a container and returns the directory.
    pub fn mount(&self, container: &str) -> PathBuf {
        let path = PathBuf::from(self.ok(["mount", container]));
        assert!(path.is_absolute() && path.is_dir(), "mount printed {path:?}");
        path
    }

    /// The one object that `inspect` prints for a name.
    pub fn inspect(&self, name: &str) -> Value {
        let printed = self.json(["inspect", name]);
        let [object] = printed.as_array().unwrap().as_slice() else {
            panic!("inspect prints one object in an array: {printed}")
        };
        object.clone()
    }

    /// `GraphDriver.Data` of an image or a container: a directory by its key.
    pub fn graph_dir(&self, name: &str, key: &str) -> PathBuf {
        let object = self.inspect(name);
        let data = &object["GraphDriver"]["Data"];
        PathBuf::from(data[key].as_str().unwrap_or_else(|| panic!("no {key} in {data}")))
    }

    /// The lower directories of an image or a container, topmost first.
    pub fn lower_dirs(&self, name: &str) -> Vec<PathBuf> {
        let joined = self.graph_dir(name, "LowerDir");
        joined.to_str().unwrap().split(':').map(PathBuf::from).collect()
    }

    /// The diff IDs of an image, lowest first.
    pub fn diff_ids(&self, image: &str) -> Vec<String> {
        let object = self.inspect(image);
        let layers = object["RootFS"]["Layers"].as_array().unwrap();
        layers.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Every name in the store but the directories and files of its first level, which may
    /// come with the first use: what has to be the same before and after something that failed.
    pub fn contents(&self) -> Vec<String> {
        let mut names = Vec::new();
        list(&self.root, &self.root, &mut names);
        names.retain(|name| name.contains('/'));
        names.sort();
        names
    }

    /// Checks that images, containers, layers and all of their files are gone; what is large is
    /// still being thrown away when its removal returns.
    pub fn assert_empty(&self, before: &[String]) {
        self.ok(["gc"]);
        assert_eq!(self.json(["images"]), Value::Array(Vec::new()));
        assert_eq!(self.json(["ps"]), Value::Array(Vec::new()));
        assert_eq!(self.contents(), before);
    }
}

/// A scratch directory, which takes what is mounted in it along when it goes.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("overlay2-test-").tempdir().unwrap())
    }

    /// One of a short path, whatever `TMPDIR` says: some programs bound the length of theirs.
    pub fn short() -> Self {
        Self(tempfile::Builder::new().prefix("o2-").tempdir_in("/tmp").unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for mounted in mounts_beneath(self.path()) {
            let _ = rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Done {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks that it failed as it should, and returns the error.
    pub fn failed(self) -> String {
        assert_eq!(self.status, 1, "{self:?}");
        assert_eq!(self.stdout, "", "errors go to standard error");
        assert!(!self.stderr.trim().is_empty(), "an error says what is wrong");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

/// The mount points at and below a directory, innermost first.
pub fn mounts_beneath(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(directory)).collect();
    points.reverse();
    points
}

/// A pipe that a thread fills from a file, so that the reader cannot seek.
pub fn pipe_from(source: &Path) -> Stdio {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut file = File::open(source).unwrap();
    std::thread::spawn(move || {
        // A reader that has seen enough closes its end.
        let _ = std::io::copy(&mut file, &mut writer).and_then(|_| writer.flush());
    });
    Stdio::from(reader)
}

fn list(root: &Path, directory: &Path, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap();
        let kind = path.symlink_metadata().unwrap().mode() & 0o170_000;
        names.push(format!("{} {kind:o}", name.display()));
        if kind == 0o040_000 {
            list(root, &path, names);
        }
    }
}

/// podman with storage of its own, which goes when this is dropped.
#[derive(Debug)]
pub struct Podman {
    place: Scratch,
    /// podman takes 50 characters at most for its path.
    run: Scratch,
}

impl Podman {
    /// One without images.
    pub fn new() -> Self {
        Self { place: Scratch::new(), run: Scratch::short() }
    }

    /// Runs it to its end; returns what it printed.
    pub fn run(&self, args: &[&str]) -> String {
        self.run_by(Command::new("podman"), args)
    }

    /// Runs what an image says; returns what that printed. It gets what any machine can give: no
    /// network, no control groups, few descriptors and processes.
    pub fn run_image(&self, image: &str) -> String {
        // crun refuses a mixture of the two versions of control groups, which it is not to use here.
        let script = "mount -t tmpfs none /sys/fs/cgroup && exec podman \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]);
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
        let alone = ["run", "--rm", "--network=none", "--cgroups=disabled"];
        self.run_by(command, &[&alone[..], &limits, &[image]].concat())
    }

    fn run_by(&self, mut command: Command, args: &[&str]) -> String {
        let place = self.place.path();
        command.arg("--root").arg(place.join("root")).arg("--runroot").arg(self.run.path());
        command.args(["--storage-driver", "overlay", "--log-level", "error"]).args(args);
        need::run(command.env("TMPDIR", place).env("HOME", place))
    }
}

/// The image of [`tiny`].
pub const TINY: &str = "example.test/tiny:latest";

/// A store with an image of one file, and a container `c` on it.
pub fn tiny(options: &[&str]) -> Store {
    let store = Store::new();
    let image = TestImage::tiny(TINY);
    assert_eq!(store.load(&image.write_oci(&store.scratch().join("tiny"), Compression::Raw)), TINY);
    store.ok(["create", "--name", "c"].iter().chain(options).chain(&[TINY]));
    store
}
