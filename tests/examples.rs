//! The examples do what they say: the image that one builds, the program that another runs.
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

use std::path::Path;
use std::process::Command;

use common::image::layout_of_tar;
use common::need::{self, Lack};
use common::store::{Podman, Scratch};
use common::{Done, Store};
use serde_json::{Value, json};

const IMAGE: &str = "example/gateway:latest";
const BUSYBOX: &str = "/bin/busybox";

/// An example, with its scratch files in a directory of the test's own.
fn example(name: &str, scratch: &Path) -> Command {
    let mut command = Command::new(need::example(name));
    command.env("TMPDIR", scratch);
    command
}

/// Builds the image into a store; returns what was printed.
fn build(store: &Store) -> String {
    need::run(example("build_steps", store.scratch()).arg(store.root()))
}

#[test]
fn build_steps_makes_the_image_that_its_dockerfile_describes() {
    let store = Store::new();
    let printed = build(&store);
    assert!(printed.contains("\n12 steps were made."), "{printed}");
    assert!(printed.contains("6 diff IDs = 5 lower directories + 1 upper"), "{printed}");

    let history = store.json(["history", IMAGE]);
    let steps = history.as_array().unwrap();
    let told: Vec<_> = steps
        .iter()
        .rev()
        .map(|step| {
            let words = step["created_by"].as_str().unwrap();
            (words, step["size"].as_u64().unwrap(), !step["diff_id"].is_null())
        })
        .collect();
    assert_eq!(told[0].0, "ADD rootfs.tar /");
    assert!(told[0].1 > 100_000 && told[0].2, "{told:?}");
    let gateway = told[5].1;
    assert!((20_200_000..20_201_000).contains(&gateway), "{gateway}");
    assert_eq!(
        told[1..],
        [
            ("ADD ./curl-amd64 /usr/bin/curl", 3_580_000, true),
            // The whole file again: a change of the mode alone copies it up.
            ("RUN chmod +x /usr/bin/curl", 3_580_000, true),
            ("WORKDIR /app/", 0, true),
            ("ADD ./config.yaml /app/config.yaml", 356, true),
            ("COPY --from=stage0 /build/0voiceGateway ./", gateway, true),
            ("ENV MODE=release", 0, false),
            ("ENTRYPOINT [\"/app/0voiceGateway\"]", 0, false),
            ("CMD [\"--serve\"]", 0, false),
        ]
    );
    let shown = store.inspect(IMAGE);
    assert_eq!(shown["RootFS"]["Layers"].as_array().unwrap().len(), 6);
    assert_eq!(store.lower_dirs(IMAGE).len(), 5);
    assert_eq!(
        shown["Config"],
        json!({
            "Entrypoint": ["/app/0voiceGateway"], "Cmd": ["--serve"],
            "Env": ["MODE=release"], "WorkingDir": "/app",
        })
    );
    assert_eq!(store.ok(["ls", &format!("{IMAGE}:/app")]), "0voiceGateway\nconfig.yaml");
    assert_eq!(
        store.ok(["ls", &format!("{IMAGE}:/")]).split('\n').collect::<Vec<_>>().join(" "),
        "app bin dev etc home lib media mnt opt proc root run sbin srv sys tmp usr var"
    );
    let modes = store.json(["stat", &format!("{IMAGE}:/usr/bin/curl")]);
    assert_eq!(modes[0]["mode"], "0755");
    assert_eq!(store.json(["ps"]), json!([]), "no container is left");

    let again = build(&store);
    assert!(again.contains("\n0 steps were made."), "{again}");
    assert_eq!(again.matches("CACHED").count(), 12, "{again}");
    assert_eq!(store.json(["history", IMAGE]), history);

    // Nothing but the names of the cache holds what the stages left.
    for image in store.json(["images"]).as_array().unwrap() {
        for name in image["names"].as_array().unwrap() {
            store.ok(["rmi", name.as_str().unwrap()]);
        }
    }
    assert_eq!(store.json(["layer", "ls"]), json!([]));
}

#[test]
fn build_steps_makes_an_image_that_podman_runs() {
    require_tool!("podman");
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("podman as a plain user makes a user namespace of its own")
    );
    require!(
        Path::new(BUSYBOX).is_file(),
        Lack::Missing("a statically linked /bin/busybox is not installed")
    );
    let store = Store::new();
    build(&store);
    let file = store.scratch().join("gateway.tar");
    store.ok(["save", IMAGE, "-o", file.to_str().unwrap()]);
    let layout = layout_of_tar(&file, &store.scratch().join("layout"));
    assert!(layout.join("index.json").is_file());

    let podman = Podman::new();
    let printed = podman.run(&["load", "-q", "-i", file.to_str().unwrap()]);
    let name = printed.rsplit(' ').next().unwrap();
    let shown: Value = serde_json::from_str(&podman.run(&["inspect", name])).unwrap();
    assert_eq!(shown[0]["RootFS"]["Layers"], json!(store.diff_ids(IMAGE)));
    assert_eq!(podman.run_image(name), "0voiceGateway --serve, release\nlisten: 8081");
    let history = podman.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", name]);
    assert_eq!(history.lines().count(), 9, "{history}");
    assert!(history.lines().next().unwrap().contains("CMD"), "{history}");
}

#[test]
fn build_steps_without_a_store_builds_twice_and_leaves_nothing() {
    let scratch = Scratch::new();
    let printed = need::run(&mut example("build_steps", scratch.path()));
    let made: Vec<_> = printed.lines().filter(|line| line.contains("steps were made")).collect();
    assert_eq!(made, ["12 steps were made.", "0 steps were made."]);
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
}

/// Whether namespaces can be made here: as root, or as a plain user who may.
fn namespaces() -> bool {
    let flags = if need::is_root() { "-mpf" } else { "-Umpfr" };
    Command::new("unshare").args([flags, "true"]).output().is_ok_and(|it| it.status.success())
}

#[test]
fn tiny_runtime_runs_itself_in_a_container() {
    require!(namespaces(), Lack::Missing("no namespaces can be made here"));
    let scratch = Scratch::new();
    let printed = need::run(&mut example("tiny_runtime", scratch.path()));
    let lines: Vec<_> = printed.lines().collect();
    assert!(lines[0].starts_with("hello from process 1 of tiny; / has bin dev "), "{printed}");
    assert_eq!(lines[1..], ["I see 1 network interface", "C /var", "A /var/hello"]);
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0, "nothing is left");
}

#[test]
fn tiny_runtime_runs_a_command_of_an_image() {
    require!(namespaces(), Lack::Missing("no namespaces can be made here"));
    require!(
        Path::new(BUSYBOX).is_file(),
        Lack::Missing("a statically linked /bin/busybox is not installed")
    );
    let store = Store::new();
    build(&store);
    let run = |script: &str| {
        let mut command = example("tiny_runtime", store.scratch());
        command.arg(store.root()).args([IMAGE, "sh", "-c", script]);
        Done::of(&mut command)
    };
    let done = run("id -u; ls /app; echo x >/app/new; echo >/dev/null; ls /dev; exit 7");
    let expected = "0\n0voiceGateway\nconfig.yaml\nnull\nC /app\nA /app/new\n";
    assert_eq!((done.status, done.stdout.as_str()), (7, expected), "{done:?}");
    assert_eq!(store.json(["ps"]), json!([]), "no container is left");
    let done = Done::of(example("tiny_runtime", store.scratch()).arg("alone"));
    assert!(done.stderr.contains("usage: tiny_runtime"), "{done:?}");
}
