//! Container images as files: docker-archive and OCI image layout, read and written.
//!
//! What `docker save`, `podman save`, `skopeo copy` and `buildx` write is read: archives of Docker's
//! old layout and of its new one, and OCI image layouts as a directory or an archive. Nothing is
//! unpacked here; layers come and go as streams of bytes.
//!
//! | to read | |
//! |---|---|
//! | a directory or a plain archive | [`open`] gives an [`ImageSource`]: layers in any order, by any number of threads |
//! | a compressed archive, a pipe, standard input | [`read_stream`]: layers go to a [`LayerSink`] as they pass, none waits in a temporary file |
//!
//! Either gives an [`ImageEntry`] for each image: its config's bytes as they are stored, its names,
//! its layers with their diff IDs. Manifests, indexes and configs are verified against their
//! digests; an index for several machines is resolved to the image for one [`Platform`]. Layers are
//! verified by whoever reads them, against what their [`LayerBlob`] says.
//!
//! | to write | |
//! |---|---|
//! | [`write_oci_tar`] | an archive that `podman load`, `skopeo`, and `docker load` take |
//! | [`write_oci_dir`] | a layout, new or one more image in it |
//! | [`write_docker_archive`] | as `docker save` |
//!
//! The same images give the same bytes, and a layer that is not what its diff ID says is an error.
//! [`commit_config`] makes the config of an image with one more layer or step, [`history_rows`] pairs the
//! steps of an image's history with its layers, and a [`Reference`] is an image's name.
//!
//! ```
//! use overlay2::image::{ImageSource, Opened, ReadOptions, open};
//!
//! fn list(path: &str) -> overlay2::Result<()> {
//!     if let Opened::Source(source) = open(path, &ReadOptions::default())? {
//!         for image in source.images() {
//!             println!("{} {:?}: {} layers", image.id, image.names, image.layers.len());
//!         }
//!     }
//!     Ok(())
//! }
//! ```
mod change;
mod config;
mod descriptor;
mod docker;
mod document;
mod entry;
mod files;
#[cfg(test)]
mod fixture;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod manifest;
mod oci;
mod platform;
#[cfg(test)]
mod read_tests;
mod reference;
mod select;
mod source;
mod stream;
mod tar_reader;
mod write;
mod write_docker;
mod write_oci;
mod write_oci_dir;
#[cfg(test)]
mod write_tests;

pub use change::ConfigChanges;
pub use config::{Commit, HistoryRow, commit_config, diff_ids, history_rows, parse_config};
pub use entry::{ImageEntry, LayerBlob};
pub use platform::Platform;
pub use reference::Reference;
pub use source::{ImageSource, Opened, ReadOptions, open};
pub use stream::{LayerSeen, LayerSink, read_stream};
pub use write::{ImageToWrite, LayerSource, WriteOptions};
pub use write_docker::write_docker_archive;
pub use write_oci::write_oci_tar;
pub use write_oci_dir::write_oci_dir;

pub use crate::image_config::{Config, History, ImageConfiguration, RootFs};
