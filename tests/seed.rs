//! Docker's own picture of an image and its containers, fact by fact: an image made of steps, its
//! layers, two containers from it, what they write and delete, and how all of it goes again.
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
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::image::{Layout, entry_names, layout_of_tar};
use common::need::{self, Lack};
use common::{Compression, Layer, Manifest, Store, TestImage};

const NAME: &str = "seed.test/gateway:latest";
const CURL: &[u8] = &[0xc5; 35_800];
const GATEWAY: &[u8] = &[0x6e; 20_200];
const CONFIG: &[u8] = &[b'c'; 356];
const TOP: [&str; 18] = [
    "app", "bin", "dev", "etc", "home", "lib", "media", "mnt", "opt", "proc", "root", "run",
    "sbin", "srv", "sys", "tmp", "usr", "var",
];

/// The final stage of the build; what its other stage did is no part of an image.
fn seed_image() -> TestImage {
    let mut base = Layer::new();
    for name in TOP.iter().filter(|name| **name != "app") {
        base = base.dir(name, if *name == "tmp" { 0o1777 } else { 0o755 });
    }
    base = base
        .dir("usr/bin", 0o755)
        .dir("etc/nginx", 0o755)
        .file("bin/busybox", 0o755, [0xbb; 7_360])
        .symlink("bin/sh", "busybox")
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")
        .file("etc/nginx/nginx.conf", 0o644, "events {}\n")
        .file("etc/nginx/mime.types", 0o644, "types {}\n");
    let usr_bin = || Layer::new().dir("usr", 0o755).dir("usr/bin", 0o755);
    let app = || Layer::new().dir("app", 0o755);
    TestImage::new(NAME)
        .layer("ADD rootfs.tar /", base)
        .config("CMD [\"/bin/sh\"]")
        .layer("ADD ./curl-amd64 /usr/bin/curl", usr_bin().file("usr/bin/curl", 0o644, CURL))
        .layer("RUN chmod +x /usr/bin/curl", usr_bin().file("usr/bin/curl", 0o755, CURL))
        .layer("WORKDIR /app/", app())
        .layer("ADD ./config.yaml /app/config.yaml", app().file("app/config.yaml", 0o644, CONFIG))
        .layer(
            "COPY --from=stage0 /build/0voiceGateway ./",
            app().file("app/0voiceGateway", 0o755, GATEWAY),
        )
        .config("ENV MODE=release")
        .config("ENTRYPOINT [\"/app/0voiceGateway\"]")
        .config("CMD [\"--serve\"]")
}

/// A store into which the image is loaded.
fn seeded() -> Store {
    let store = Store::new();
    let layout = seed_image().write_oci(&store.scratch().join("image"), Compression::Gzip);
    assert_eq!(store.load(&layout), NAME);
    store
}

/// A mounted container of the image.
fn mounted(store: &Store) -> (String, PathBuf) {
    let container = store.create(NAME);
    let merged = store.mount(&container);
    (container, merged)
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_whiteout(path: &Path) -> bool {
    let meta = path.symlink_metadata().unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// The changeset on top of an image, as `save` writes it.
fn top_changeset(store: &Store, image: &str) -> Vec<u8> {
    let scratch = common::store::Scratch::new();
    let file = scratch.path().join("saved.tar");
    store.ok(["save", image, "-o", file.to_str().unwrap()]);
    let layout = layout_of_tar(&file, &scratch.path().join("layout"));
    Layout::open(&layout).changesets().pop().unwrap()
}

#[test]
fn seed_1_every_step_with_files_is_a_layer_and_no_other() {
    sandbox!();
    let store = seeded();
    let image = seed_image();
    assert_eq!(store.diff_ids(NAME), image.diff_ids());
    assert_eq!(store.diff_ids(NAME).len(), 6);
    let images = store.json(["images"]);
    assert_eq!(images.as_array().unwrap().len(), 1);
    assert_eq!(images[0]["names"], serde_json::json!([NAME]));
    assert_eq!(images[0]["layers"], 6);

    // A change of the mode alone costs the whole file once more.
    let uppers = store.lower_dirs(NAME);
    let (added, changed) = (uppers[3].join("usr/bin/curl"), uppers[2].join("usr/bin/curl"));
    assert_eq!(fs::read(&added).unwrap(), CURL);
    assert_eq!(fs::read(&changed).unwrap(), CURL);
    assert_eq!(added.metadata().unwrap().mode() & 0o7777, 0o644);
    assert_eq!(changed.metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn seed_2_inspect_shows_five_lower_directories_and_the_topmost_layer_as_upper() {
    sandbox!();
    let store = seeded();
    let object = store.inspect(NAME);
    assert_eq!(object["GraphDriver"]["Name"], "overlay2");
    assert_eq!(object["RootFS"]["Type"], "layers");
    assert_eq!(object["RepoTags"], serde_json::json!([NAME]));
    assert!(object["Id"].as_str().unwrap().starts_with("sha256:"));
    for key in ["LowerDir", "UpperDir", "WorkDir", "MergedDir"] {
        assert!(object["GraphDriver"]["Data"][key].is_string(), "{key} in {object}");
    }

    // LowerDir has the topmost first, RootFS.Layers the lowest.
    let lower = store.lower_dirs(NAME);
    assert_eq!(lower.len(), 5);
    assert_eq!(names_in(&lower[0].join("app")), ["config.yaml"]);
    assert_eq!(names_in(&lower[1].join("app")), [""; 0]);
    assert_eq!(names_in(&lower[2].join("usr/bin")), ["curl"]);
    assert_eq!(names_in(&lower[3].join("usr/bin")), ["curl"]);
    assert!(lower[4].join("bin/busybox").is_file());
    let upper = store.graph_dir(NAME, "UpperDir");
    assert_eq!(names_in(&upper.join("app")), ["0voiceGateway"]);
    assert!(!lower.contains(&upper));

    // A container has all six below it, and the image's UpperDir as the topmost of them.
    let container = store.create(NAME);
    let below = store.lower_dirs(&container);
    assert_eq!(below.first(), Some(&upper));
    assert_eq!(below[1..], lower);
}

#[test]
fn seed_3_history_has_a_row_for_each_step_and_0_bytes_where_there_is_no_layer() {
    sandbox!();
    let store = seeded();
    let rows = store.json(["history", NAME]);
    let rows = rows.as_array().unwrap();
    let image = seed_image();
    // The newest first, as Docker prints them.
    let said: Vec<_> = rows.iter().map(|row| row["created_by"].as_str().unwrap()).collect();
    let steps: Vec<_> = image.steps().into_iter().rev().collect();
    assert_eq!(said, steps.iter().map(|(says, _)| *says).collect::<Vec<_>>());
    let size = |says: &str| {
        let row = rows.iter().find(|row| row["created_by"].as_str().unwrap().contains(says));
        row.unwrap()["size"].as_u64().unwrap() as usize
    };
    for (says, _) in steps.iter().filter(|(_, has_layer)| !has_layer) {
        assert_eq!(size(says), 0, "{says}");
    }
    assert_eq!(size("WORKDIR"), 0);
    assert_eq!(size("config.yaml"), CONFIG.len());
    assert_eq!(size("ADD ./curl"), CURL.len());
    assert_eq!(size("chmod"), CURL.len());
    assert_eq!(size("0voiceGateway ./"), GATEWAY.len());

    let printed = store.ok(["history", NAME]);
    assert_eq!(printed.lines().count(), 1 + rows.len(), "{printed}");
    let entrypoint = printed.lines().find(|line| line.contains("ENTRYPOINT")).unwrap();
    assert!(entrypoint.contains("0B") || entrypoint.contains("0 B"), "{entrypoint}");
}

#[test]
fn seed_4_containers_share_the_lower_directories_and_never_write_them() {
    sandbox!();
    let store = seeded();
    let (one, here) = mounted(&store);
    let (two, there) = mounted(&store);
    assert_ne!(one, two);
    for key in ["UpperDir", "WorkDir", "MergedDir"] {
        assert_ne!(store.graph_dir(&one, key), store.graph_dir(&two, key), "{key}");
    }
    let lower = store.lower_dirs(&one);
    assert_eq!(lower, store.lower_dirs(&two));
    let before: Vec<_> = lower.iter().map(|layer| Manifest::of(layer)).collect();
    let untouched = Manifest::of(&there);

    fs::write(here.join("app/config.yaml"), "changed\n").unwrap();
    fs::write(here.join("app/new"), "new\n").unwrap();
    fs::remove_file(here.join("etc/nginx/nginx.conf")).unwrap();
    fs::set_permissions(here.join("usr/bin/curl"), PermissionsExt::from_mode(0o700)).unwrap();
    fs::remove_dir_all(here.join("srv")).unwrap();

    Manifest::of(&there).assert_is(&untouched);
    for (layer, was) in lower.iter().zip(&before) {
        // The time of the root counts here: nothing at all may have changed.
        assert_eq!(common::manifest::differences(&Manifest::of(layer), was), [""; 0]);
    }
    assert_eq!(names_in(&store.graph_dir(&two, "UpperDir")), [""; 0]);
}

#[test]
fn seed_5_the_first_write_copies_the_file_up() {
    sandbox!();
    let store = seeded();
    let (container, merged) = mounted(&store);
    let upper = store.graph_dir(&container, "UpperDir");
    let path = merged.join("app/config.yaml");
    assert_eq!(fs::read(&path).unwrap(), CONFIG);
    assert_eq!(names_in(&upper), [""; 0], "reading copies nothing");

    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"!").unwrap();
    drop(file);
    let expected = [CONFIG, b"!"].concat();
    assert_eq!(fs::read(&path).unwrap(), expected);
    assert_eq!(fs::read(upper.join("app/config.yaml")).unwrap(), expected);
    assert_eq!(fs::read(store.lower_dirs(&container)[1].join("app/config.yaml")).unwrap(), CONFIG);

    fs::set_permissions(merged.join("usr/bin/curl"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(fs::read(upper.join("usr/bin/curl")).unwrap(), CURL);
    assert_eq!(
        store.ok(["diff", &container]),
        "C /app\nC /app/config.yaml\nC /usr\nC /usr/bin\nC /usr/bin/curl"
    );
}

#[test]
fn seed_6_a_reader_never_sees_half_of_a_rename() {
    sandbox!();
    let store = seeded();
    let (container, merged) = mounted(&store);
    let path = merged.join("app/config.yaml");
    let staged = merged.join("app/.config.yaml.new");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0_u32..300 {
                fs::write(&staged, [b'0' + (round % 10) as u8; 4096]).unwrap();
                fs::rename(&staged, &path).unwrap();
            }
        });
        while !writer.is_finished() {
            let content = fs::read(&path).unwrap();
            assert!(content == CONFIG || content.len() == 4096, "{} bytes", content.len());
            assert!(content.iter().all(|byte| *byte == content[0]));
        }
        writer.join().unwrap();
    });
    fs::hard_link(merged.join("usr/bin/curl"), merged.join("usr/bin/wget")).unwrap();
    fs::remove_file(merged.join("usr/bin/curl")).unwrap();
    assert_eq!(fs::read(merged.join("usr/bin/wget")).unwrap(), CURL);
    assert_eq!(names_in(&merged.join("app")), ["0voiceGateway", "config.yaml"]);

    // What was in the making while all this went on is gone from the WorkDir.
    store.ok(["unmount", &container]);
    let work = store.graph_dir(&container, "WorkDir");
    let inner = work.join("work");
    let left = if inner.is_dir() { names_in(&inner) } else { names_in(&work) };
    // The shared whiteout, which every deletion links to, may stay.
    assert!(left.iter().all(|name| is_whiteout(&inner.join(name))), "{left:?}");
}

#[test]
fn seed_7_a_delete_leaves_a_whiteout() {
    sandbox!();
    let store = seeded();
    let (container, merged) = mounted(&store);
    let upper = store.graph_dir(&container, "UpperDir");
    fs::remove_file(merged.join("etc/nginx/nginx.conf")).unwrap();
    assert!(is_whiteout(&upper.join("etc/nginx/nginx.conf")));
    assert_eq!(names_in(&merged.join("etc/nginx")), ["mime.types"]);
    fs::write(merged.join("never-below"), "").unwrap();
    fs::remove_file(merged.join("never-below")).unwrap();
    assert!(!upper.join("never-below").exists(), "no whiteout where nothing lies below");
    fs::remove_dir_all(merged.join("app")).unwrap();
    fs::create_dir(merged.join("app")).unwrap();
    fs::write(merged.join("app/fresh"), "fresh\n").unwrap();
    assert_eq!(
        store.ok(["diff", &container]),
        "C /app\nD /app/0voiceGateway\nD /app/config.yaml\nA /app/fresh\n\
         C /etc\nC /etc/nginx\nD /etc/nginx/nginx.conf"
    );

    let after = Manifest::of(&merged);
    store.ok(["unmount", &container]);
    let id = store.ok(["commit", &container, "seed.test/changed:latest"]);
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let names = entry_names(&top_changeset(&store, "seed.test/changed:latest"));
    assert!(names.contains(&"etc/nginx/.wh.nginx.conf".to_owned()), "{names:?}");
    let of_app: Vec<_> = names.iter().filter(|name| name.starts_with("app")).collect();
    assert_eq!(of_app, ["app", "app/.wh..wh..opq", "app/fresh"]);
    assert!(!names.iter().any(|name| name.contains("never-below")));

    // Read back, the commit is what the container was.
    let again = store.mount(&store.create("seed.test/changed:latest"));
    Manifest::of(&again).assert_is(&after);
    assert_eq!(store.diff_ids("seed.test/changed:latest")[..6], seed_image().diff_ids());
}

#[test]
fn seed_8_two_containers_run_from_one_image_and_are_listed() {
    sandbox!();
    let store = seeded();
    let first = store.ok(["create", "--name", "gateway-1", NAME]);
    assert_eq!(first, "gateway-1");
    store.ok(["create", "--name", "gateway-2", NAME]);
    let merged = store.mount("gateway-1");
    let listed = store.json(["ps"]);
    let mut rows: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!(row["image"], NAME);
            assert!(row["id"].is_string() && !row["created"].is_null(), "{row}");
            (row["name"].as_str().unwrap(), row["mounted"].as_str())
        })
        .collect();
    rows.sort();
    assert_eq!(rows, [("gateway-1", merged.to_str()), ("gateway-2", None)]);
    let printed = store.ok(["ps"]);
    assert!(printed.contains("gateway-1") && printed.contains("gateway-2"), "{printed}");

    let other = store.mount("gateway-2");
    assert_ne!(merged, other);
    for root in [&merged, &other] {
        assert_eq!(names_in(root), TOP);
        assert_eq!(names_in(&root.join("app")), ["0voiceGateway", "config.yaml"]);
        assert_eq!(fs::read(root.join("app/0voiceGateway")).unwrap(), GATEWAY);
        assert_eq!(root.join("tmp").metadata().unwrap().mode() & 0o7777, 0o1777);
    }
}

#[test]
fn seed_9_containers_go_first_then_the_image_and_its_layers() {
    sandbox!();
    let store = Store::new();
    store.ok(["images"]);
    let before = store.contents();
    let layout = seed_image().write_oci(&store.scratch().join("image"), Compression::Gzip);
    store.load(&layout);
    store.ok(["create", "--name", "gateway-1", NAME]);
    store.ok(["create", "--name", "gateway-2", NAME]);
    store.mount("gateway-1");

    let refused = store.fails(["rmi", NAME]);
    assert!(refused.contains("gateway-1") || refused.contains("gateway-2"), "{refused}");
    assert_eq!(store.diff_ids(NAME).len(), 6, "a refusal changes nothing");

    store.ok(["unmount", "gateway-1"]);
    store.ok(["rm", "gateway-1", "gateway-2"]);
    assert_eq!(store.json(["ps"]), serde_json::json!([]));

    // Layers that another image still uses stay, the others go.
    let other = TestImage::new("seed.test/base:latest")
        .layer("ADD rootfs.tar /", Layer::new().dir("app", 0o755));
    store.load(&other.write_oci(&store.scratch().join("other"), Compression::Raw));
    assert_eq!(other.diff_ids()[0], seed_image().diff_ids()[3], "WORKDIR's layer, shared");
    store.ok(["rmi", NAME]);
    assert_eq!(store.json(["layer", "ls"]).as_array().unwrap().len(), 1);
    let merged = store.mount(&store.ok(["create", "--name", "last", "seed.test/base:latest"]));
    assert_eq!(names_in(&merged), ["app"]);
    store.ok(["unmount", "last"]);
    store.ok(["rm", "last"]);
    store.ok(["rmi", "seed.test/base:latest"]);
    store.assert_empty(&before);
}

/// A user namespace in which id 0 is 165536 outside; it goes with its process.
struct Remapped(std::process::Child);

impl Remapped {
    const FIRST: u32 = 165_536;

    fn new() -> Self {
        let child = Command::new("unshare").args(["-Um", "sleep", "300"]).spawn().unwrap();
        let remapped = Self(child);
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        let pid = remapped.0.id().to_string();
        while namespace(&pid) == namespace("self") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for kind in ["uid", "gid"] {
            let map = format!("0 {} 65536", Self::FIRST);
            fs::write(format!("/proc/{pid}/{kind}_map"), map).unwrap();
        }
        remapped
    }

    /// Runs a shell script as root inside.
    fn run(&self, script: &str) -> String {
        let pid = self.0.id().to_string();
        let inside = ["-t", &pid, "-U", "-m", "-S", "0", "-G", "0", "sh", "-ec", script];
        need::run(Command::new("nsenter").args(inside))
    }
}

impl Drop for Remapped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn seed_10_ids_are_mapped_in_a_store_of_its_own() {
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("only root may map ids that nobody granted")
    );
    require_tool!("nsenter");
    let scratch = common::store::Scratch::new();
    let image = seed_image().write_oci(&scratch.path().join("image"), Compression::Gzip);
    need::run(Command::new("chmod").arg("-R").arg("a+rX").arg(scratch.path()));
    let first = Remapped::FIRST;
    let store = scratch.path().join(format!("{first}.{first}"));
    fs::create_dir(&store).unwrap();
    std::os::unix::fs::chown(&store, Some(first), Some(first)).unwrap();
    let binary = scratch.path().join("overlay2");
    fs::copy(need::binary(), &binary).unwrap();

    let remapped = Remapped::new();
    let overlay2 = format!("{} --root {}/store", binary.display(), store.display());
    remapped.run(&format!("{overlay2} load -q -i {}", image.display()));
    let printed = remapped.run(&format!(
        "{overlay2} create --name c {NAME} && root=$({overlay2} mount c) && \
         stat -c %u:%g $root/app/config.yaml && chown 7:8 $root/app/config.yaml && \
         stat -c %u:%g $root/app/config.yaml && {overlay2} unmount c"
    ));
    assert_eq!(printed, "c\n0:0\n7:8\nc", "inside, ids are those of the image");

    let layers = names_in(&store.join("store/layers"));
    assert_eq!(layers.len(), 6);
    let container = names_in(&store.join("store/containers")).remove(0);
    let upper = store.join("store/containers").join(container).join("upper/app/config.yaml");
    let meta = upper.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid()), (first + 7, first + 8), "outside, they begin there");
    let owners = layers
        .iter()
        .map(|layer| store.join("store/layers").join(layer).join("diff").metadata().unwrap().uid());
    assert!(owners.into_iter().all(|uid| uid == first));
    remapped.run(&format!("{overlay2} rm c && {overlay2} rmi {NAME}"));
}
