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
use std::path::Path;
use std::process::Command;

use common::need::{self, Lack};
use common::{Compression, Layer, Store, TestImage};
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
    for applet in ["sh", "ls", "cat", "rm", "chmod"] {
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

macro_rules! runtime {
    ($($test:ident: $runtime:expr;)*) => {$(
        #[test]
        fn $test() {
            require_tool!($runtime);
            require!(
                Path::new(BUSYBOX).is_file(),
                Lack::Missing("a statically linked /bin/busybox is not installed")
            );
            sandbox!();
            a_process_sees_the_image_and_its_writes_stay($runtime);
        }
    )*};
}

runtime! {
    crun_runs_a_process: "crun";
    runc_runs_a_process: "runc";
}
