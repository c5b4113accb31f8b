//! The command as those expect it who know Docker's: beginnings of IDs, names that were meant, help
//! with examples, completions, a manual, colours on a terminal alone.
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
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::need::{self, Lack};
use common::store::Scratch;
use common::{Compression, Done, Layer, Store, TestImage};
use serde_json::json;

const APP: &str = "habits.test/team/app:1";
const BUSYBOX: &str = "/bin/busybox";

/// A store with an image of one file.
fn store() -> Store {
    let store = Store::new();
    let image = TestImage::new(APP).layer("ADD motd\n  and no more", motd()).config("CMD sh");
    store.load(&image.write_oci(&store.scratch().join("image"), Compression::Raw));
    store
}

fn motd() -> Layer {
    Layer::new().dir("etc", 0o755).file("etc/motd", 0o644, "hello\n")
}

/// The command and its subcommands, as `--help` lists them.
fn commands() -> Vec<String> {
    let help = need::run(Command::new(need::binary()).arg("-h"));
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let named = lines.take_while(|line| !line.is_empty());
    let word = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    let mut names: Vec<_> = named.filter_map(word).filter(|name| !name.is_empty()).collect();
    names.retain(|name| name != "help" && name != "layer");
    assert!(names.len() > 30, "{names:?}");
    names.extend(["layer apply", "layer ls", "layer rm"].map(str::to_owned));
    names
}

#[test]
fn every_command_has_help_with_examples() {
    for name in commands() {
        let help = need::run(Command::new(need::binary()).args(name.split(' ')).arg("--help"));
        let (_, examples) =
            help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name}: {help}"));
        let uses = format!("overlay2 {name}");
        assert!(examples.contains(&uses), "no example in the help of {name}:\n{examples}");
        for line in help.lines() {
            assert!(line.chars().count() <= 108, "{name}: {line}");
        }
    }
    let help = need::run(Command::new(need::binary()).arg("--help"));
    assert!(help.starts_with("Images into layers"), "{help}");
}

#[test]
fn shells_can_complete_every_command() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = need::run(Command::new(need::binary()).args(["completions", shell]));
        for name in commands() {
            assert!(script.contains(name.split(' ').next().unwrap()), "{shell}: {name}");
        }
        let file = scratch.path().join(shell);
        fs::write(&file, script).unwrap();
        if need::tool(shell).is_some() {
            need::run(Command::new(shell).arg("-n").arg(&file));
        }
    }
    let script = scratch.path().join("complete");
    let words = "source \"$1\"; COMP_WORDS=(overlay2 im); COMP_CWORD=1; _overlay2 overlay2 im overlay2; \
                 echo ${COMPREPLY[@]}";
    fs::write(&script, words).unwrap();
    require_tool!("bash");
    let file = scratch.path().join("bash");
    let completed = need::run(Command::new("bash").arg(&script).arg(&file));
    assert_eq!(completed, "import images");
    let done = Done::of(Command::new(need::binary()).args(["completions", "tcl"]));
    assert_eq!(done.status, 2, "{done:?}");
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let scratch = Scratch::new();
    need::run(Command::new(need::binary()).arg("man").arg(scratch.path()));
    for name in commands() {
        let page = scratch.path().join(format!("overlay2-{}.1", name.replace(' ', "-")));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        assert!(text.contains("Examples:"), "{name}");
    }
    let whole = need::run(Command::new(need::binary()).arg("man"));
    assert!(whole.contains(".SH SUBCOMMANDS") && whole.contains("overlay2\\-load"), "{whole}");
    let done = Done::of(Command::new(need::binary()).args(["man", "/no-such-folder"]));
    assert!(done.failed().contains("/no-such-folder"));
}

#[test]
fn the_beginning_of_an_id_is_enough_where_no_other_begins_so() {
    sandbox!();
    let store = store();
    fs::write(store.scratch().join("tar"), Layer::new().file("x", 0o644, "x").finish()).unwrap();
    let tar = store.scratch().join("tar");
    let chain = store.ok(["layer", "apply", "-q", tar.to_str().unwrap()]);
    assert_eq!(chain.len(), 71, "{chain}");
    let upper = store.ok(["layer", "apply", "-q", "--parent", &chain[..20], tar.to_str().unwrap()]);
    for part in [&upper[..], &upper[7..], &upper[..15], &upper[7..19]] {
        store.ok(["rm", &store.ok(["create", "--chain", part])]);
        assert_eq!(store.ok(["ls", part]), "x");
    }
    let container = store.json(["create", APP])["id"].as_str().unwrap().to_owned();
    let image = store.json(["images"])[0]["id"].as_str().unwrap()[7..].to_owned();
    for (command, id) in [("ls", &container), ("ls", &image), ("history", &image)] {
        assert_ne!(store.ok([command, &id[..12]]), "", "{command}");
    }

    // Two digits, and so many containers that some begin alike.
    let mut ids: Vec<String> =
        (0..40).map(|_| store.json(["create", APP])["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0][..2] == pair[1][..2]) {
        let error = store.fails(["rm", &pair[0][..2]]);
        assert!(error.contains(&pair[0]) && error.contains(&pair[1]), "{error}");
        assert!(error.contains("give more digits"), "{error}");
    }
    store.ok(["rm", &ids[0][..16]]);

    store.ok(["layer", "rm", &upper[7..19]]);
    store.ok(["layer", "rm", &chain[7..19]]);
    let error = store.fails(["layer", "rm", &chain[7..19]]);
    assert!(error.contains(&chain[7..19]) && error.contains("overlay2 layer ls"), "{error}");
}

#[test]
fn a_name_that_was_probably_meant_is_told() {
    sandbox!();
    let store = store();
    store.ok(["create", "--name", "gateway", APP]);
    for (args, meant) in [
        (&["rm", "gatewya"][..], Some("gateway")),
        (&["mount", "gatway"], Some("gateway")),
        (&["diff", "gateways"], Some("gateway")),
        (&["ls", "gatewey:/etc"], Some("gateway")),
        (&["rmi", "app:1"], Some(APP)),
        (&["rmi", "app"], Some(APP)),
        (&["create", "habits.test/taem/app:1"], Some(APP)),
        (&["history", "gateway"], None),
        (&["rm", "postgres"], None),
    ] {
        let error = store.fails(args);
        let told = meant.map(|meant| format!("hint: did you mean {meant}?"));
        match told {
            Some(told) => assert!(error.contains(&told), "{args:?}: {error}"),
            None => assert!(!error.contains("did you mean"), "{args:?}: {error}"),
        }
    }
    let error = store.fails(["rm", "first", "second"]);
    let at = |word: &str| error.find(word).unwrap_or_else(|| panic!("{word}: {error}"));
    assert!(at("first") < at("second"), "in the order in which they were given: {error}");
}

#[test]
fn rm_by_force_unmounts() {
    sandbox!();
    let store = store();
    let merged = store.mount(&store.ok(["create", "--name", "web", APP]));
    assert!(store.fails(["rm", "web"]).contains("overlay2 unmount web"));
    assert!(merged.join("etc/motd").is_file());
    store.ok(["create", "--name", "db", APP]);
    assert_eq!(store.ok(["rm", "-f", "web", "db"]), "web\ndb");
    assert_eq!(store.json(["ps", "-a"]), json!([]));
}

#[test]
fn images_are_tagged_and_imported_and_say_what_a_commit_tells_them() {
    sandbox!();
    let store = store();
    assert_eq!(store.ok(["tag", APP, "docker.io/library/app"]), "app:latest");
    assert_eq!(store.inspect("app")["Id"], store.inspect(APP)["Id"]);
    let saved = store.scratch().join("saved.tar");
    let id = store.json(["images"])[0]["id"].as_str().unwrap().to_owned();
    for (asked, names) in [("app", json!(["app:latest"])), (&id, json!(["app:latest", APP]))] {
        store.ok(["save", asked, "-o", saved.to_str().unwrap()]);
        let other = Store::new();
        assert_eq!(other.json(["load", "-i", saved.to_str().unwrap()])[0]["names"], names);
    }
    assert_eq!(store.ok(["rmi", "app"]), "Untagged: app:latest");

    let tar = store.scratch().join("tar");
    fs::write(&tar, motd().finish()).unwrap();
    let words = ["--cmd", "cat", "--cmd", "/etc/motd", "-l", "k=v=w", "-m", "by hand"];
    let import = ["import", tar.to_str().unwrap(), "imported:1"];
    assert!(store.ok(import.iter().chain(&words)).starts_with("sha256:"));
    let config = json!({"Cmd": ["cat", "/etc/motd"], "Labels": {"k": "v=w"}});
    assert_eq!(store.inspect("imported:1")["Config"], config);
    assert_eq!(store.json(["history", "imported:1"])[0]["comment"], "by hand");
    let layers = store.ok(["history", "-q", "imported:1"]);
    assert_eq!(layers, store.diff_ids("imported:1").join("\n"));

    store.ok(["create", "--name", "c", "imported:1"]);
    let changes =
        ["--entrypoint", "/bin/serve", "--cmd", "", "-e", "A=b", "-w", "/srv", "-u", "1:2"];
    store.ok(["commit", "c", "changed:1"].iter().chain(&changes));
    let config = json!({
        "Entrypoint": ["/bin/serve"], "Env": ["A=b"], "WorkingDir": "/srv", "User": "1:2",
        "Labels": {"k": "v=w"},
    });
    assert_eq!(store.inspect("changed:1")["Config"], config);
    let error = store.fails(["commit", "c", "changed:2", "-e", "alone"]);
    assert!(error.contains("\"alone\" is no NAME=VALUE"), "{error}");
    store.ok(["rm", "c"]);
    store.ok(["rmi", "changed:1", "imported:1"]);
    assert_eq!(store.json(["layer", "ls"]).as_array().unwrap().len(), 1, "imported layers go");
}

#[test]
fn run_and_exec_take_a_command_as_docker_does() {
    require_tool!("crun");
    require!(
        Path::new(BUSYBOX).is_file(),
        Lack::Missing("a statically linked /bin/busybox is not installed")
    );
    sandbox!();
    let store = Store::new();
    let base = motd()
        // Where a runtime mounts something.
        .dir("dev", 0o755)
        .dir("proc", 0o755)
        .dir("sys", 0o755)
        .dir("bin", 0o755)
        .file("bin/busybox", 0o755, fs::read(BUSYBOX).unwrap())
        .symlink("bin/sh", "busybox")
        .symlink("bin/cat", "busybox");
    let image = TestImage::new(APP).layer("ADD base", base);
    store.load(&image.write_oci(&store.scratch().join("image"), Compression::Raw));
    let run = |args: &[&str]| {
        let mut command = store.command();
        Done::of(command.env("TMPDIR", store.scratch()).args(args))
    };
    for args in [
        &["run", "--entrypoint=", APP, "cat", "/etc/motd"][..],
        &["run", "--entrypoint=", "--rm", "-i", APP, "--", "cat", "/etc/motd"],
        &["run", "--entrypoint", "cat", APP, "/etc/motd"],
    ] {
        let done = run(args);
        assert_eq!((done.status, done.stdout.as_str()), (0, "hello\n"), "{args:?}: {done:?}");
    }
    let error = run(&["run", "-t", APP, "cat", "/etc/motd"]).failed();
    assert!(error.contains("no terminal"), "{error}");

    // What is written stays, whether the container was mounted before or not.
    store.ok(["create", "--name", "web", APP]);
    assert_eq!(run(&["exec", "web", "sh", "-c", "echo one >/etc/one; exit 3"]).status, 3);
    assert_eq!(store.json(["ps"])[0]["mounted"], json!(null));
    let merged = store.mount("web");
    assert_eq!(run(&["exec", "-e", "A=two", "web", "sh", "-c", "echo $A >/etc/two"]).status, 0);
    assert_eq!(fs::read_to_string(merged.join("etc/two")).unwrap(), "two\n");
    assert_eq!(store.json(["ps"])[0]["mounted"], json!(merged), "it is mounted still");
    assert_eq!(store.ok(["diff", "web"]), "C /etc\nA /etc/one\nA /etc/two");
    store.ok(["rm", "-f", "web"]);
}

/// What the command prints on a terminal.
fn on_a_terminal(store: &Store, args: &str, variables: &[(&str, &str)]) -> String {
    let line = format!("{} --root {} {args}", need::binary().display(), store.root().display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    script.envs(variables.iter().copied());
    let done = Done::of(&mut script);
    done.stdout.replace('\r', "")
}

#[test]
fn a_terminal_is_shown_colours_and_ages_and_a_pipe_plain_lines() {
    require_tool!("script");
    sandbox!();
    let store = store();
    store.ok(["create", "--name", "web", APP]);
    let shown = on_a_terminal(&store, "ps", &[]);
    assert!(shown.contains("\x1b[1mCONTAINER ID"), "{shown:?}");
    assert!(shown.contains(" ago "), "{shown:?}");
    let plain = on_a_terminal(&store, "ps", &[("NO_COLOR", "1")]);
    assert!(plain.starts_with("CONTAINER ID") && !plain.contains('\x1b'), "{plain:?}");
    let dumb = on_a_terminal(&store, "ps", &[("TERM", "dumb")]);
    assert!(!dumb.contains('\x1b'), "{dumb:?}");
    let error = on_a_terminal(&store, "rm nothing", &[]);
    assert!(error.contains("\x1b[31moverlay2:") && error.contains("hint:"), "{error:?}");

    let piped = store.ok(["ps"]);
    assert!(!piped.contains('\x1b') && !piped.contains(" ago"), "{piped}");
    let history = store.ok(["history", APP]);
    assert!(history.contains("ADD motd and no more"), "one line for each step: {history}");
}

/// One OCI layout with several images, of which each tells its tag alone.
fn layout_of(store: &Store, tags: &[&str]) -> std::path::PathBuf {
    let whole = store.scratch().join("whole");
    let mut manifests = Vec::new();
    for tag in tags {
        let layer = Layer::new().file(&format!("of-{tag}"), 0o644, *tag);
        let part = store.scratch().join(tag);
        TestImage::new("x:y").layer("ADD", layer).write_oci(&part, Compression::Raw);
        let index = fs::read(part.join("index.json")).unwrap();
        let mut index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let mut manifest = index["manifests"][0].take();
        manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": tag });
        manifests.push(manifest);
        need::run(std::process::Command::new("cp").arg("-aT").arg(&part).arg(&whole));
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(whole.join("index.json"), index.to_string()).unwrap();
    whole
}

#[test]
fn a_layout_of_several_tags_is_several_images() {
    let store = Store::new();
    let layout = layout_of(&store, &["v1", "v2"]);
    assert_eq!(store.load(&layout), "whole:v1\nwhole:v2");
    let input = layout.to_str().unwrap();
    let load = ["load", "-q", "-i", input, "--name"];
    assert_eq!(store.ok(load.iter().chain(&["a/app"])), "a/app:v1\na/app:v2");
    // Of one name, the last that has it.
    let told = store.ok(load.iter().chain(&["a/app:v1"]));
    let first = store.json(["inspect", "whole:v1"])[0]["Id"].as_str().unwrap().to_owned();
    assert_eq!(told, format!("{first}\na/app:v1"));
}

#[test]
fn of_an_archive_that_is_damaged_no_image_is_loaded() {
    let store = Store::new();
    let layout = layout_of(&store, &["v1", "v2"]);
    store.ok(["images"]);
    let before = store.contents();
    let largest = |dir: std::path::PathBuf| {
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
    };
    // The layer of the second alone.
    let layer = largest(store.scratch().join("v2/blobs/sha256"));
    let blob = layout.join("blobs/sha256").join(layer.file_name().unwrap());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).unwrap();
    store.fails(["load".as_ref(), "-i".as_ref(), layout.as_os_str()]);
    assert_eq!(store.contents(), before);
}

#[test]
fn a_saved_file_keeps_who_may_read_it() {
    let store = store();
    let file = store.scratch().join("saved.tar");
    fs::write(&file, "before").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    store.ok(["save".as_ref(), APP.as_ref(), "-o".as_ref(), file.as_os_str()]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(fs::read(&file).unwrap(), b"before");
}

/// A layer that stands in a stack twice is held twice, and goes all the same.
#[test]
fn of_an_image_that_cannot_be_stacked_no_layer_stays() {
    let store = Store::new();
    let a = || motd();
    let other = || Layer::new().file("other", 0o644, "other");
    let broken = || Layer::new().hard_link("x", "missing", 0o644);
    let orders: [Vec<Layer>; 4] = [
        vec![a(), broken(), a()],
        vec![broken(), a(), a()],
        vec![a(), other(), broken(), other()],
        vec![Layer::new(), broken(), Layer::new()],
    ];
    for (number, layers) in orders.into_iter().enumerate() {
        let image =
            layers.into_iter().fold(TestImage::new("example.test/broken:1"), |image, layer| {
                image.layer("RUN", layer)
            });
        let layout = store.scratch().join(format!("layout{number}"));
        let archive = store.scratch().join(format!("archive{number}.tar"));
        image.write_oci(&layout, Compression::Gzip);
        image.write_docker_archive(&archive);
        for source in [&layout, &archive] {
            let error = store.fails(["load".as_ref(), "-i".as_ref(), source.as_os_str()]);
            assert!(error.contains("missing"), "{error}");
            let left = fs::read_dir(store.root().join("layers")).unwrap().count();
            assert_eq!(left, 0, "{}", source.display());
            let found = store.run(["check"]);
            assert_eq!(found.status, 0, "{found:?}");
        }
    }
}
