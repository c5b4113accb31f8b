//! The snapshotter under containerd: images imported, containers run, and a snapshotter killed.
//!
//! Needs root, and containerd, ctr, runc and a static busybox, as Debian has them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on ends")]
#![allow(clippy::disallowed_methods, reason = "a scene is laid out by path")]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Bed, Process, skip, wait_for};
use serde_json::json;
use sha2::{Digest, Sha256};

const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "overlay2.test/small:latest";

/// containerd in a directory of its own.
struct Containerd {
    bed: Bed,
    _process: Process,
}

/// What this machine lacks to run it.
fn lack() -> Option<String> {
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout != b"0\n" {
        return Some("needs root".into());
    }
    let works = |name: &str| {
        let output = Command::new(name).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    };
    let missing = ["containerd", "ctr", "runc"].into_iter().find(|name| !works(name));
    missing
        .map(|name| format!("needs {name}"))
        .or_else(|| (!Path::new(BUSYBOX).exists()).then(|| format!("needs a static {BUSYBOX}")))
}

impl Containerd {
    fn start(bed: Bed) -> Self {
        let path = bed.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/c-root\"\nstate = \"{path}/c-state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = \"{path}/c.sock\"\n\
             [proxy_plugins.overlay2]\n  type = \"snapshot\"\n  address = \"{path}/s.sock\"\n",
        );
        let file = bed.path().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(bed.path().join("containerd.log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("-c").arg(&file).stderr(log);
        let process = Process::start(&mut command);
        let containerd = Self { bed, _process: process };
        wait_for("containerd", || containerd.try_ctr(&["version"]).status.success());
        containerd
    }

    fn try_ctr(&self, args: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.bed.path().join("c.sock")).args(args);
        command.env("CONTAINERD_SNAPSHOTTER", "overlay2").output().unwrap()
    }

    fn ctr(&self, args: &[&str]) -> String {
        let output = self.try_ctr(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(&self, id: &str, script: &str) -> String {
        self.ctr(&["run", "--rm", IMAGE, id, "/bin/busybox", "sh", "-c", script])
    }

    fn import(&self, archive: &Path) -> Output {
        self.try_ctr(&["images", "import", archive.to_str().unwrap()])
    }

    fn snapshots(&self) -> Vec<String> {
        let text = self.ctr(&["snapshots", "ls"]);
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        text.lines().skip(1).filter_map(first).collect()
    }
}

/// Layers of an image: busybox; files; one of them deleted and one changed.
fn layers() -> Vec<Vec<u8>> {
    let mut base = tar::Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "proc/", "sys/", "dev/", "tmp/"] {
        append(&mut base, dir, 0o755, &[]);
    }
    append(&mut base, "bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
    let mut files = tar::Builder::new(Vec::new());
    append(&mut files, "etc/old", 0o644, b"old\n");
    append(&mut files, "etc/motd", 0o644, b"first\n");
    for n in 0..200 {
        append(&mut files, &format!("data/{n}"), 0o644, &[b'x'; 4096]);
    }
    let mut changes = tar::Builder::new(Vec::new());
    append(&mut changes, "etc/.wh.old", 0o644, b"");
    append(&mut changes, "etc/motd", 0o644, b"second\n");
    [base, files, changes].map(|tar| tar.into_inner().unwrap()).into()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let kind =
        if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data).unwrap();
}

/// Writes an OCI archive of the image.
fn archive(place: &Path) -> PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    let mut blob = |bytes: &[u8], kind: &str| {
        let digest = hex::encode(Sha256::digest(bytes));
        append(&mut tar, &format!("blobs/sha256/{digest}"), 0o644, bytes);
        let media = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let layers: Vec<_> = layers().iter().map(|layer| blob(layer, "layer.v1.tar")).collect();
    // Not compressed, so the digest is the diff ID.
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/busybox", "sh"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let mut manifest = blob(manifest.to_string().as_bytes(), "manifest.v1+json");
    manifest["annotations"] = json!({ "io.containerd.image.name": IMAGE });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    append(&mut tar, "index.json", 0o644, index.to_string().as_bytes());
    append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    let path = place.join("image.tar");
    std::fs::File::create(&path).unwrap().write_all(&tar.into_inner().unwrap()).unwrap();
    path
}

#[test]
fn images_are_imported_and_containers_run() {
    if let Some(lack) = lack() {
        return skip("images_are_imported_and_containers_run", &lack);
    }
    let bed = Bed::new();
    let mut snapshotter = bed.serve();
    let c = Containerd::start(bed);
    let archive = archive(c.bed.path());
    let imported = c.import(&archive);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    assert_eq!(c.snapshots().len(), 3);
    assert_eq!(c.run("one", "cat /etc/motd; ls /etc; ls /data | wc -l"), "second\nmotd\n200\n");
    // Each container has what it wrote, and no other.
    let wrote =
        c.run("two", "echo mine > /etc/motd; rm -r /data; mkdir /data; cat /etc/motd; ls /data");
    assert_eq!(wrote, "mine\n");
    assert_eq!(c.run("three", "cat /etc/motd; ls /data | wc -l"), "second\n200\n");

    // A snapshot by hand: prepared, written, committed, run from.
    let top = c.snapshots_on_top();
    c.ctr(&["snapshots", "prepare", "by-hand", &top]);
    let mounts = c.ctr(&["snapshots", "mounts", "/nowhere", "by-hand"]);
    assert!(mounts.contains("-t overlay") && mounts.contains("lowerdir="), "{mounts}");
    snapshotter.kill();
    assert!(!c.try_ctr(&["snapshots", "info", "by-hand"]).status.success());
    let _again = c.serve_again();
    c.ctr(&["snapshots", "commit", "committed", "by-hand"]);
    let info = c.ctr(&["snapshots", "info", "committed"]);
    assert!(info.contains("\"Kind\": \"Committed\""), "{info}");
    assert!(c.ctr(&["snapshots", "usage", "committed"]).contains("committed"));
    assert!(!c.try_ctr(&["snapshots", "rm", &top]).status.success(), "committed stands on it");
    c.ctr(&["snapshots", "rm", "committed"]);
    c.ctr(&["images", "rm", "--sync", IMAGE]);
    wait_for("the snapshots of the image", || c.snapshots().is_empty());
    wait_for("their files", || {
        c.bed.names("snapshots").is_empty() && c.bed.names("trash").is_empty()
    });
}

impl Containerd {
    /// Starts the snapshotter again, and waits until containerd has tried it again.
    fn serve_again(&self) -> Process {
        let process = self.bed.serve();
        // A list of nothing is answered without asking it.
        wait_for("a new connection", || {
            self.try_ctr(&["snapshots", "prepare", "probe"]).status.success()
        });
        self.ctr(&["snapshots", "rm", "probe"]);
        process
    }

    /// The committed snapshot on which none stands.
    fn snapshots_on_top(&self) -> String {
        let text = self.ctr(&["snapshots", "ls"]);
        let rows: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let is_parent = |name: &str| rows.iter().any(|row| row.len() == 3 && row[1] == name);
        let top = rows.iter().find(|row| !is_parent(row[0])).unwrap();
        top[0].to_owned()
    }
}

#[test]
fn a_snapshotter_killed_during_imports_loses_nothing() {
    if let Some(lack) = lack() {
        return skip("a_snapshotter_killed_during_imports_loses_nothing", &lack);
    }
    let bed = Bed::new();
    let mut snapshotter = bed.serve();
    let c = Containerd::start(bed);
    let archive = archive(c.bed.path());
    for round in 0..4 {
        std::thread::scope(|scope| {
            let import = scope.spawn(|| c.import(&archive));
            std::thread::sleep(std::time::Duration::from_millis(20 + 60 * round));
            snapshotter.kill();
            // It came to its end, or says that it did not.
            drop(import.join().unwrap());
        });
        snapshotter = c.serve_again();
        assert!(c.bed.names("damaged").is_empty());
        let imported = c.import(&archive);
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        let id = format!("after{round}");
        assert_eq!(c.run(&id, "cat /etc/motd; ls /data | wc -l"), "second\n200\n");
        c.ctr(&["images", "rm", "--sync", IMAGE]);
        wait_for("the collection of what was left", || {
            c.ctr(&["content", "ls", "-q"]).is_empty() && c.snapshots().is_empty()
        });
    }
}
