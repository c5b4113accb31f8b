//! The messages of `containerd.services.snapshots.v1`, by their field numbers.
//!
//! Requests and answers that have the same fields are one type: only the numbers go over the wire.

use std::collections::BTreeMap;

/// A mount that a client is to make.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// Its type.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// What is mounted.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Where, below the place that the client chooses; always empty here.
    #[prost(string, tag = "3")]
    pub target: String,
    /// Options as mount(8) spells them.
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// `PrepareSnapshotRequest`, `ViewSnapshotRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrepareRequest {
    /// Which snapshotter; one plugin is one.
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    /// The name of the new snapshot.
    #[prost(string, tag = "2")]
    pub key: String,
    /// On what it stands; empty for nothing.
    #[prost(string, tag = "3")]
    pub parent: String,
    /// What is written on it.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: BTreeMap<String, String>,
}

/// `PrepareSnapshotResponse`, `ViewSnapshotResponse`, `MountsResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MountsResponse {
    /// What to mount.
    #[prost(message, repeated, tag = "1")]
    pub mounts: Vec<Mount>,
}

/// `MountsRequest`, `RemoveSnapshotRequest`, `StatSnapshotRequest`, `UsageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyRequest {
    /// Which snapshotter.
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    /// The name of a snapshot.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// `CommitSnapshotRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommitRequest {
    /// Which snapshotter.
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    /// The name that it gets.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The name that it has.
    #[prost(string, tag = "3")]
    pub key: String,
    /// What is written on it.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: BTreeMap<String, String>,
    /// On what it is put that stands on nothing yet; since containerd 2.2.
    #[prost(string, tag = "5")]
    pub parent: String,
}

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Never sent.
    Unknown = 0,
    /// Shows a committed one.
    View = 1,
    /// Is being written.
    Active = 2,
    /// Is never written again.
    Committed = 3,
}

/// What is known of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Info {
    /// What it is called.
    #[prost(string, tag = "1")]
    pub name: String,
    /// On what it stands; empty for nothing.
    #[prost(string, tag = "2")]
    pub parent: String,
    /// What it is.
    #[prost(enumeration = "Kind", tag = "3")]
    pub kind: i32,
    /// Since when it is that.
    #[prost(message, optional, tag = "4")]
    pub created_at: Option<prost_types::Timestamp>,
    /// When it was changed last.
    #[prost(message, optional, tag = "5")]
    pub updated_at: Option<prost_types::Timestamp>,
    /// What is written on it.
    #[prost(btree_map = "string, string", tag = "6")]
    pub labels: BTreeMap<String, String>,
}

/// `StatSnapshotResponse`, `UpdateSnapshotResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// The snapshot.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// `UpdateSnapshotRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateRequest {
    /// Which snapshotter.
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    /// The name, and what is to be changed.
    #[prost(message, optional, tag = "2")]
    pub info: Option<Info>,
    /// Which fields count; none: all that can be changed.
    #[prost(message, optional, tag = "3")]
    pub update_mask: Option<prost_types::FieldMask>,
}

/// `ListSnapshotsRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListRequest {
    /// Which snapshotter.
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    /// Those that match any of these; none: all.
    #[prost(string, repeated, tag = "2")]
    pub filters: Vec<String>,
}

/// `ListSnapshotsResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListResponse {
    /// Some of the snapshots.
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<Info>,
}

/// `UsageResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct UsageResponse {
    /// Bytes.
    #[prost(int64, tag = "1")]
    pub size: i64,
    /// Files, directories and other inodes.
    #[prost(int64, tag = "2")]
    pub inodes: i64,
}

/// `CleanupRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CleanupRequest {
    /// Which snapshotter.
    #[prost(string, tag = "1")]
    pub snapshotter: String,
}

/// `google.protobuf.Empty`.
pub type Empty = ();
