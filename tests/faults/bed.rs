//! Where an operation is tried again and again: a store that is copied for each try.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::Digest as _;

use crate::common::store::{Done, Scratch, mounts_beneath};
use crate::common::{Compression, Layer, TestImage, need};
use crate::snapshot::snapshot;

pub const BASE: &str = "faults.test/base:latest";
pub const APP: &str = "faults.test/app:latest";

/// A scratch directory with a store as operations find it, and one in which each is tried.
#[derive(Debug)]
pub struct Bed {
    scratch: Scratch,
}

impl Bed {
    /// A store with one image; the archives of another that shares a layer; changesets.
    pub fn new() -> Self {
        let bed = Self { scratch: Scratch::new() };
        let (origin, given) = (bed.path("origin"), bed.path("given"));
        fs::create_dir_all(&origin).unwrap();
        fs::create_dir_all(&given).unwrap();
        let base = TestImage::new(BASE).layer("ADD base", base_layer());
        base.write_oci(&given.join("base"), Compression::Raw);
        let app = TestImage::new(APP)
            .layer("ADD base", base_layer())
            .layer("ADD app", app_layer())
            .layer(
                "RUN rm",
                Layer::new().file("etc/.wh.gone", 0o644, "").file("etc/new", 0o644, "n"),
            );
        app.write_oci(&given.join("app"), Compression::Gzip);
        crate::common::image::tar_of_layout(
            &given.join("app"),
            &given.join("app.tar"),
            crate::common::image::Order::BlobsFirst,
        );
        let config = serde_json::to_vec(&app.config_json()).unwrap();
        fs::write(given.join("app.id"), hex::encode(sha2::Sha256::digest(config))).unwrap();
        fs::write(given.join("change.tar"), app_layer().finish()).unwrap();
        let assuming = Layer::new()
            .file("etc/implied", 0o644, "i")
            .file("etc/.wh.motd", 0o644, "")
            .file("etc/both", 0o644, "by its own path")
            .file("conf/both", 0o644, "by the symlink below, which came last");
        fs::write(given.join("assuming.tar"), assuming.finish()).unwrap();
        need::run(Command::new("gzip").args(["-k"]).arg(given.join("app.tar")));
        let newer = TestImage::new(BASE)
            .layer("ADD base", base_layer())
            .layer("ADD more", Layer::new().file("more", 0o644, "more\n"));
        newer.write_oci(&given.join("newer"), Compression::Zstd);
        fs::write(given.join("chain"), &base.diff_ids()[0]).unwrap();
        Done::of(bed.command(&origin).args(["load", "-q", "-i"]).arg(given.join("base"))).good();
        bed
    }

    /// The same, with a container that was mounted and changed.
    pub fn with_container() -> Self {
        let bed = Self::new();
        let origin = bed.path("origin");
        let run = |args: &[&str]| Done::of(bed.command(&origin).args(args)).good().stdout;
        run(&["create", "--name", "web", BASE]);
        let merged = PathBuf::from(run(&["mount", "web"]).trim_end());
        fs::write(merged.join("etc/written"), "written\n").unwrap();
        fs::write(merged.join("etc/motd"), "changed\n").unwrap();
        fs::remove_file(merged.join("etc/gone")).unwrap();
        fs::create_dir(merged.join("srv")).unwrap();
        run(&["unmount", "web"]);
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The command, with the store in the directory `place` named, and working there.
    pub fn command(&self, place: &Path) -> Command {
        let mut command = Command::new(need::binary());
        command.arg("--root").arg(place.join("store"));
        command
    }

    /// Whether the command has this subcommand.
    pub fn knows(&self, subcommand: &str) -> bool {
        Done::of(Command::new(need::binary()).args(["help", subcommand])).status == 0
    }

    /// A place to try something in: a copy of what `origin` holds.
    pub fn place(&self) -> PathBuf {
        let place = self.path("place");
        self.clear();
        let copied = Command::new("cp").arg("-a").arg(self.path("origin")).arg(&place).status();
        assert!(copied.unwrap().success());
        place
    }

    /// Takes away what was tried last.
    pub fn clear(&self) {
        let place = self.path("place");
        for mounted in mounts_beneath(&place) {
            rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        let removed = Command::new("rm").arg("-rf").arg(&place).status();
        assert!(removed.unwrap().success());
    }

    /// What is in `place` after the store was opened: once, or as often as it takes to delete what
    /// was removed, on which no opening spends long.
    ///
    /// No system call puts a file of no name in the place of another: a writer that dies between
    /// giving it one and renaming that leaves a second name of the whole file, which is passed over.
    pub fn opened(&self, place: &Path) -> Vec<String> {
        for entry in fs::read_dir(place).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with(".overlay2-") && name.ends_with(".new") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for _ in 0..10 {
            Done::of(self.command(place).args(["ps", "-q"])).good();
            if fs::read_dir(place.join("store/trash")).unwrap().next().is_none() {
                break;
            }
        }
        snapshot(place)
    }
}

pub fn base_layer() -> Layer {
    Layer::new()
        .root(0o755)
        .dir("etc", 0o755)
        .file("etc/motd", 0o644, "hello\n")
        .file("etc/gone", 0o600, "goes\n")
        .dir("bin", 0o755)
        .file("bin/sh", 0o4755, vec![b'#'; 70_000])
        .symlink("bin/bash", "sh")
        .symlink("conf", "etc")
        .hard_link("bin/dash", "bin/sh", 0o4755)
}

fn app_layer() -> Layer {
    Layer::new()
        .dir("app", 0o750)
        .file("app/run", 0o755, vec![b'r'; 9_000])
        .file("app/data", 0o640, "d".repeat(300))
        .symlink("app/link", "../bin/sh")
        .dir("app/deep", 0o700)
        .dir("app/deep/er", 0o1777)
        .file("app/deep/er/file", 0o400, "f")
}

impl Done {
    /// Checks that it went well.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }
}
