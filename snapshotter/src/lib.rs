//! A proxy snapshotter for containerd: [`overlay2::snapshot`] behind its gRPC interface.
//!
//! This crate translates, and decides nothing. `overlay2-snapshotter --help` and README.md say how it
//! is used.

pub mod filter;
pub mod proto;
pub mod service;
pub mod socket;

pub mod rpc {
    //! The server and the client of `containerd.services.snapshots.v1`.
    #![allow(clippy::allow_attributes_without_reason, reason = "written by tonic")]
    #![allow(missing_docs, missing_debug_implementations, reason = "written by tonic")]

    include!(concat!(env!("OUT_DIR"), "/containerd.services.snapshots.v1.Snapshots.rs"));
}
