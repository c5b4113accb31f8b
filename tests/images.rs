//! Real images, in every form: loaded, mounted, and compared with the tree that the kernel showed
//! when they were built, entry for entry.
//!
//! `OVERLAY2_IMAGES` names a folder with a folder for each image: `oci-raw`, `oci-gzip`,
//! `oci-zstd` (OCI layouts), `docker-archive.tar`, and the tree as `merged.manifest.zst`. The
//! value `none` says that there are none, even where nothing else may be skipped.
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

use std::path::{Path, PathBuf};

use common::image::{Order, tar_of_layout};
use common::need::{self, Lack};
use common::{Manifest, Store};

/// How an image comes to the store.
#[derive(Clone, Copy)]
enum Form {
    /// A file or directory of the image's folder, by name.
    File(&'static str),
    /// The same file on standard input.
    Stdin(&'static str),
    /// A layout directory packed as a tar.
    Tar(&'static str),
    /// The same on standard input.
    TarStdin(&'static str),
    /// The layout with gzip, so many layers at once.
    Threads(&'static str),
}

/// The folder of an image, or why it is not there.
fn folder(image: &str) -> Result<PathBuf, Lack<'static>> {
    let images = std::env::var_os("OVERLAY2_IMAGES")
        .ok_or(Lack::Missing("OVERLAY2_IMAGES names no folder of images"))?;
    let folder = Path::new(&images).join(image);
    if images == "none" {
        Err(Lack::Declined("OVERLAY2_IMAGES says that there are no images"))
    } else if folder.join("merged.manifest.zst").is_file() {
        Ok(folder)
    } else {
        Err(Lack::Missing("OVERLAY2_IMAGES has no such image"))
    }
}

fn load(store: &Store, folder: &Path, form: Form) -> String {
    let packed = |layout: &str, order| {
        tar_of_layout(&folder.join(layout), &store.scratch().join("layout.tar"), order)
    };
    match form {
        Form::File(name) => store.load(&folder.join(name)),
        Form::Stdin(name) => store.load_from_stdin(&folder.join(name)),
        Form::Tar(layout) => store.load(&packed(layout, Order::BlobsFirst)),
        Form::TarStdin("oci-gzip") => store.load_from_stdin(&packed("oci-gzip", Order::IndexFirst)),
        Form::TarStdin(layout) => store.load_from_stdin(&packed(layout, Order::BlobsFirst)),
        Form::Threads(count) => {
            let layout = folder.join("oci-gzip");
            let args = ["load", "-q", "--threads", count, "-i", layout.to_str().unwrap()];
            let image = store.ok(args);
            store.ok(["check", "--threads", count]);
            image
        }
    }
}

/// Loads, mounts, compares, and removes again.
fn tree_is_right(folder: &Path, form: Form) {
    let store = Store::new();
    store.ok(["images"]);
    let before = store.contents();
    let image = load(&store, folder, form);
    assert_eq!(store.diff_ids(&image), diff_ids(folder));
    let container = store.create(&image);
    let mounted = store.mount(&container);
    Manifest::of(&mounted).assert_is(&Manifest::read_zst(&folder.join("merged.manifest.zst")));
    store.ok(["unmount", &container]);
    store.ok(["rm", &container]);
    store.ok(["rmi", &image]);
    store.assert_empty(&before);
}

/// Saves, loads into an empty store, and compares diff IDs and trees.
fn survives_a_trip(folder: &Path, save: &[&str]) {
    let (first, second) = (Store::new(), Store::new());
    let image = first.load(&folder.join("oci-gzip"));
    let file = first.scratch().join("saved.tar");
    first.ok(["save", &image, "-o", file.to_str().unwrap()].iter().chain(save));
    let loaded = second.load(&file);
    assert_eq!(loaded, image);
    assert_eq!(second.diff_ids(&loaded), diff_ids(folder));
    let mounted = second.mount(&second.create(&loaded));
    Manifest::of(&mounted).assert_is(&Manifest::read_zst(&folder.join("merged.manifest.zst")));
}

/// The diff IDs as they were when the image was built.
fn diff_ids(folder: &Path) -> Vec<String> {
    let summary = std::fs::read(folder.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&summary).unwrap();
    let ids = summary["diff_ids"].as_array().unwrap();
    ids.iter().map(|id| format!("sha256:{}", id.as_str().unwrap())).collect()
}

macro_rules! image {
    ($image:ident, ids: $ids:expr) => {
        mod $image {
            use super::*;
            image!(@tests $image, $ids,
                oci_raw: |folder| tree_is_right(folder, Form::File("oci-raw"));
                oci_gzip: |folder| tree_is_right(folder, Form::File("oci-gzip"));
                oci_zstd: |folder| tree_is_right(folder, Form::File("oci-zstd"));
                docker_archive: |folder| tree_is_right(folder, Form::File("docker-archive.tar"));
                oci_raw_tar: |folder| tree_is_right(folder, Form::Tar("oci-raw"));
                oci_gzip_tar: |folder| tree_is_right(folder, Form::Tar("oci-gzip"));
                oci_zstd_tar: |folder| tree_is_right(folder, Form::Tar("oci-zstd"));
                docker_archive_on_stdin:
                    |folder| tree_is_right(folder, Form::Stdin("docker-archive.tar"));
                oci_raw_on_stdin: |folder| tree_is_right(folder, Form::TarStdin("oci-raw"));
                oci_gzip_on_stdin: |folder| tree_is_right(folder, Form::TarStdin("oci-gzip"));
                oci_zstd_on_stdin: |folder| tree_is_right(folder, Form::TarStdin("oci-zstd"));
                by_one_thread: |folder| tree_is_right(folder, Form::Threads("1"));
                by_two_threads: |folder| tree_is_right(folder, Form::Threads("2"));
                by_sixteen_threads: |folder| tree_is_right(folder, Form::Threads("16"));
                saved_as_oci_and_loaded: |folder| survives_a_trip(folder, &[]);
                saved_for_docker_and_loaded:
                    |folder| survives_a_trip(folder, &["--format-archive", "docker"]);
            );
        }
    };
    (@tests $image:ident, $ids:expr, $($name:ident: $test:expr;)*) => {$(
        #[test]
        fn $name() {
            let folder = match folder(stringify!($image)) {
                Ok(folder) => folder,
                Err(lack) => return need::skip(&test_name!(), lack),
            };
            sandbox!();
            require!(
                need::mapped_ids() >= $ids,
                Lack::Missing("too few subordinate ids are mapped for the image's owners")
            );
            let test: fn(&Path) = $test;
            test(&folder);
        }
    )*};
}

image!(seed, ids: 1);
image!(debian, ids: 65_535);
image!(steps, ids: 1);
