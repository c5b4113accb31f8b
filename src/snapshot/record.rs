//! The record of a snapshot, as it lies on disk.

use serde::{Deserialize, Serialize};

use super::{LabelChange, Labels, Snapshot, SnapshotKind, SnapshotUsage};
use crate::inode::Timestamp;

/// What is known of a snapshot, in the file `records/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotRecord {
    pub(super) name: String,
    /// The name of its directory.
    pub(super) id: u64,
    pub(super) kind: SnapshotKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<String>,
    pub(super) created: Time,
    pub(super) updated: Time,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub(super) labels: Labels,
    /// Of a committed one, what it takes.
    pub(super) usage: SnapshotUsage,
}

/// A point in time: seconds since 1970-01-01 00:00:00 UTC, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Time(i64, u32);

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        Self(time.seconds, time.nanos)
    }
}

impl From<Time> for Timestamp {
    fn from(Time(seconds, nanos): Time) -> Self {
        Self { seconds, nanos }
    }
}

impl SnapshotRecord {
    pub(super) fn shown(&self) -> Snapshot {
        Snapshot {
            name: self.name.clone(),
            kind: self.kind,
            parent: self.parent.clone(),
            created: self.created.into(),
            updated: self.updated.into(),
            labels: self.labels.clone(),
        }
    }

    pub(super) fn change_labels(&mut self, change: LabelChange, now: Timestamp) {
        match change {
            LabelChange::All(labels) => self.labels = kept(labels),
            LabelChange::Some(labels) => {
                for (key, value) in labels {
                    self.labels.insert(key, value);
                }
                self.labels = kept(std::mem::take(&mut self.labels));
            }
        }
        self.updated = now.into();
    }
}

/// A label without a value is none.
pub(super) fn kept(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}
