//! OCI runtimes run a process in a container's mounted root filesystem.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::need::{self, Lack};
use common::{Compression, Done, Layer, Store, TestImage};
use serde_json::json;

const NAME: &str = "runtime.test/gateway:latest";
const BUSYBOX: &str = "/bin/busybox";

/// A small system with a shell, and the service on top.
fn image() -> TestImage {
    let mut base = Layer::new();
    for name in
        "bin dev etc home lib media mnt opt proc root run sbin srv sys tmp usr var".split(' ')
    {
        base = base.dir(name, 0o755);
    }
    base = base.file("bin/busybox", 0o755, fs::read(BUSYBOX).unwrap());
    for applet in ["sh", "ls", "cat", "rm", "chmod", "id"] {
        base = base.symlink(&format!("bin/{applet}"), "busybox");
    }
    let app = || Layer::new().dir("app", 0o755);
    TestImage::new(NAME)
        .layer("ADD rootfs.tar /", base)
        .layer("ADD ./config.yaml /app/", app().file("app/config.yaml", 0o644, "listen: 8081\n"))
        .layer("COPY 0voiceGateway ./", app().file("app/0voiceGateway", 0o755, "#!/bin/sh\n"))
}

/// The least that a runtime has to be told.
fn config(root: &Path, script: &str) -> String {
    let namespaces: Vec<_> =
        ["pid", "mount", "ipc", "uts"].into_iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-ec", script],
            "env": ["PATH=/bin"],
            "cwd": "/"
        },
        "root": {"path": root},
        "hostname": "gateway",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"]
            }
        ],
        "linux": {"namespaces": namespaces}
    })
    .to_string()
}

/// Runs a shell script in a mounted container by a runtime; returns what it printed.
fn run_in(runtime: &str, store: &Store, root: &Path, script: &str) -> String {
    let bundle = store.scratch().join(format!("bundle-{runtime}"));
    fs::create_dir_all(&bundle).unwrap();
    fs::write(bundle.join("config.json"), config(root, script)).unwrap();
    let state = store.scratch().join(format!("state-{runtime}"));
    let id = format!("overlay2-test-{}", std::process::id());
    // crun refuses a mixture of the two versions of control groups, which it is not to use here.
    let words = match runtime {
        "crun" => {
            "mount -t tmpfs none /sys/fs/cgroup && exec crun --cgroup-manager=disabled --root"
        }
        _ => "exec runc --root",
    };
    need::run(
        Command::new("unshare")
            .args(["-m", "sh", "-c", &format!("{words} \"$@\""), "sh"])
            .arg(&state)
            .arg("run")
            .arg("--bundle")
            .arg(&bundle)
            .arg(id),
    )
}

fn a_process_sees_the_image_and_its_writes_stay(runtime: &str) {
    let store = Store::new();
    store.load(&image().write_oci(&store.scratch().join("image"), Compression::Zstd));
    store.ok(["create", "--name", "one", NAME]);
    store.ok(["create", "--name", "two", NAME]);
    let (one, two) = (store.mount("one"), store.mount("two"));

    assert_eq!(run_in(runtime, &store, &one, "ls /app"), "0voiceGateway\nconfig.yaml");
    assert_eq!(
        run_in(runtime, &store, &one, "ls /").split_whitespace().collect::<Vec<_>>().join(" "),
        "app bin dev etc home lib media mnt opt proc root run sbin srv sys tmp usr var"
    );
    let script = "echo 'listen: 9090' >/app/config.yaml; rm /app/0voiceGateway; echo new >/app/new; \
                  cat /app/config.yaml; ls /app";
    assert_eq!(run_in(runtime, &store, &one, script), "listen: 9090\nconfig.yaml\nnew");
    assert_eq!(
        run_in(runtime, &store, &two, "cat /app/config.yaml; ls /app"),
        "listen: 8081\n0voiceGateway\nconfig.yaml"
    );
    assert_eq!(
        store.ok(["diff", "one"]),
        "C /app\nD /app/0voiceGateway\nC /app/config.yaml\nA /app/new"
    );
    assert_eq!(store.ok(["diff", "two"]), "");
    store.ok(["unmount", "one"]);
    store.ok(["unmount", "two"]);
    store.ok(["rm", "one", "two"]);
}

/// What `overlay2 run` prints and its status, for an image that says what is to run.
fn a_command_runs_in_a_container_of_its_own(runtime: &str) {
    let store = Store::new();
    store.load(&image().write_oci(&store.scratch().join("image"), Compression::Raw));
    let before = store.contents();
    let run = |args: &[&str]| {
        let mut command = store.command();
        // The directory of its own that it needs is to go with the test.
        command.env("TMPDIR", store.scratch());
        Done::of(command.args(["run", "--runtime", runtime, "--entrypoint="]).args(args))
    };
    let script = "cat /app/config.yaml; id -u; echo $A; echo x >/app/config.yaml; pwd; exit 7";
    let done = run(&["-e", "A=b", "-w", "/app", NAME, "--", "/bin/sh", "-c", script]);
    assert_eq!((done.status, done.stdout.as_str()), (7, "listen: 8081\n0\nb\n/app\n"), "{done:?}");
    let done = run(&["-u", "7:8", NAME, "--", "/bin/sh", "-c", "id -u; id -g; exit 200"]);
    assert_eq!((done.status, done.stdout.as_str()), (200, "7\n8\n"), "{done:?}");
    assert_eq!(store.contents(), before, "{runtime}: nothing is left");

    let done = run(&["--keep", "--name", "kept", NAME, "--", "/bin/sh", "-c", "rm -r /app"]);
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(store.ok(["diff", "kept"]), "D /app");
    store.ok(["rm", "kept"]);

    for (args, words) in [
        (&[NAME][..], "does not say what to run"),
        (&["-u", "nobody", NAME, "--", "/bin/sh"], "nobody"),
        (&["-w", "app", NAME, "--", "/bin/sh"], "not absolute"),
        (&["runtime.test/none", "--", "/bin/sh"], "there is no image"),
    ] {
        let error = run(args).failed();
        assert!(error.contains(words), "{error}");
    }
    assert_ne!(run(&[NAME, "--", "/nowhere"]).status, 0);
    assert_eq!(store.contents(), before, "{runtime}: nothing is left of what failed");
}

/// What ends `overlay2 run` ends what runs in it, and two commands may run in one container.
fn signals_reach_the_command(runtime: &str) {
    let store = Store::new();
    store.load(&image().write_oci(&store.scratch().join("image"), Compression::Raw));
    store.ok(["create", "--name", "c", NAME]);
    let before = store.contents();
    let command = |verb: &str, what: &str, script: &str| {
        let mut command = store.command();
        command.env("TMPDIR", store.scratch()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args([verb, "--runtime", runtime, "--entrypoint=", what]);
        command.args(["--", "/bin/sh", "-c", script]);
        command
    };
    let wait =
        "trap 'echo got; exit 9' TERM; echo ready; while :; do /bin/busybox sleep 0.05; done";
    let mut child = command("run", NAME, wait).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &ended.stdout[..]), (Some(9), &b"got\n"[..]), "{ended:?}");
    assert_eq!(store.contents(), before, "{runtime}: nothing is left");

    let read = "echo ready; read line; echo $line";
    let mut first = command("exec", "c", read).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let second = Done::of(&mut command("exec", "c", "echo second"));
    assert_eq!((second.status, second.stdout.as_str()), (0, "second\n"), "{second:?}");
    // What one left that was killed goes with the next; that of a living one stays.
    let places = || {
        let names = std::fs::read_dir(store.scratch()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("overlay2-run-")).collect::<Vec<_>>()
    };
    let living = places();
    assert_eq!(living.len(), 1);
    std::fs::create_dir(store.scratch().join("overlay2-run-dead-1")).unwrap();
    assert_eq!(Done::of(&mut command("exec", "c", "true")).status, 0);
    assert_eq!(places(), living);
    first.stdin.take().unwrap().write_all(b"first\n").unwrap();
    let first = first.wait_with_output().unwrap();
    assert_eq!((first.status.code(), &first.stdout[..]), (Some(0), &b"first\n"[..]), "{first:?}");
    store.ok(["rm", "c"]);
}

#[test]
fn a_bundle_is_mounted_and_told_to_a_runtime() {
    require!(
        Path::new(BUSYBOX).is_file(),
        Lack::Missing("a statically linked /bin/busybox is not installed")
    );
    sandbox!();
    let store = Store::new();
    store.load(&image().write_oci(&store.scratch().join("image"), Compression::Raw));
    store.ok(["create", "--name", "c", NAME]);
    let dir = store.scratch().join("bundle");
    let text = dir.to_str().unwrap();
    let refused = store.fails(["bundle", "--entrypoint=", "c", text]);
    assert!(refused.contains("does not say what to run"), "{refused}");
    assert_eq!(store.inspect("c")["State"]["Status"], "created", "it is mounted no more");

    assert_eq!(store.ok(["bundle", "--entrypoint=/bin/sh", "c", text]), text);
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], json!(["/bin/sh"]));
    assert_eq!(config["root"]["path"], json!(dir.join("rootfs")));
    assert!(dir.join("rootfs/bin/busybox").is_file());
    let refused = store.fails(["bundle", "c", text, "--", "/bin/sh"]);
    assert!(refused.contains("config.json"), "{refused}");
    store.ok(["unmount", "c"]);
    store.ok(["rm", "c"]);
}

macro_rules! runtime {
    ($($test:ident: $act:ident($runtime:expr);)*) => {$(
        #[test]
        fn $test() {
            require_tool!($runtime);
            require!(
                Path::new(BUSYBOX).is_file(),
                Lack::Missing("a statically linked /bin/busybox is not installed")
            );
            sandbox!();
            $act($runtime);
        }
    )*};
}

runtime! {
    crun_runs_a_process: a_process_sees_the_image_and_its_writes_stay("crun");
    runc_runs_a_process: a_process_sees_the_image_and_its_writes_stay("runc");
    run_by_crun: a_command_runs_in_a_container_of_its_own("crun");
    run_by_runc: a_command_runs_in_a_container_of_its_own("runc");
    signals_by_crun: signals_reach_the_command("crun");
    signals_by_runc: signals_reach_the_command("runc");
}
