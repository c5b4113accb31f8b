//! Container images as files: docker-archive and OCI image layout, read and written.
mod config;
mod descriptor;
mod docker;
mod document;
mod entry;
mod files;
#[cfg(test)]
mod fixture;
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

pub use config::{
    Commit, HistoryRow, commit_config, diff_ids, history_rows, parse_config, rfc3339,
};
pub use entry::{ImageEntry, LayerBlob};
pub use platform::Platform;
pub use reference::Reference;
pub use source::{ImageSource, Opened, ReadOptions, open};
pub use stream::{LayerSeen, LayerSink, read_stream};
pub use write::{ImageToWrite, LayerSource, WriteOptions};
pub use write_docker::write_docker_archive;
pub use write_oci::write_oci_tar;
pub use write_oci_dir::write_oci_dir;
