//! The snapshotter as a process, in a directory that goes with the test.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on ends"
)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use overlay2_snapshotter::proto::{CommitRequest, KeyRequest, ListRequest, PrepareRequest};
use overlay2_snapshotter::rpc::snapshots_client::SnapshotsClient;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = SnapshotsClient<Channel>;

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

    /// Tells it to end.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.0.id();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status();
        assert!(sent.unwrap().success(), "kill -{name}");
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self, most: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < most, "it does not end within {most:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it said on its standard error, where that is piped; to be asked once it has ended.
    pub(crate) fn log(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.0.stderr {
            stderr.read_to_string(&mut text).unwrap();
        }
        text
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

    /// The snapshotter on these.
    pub(crate) fn command(&self) -> Command {
        self.command_in(&self.root())
    }

    /// As [`command`](Self::command), on another directory of snapshots.
    pub(crate) fn command_in(&self, root: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_overlay2-snapshotter"));
        command.arg("--root").arg(root).arg("--address").arg(self.socket());
        command
    }

    /// Starts the snapshotter, and waits until it listens.
    pub(crate) fn serve(&self) -> Process {
        self.wait_for_it(&mut self.command())
    }

    /// As [`serve`](Self::serve), of a command that comes to it.
    pub(crate) fn wait_for_it(&self, command: &mut Command) -> Process {
        let process = Process::start(command);
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

/// What clients run on.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// A client of the snapshotter that listens there.
pub(crate) async fn connect(bed: &Bed) -> Client {
    let socket = bed.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://socket");
    SnapshotsClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// A snapshot on another, or on nothing where that is empty.
pub(crate) fn prepare(key: &str, parent: &str) -> PrepareRequest {
    PrepareRequest { key: key.into(), parent: parent.into(), ..Default::default() }
}

/// What is asked of one snapshot.
pub(crate) fn key(key: &str) -> KeyRequest {
    KeyRequest { key: key.into(), ..Default::default() }
}

/// A commit, as with [`prepare`].
pub(crate) fn commit(name: &str, key: &str, parent: &str) -> CommitRequest {
    let (name, key, parent) = (name.into(), key.into(), parent.into());
    CommitRequest { name, key, parent, ..Default::default() }
}

/// The names of the snapshots that match.
pub(crate) async fn listed(client: &mut Client, filters: &[&str]) -> Vec<String> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let request = ListRequest { filters, ..Default::default() };
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        names.extend(part.info.into_iter().map(|info| info.name));
    }
    names
}
