//! Snapshots by name: directories that are written once and then stand on each other, as the
//! snapshotters of containerd keep them.
//!
//! A snapshot is *active* while it is written, *committed* when it is a layer that others may stand
//! on, or a *view* that shows a committed one. What is to be mounted is returned as data
//! ([`SnapshotMount`]): nothing is mounted here.
//!
//! ```
//! use overlay2::snapshot::{Snapshots, SnapshotsOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let directory = place.path().join("snapshots");
//! let snapshots = Snapshots::open(&directory, &SnapshotsOptions::default())?;
//! let mounts = snapshots.prepare("unpack-1", None, Default::default())?;
//! assert_eq!(mounts[0].kind, "bind");
//! std::fs::write(mounts[0].source.join("motd"), "hello\n")?;
//! snapshots.commit("layer-1", "unpack-1", None, Default::default())?;
//!
//! let mounts = snapshots.prepare("container-1", Some("layer-1"), Default::default())?;
//! assert_eq!(mounts[0].kind, "overlay");
//! assert!(snapshots.remove("layer-1").is_err(), "container-1 stands on it");
//! # Ok(())
//! # }
//! ```
//!
//! One process has the directory open at a time; any number of threads may share a [`Snapshots`].
//! Everything that was reported as done is there again after the process was killed, and, with
//! [`Durability::Full`], after a power cut.
//!
//! Source: the documentation of containerd's package `core/snapshots`.

mod disk;
mod graph;
mod mounts;
mod record;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::inode::Timestamp;
use crate::sys::durable::Durability;
use disk::{Disk, Found};
use graph::Graph;
pub use mounts::SnapshotMount;
use record::SnapshotRecord;

/// What is written on a snapshot: keys and values that mean nothing here.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// It shows what a committed one holds.
    View,
    /// It is being written.
    Active,
    /// It is never written again, and others may stand on it.
    Committed,
}

/// What is known of a snapshot.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is called; one name is never used twice at a time, whatever the kind.
    pub name: String,
    /// What it is.
    pub kind: SnapshotKind,
    /// The committed snapshot that it stands on.
    pub parent: Option<String>,
    /// When it was prepared; of a committed one, when it was committed.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// What is written on it.
    pub labels: Labels,
}

/// The room that a snapshot takes, without those it stands on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotUsage {
    /// Bytes of the blocks that it occupies.
    pub size: u64,
    /// Files, directories and other inodes.
    pub inodes: u64,
}

/// How a directory of snapshots is opened.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct SnapshotsOptions {
    /// What survives a power cut. [`Durability::Full`] syncs the file system at each commit.
    pub durability: Durability,
    /// Options that every overlay is to be mounted with, besides its directories: `index=off`,
    /// `userxattr`, `volatile` and the like, as [`mount(8)`] spells them.
    ///
    /// [`mount(8)`]: https://docs.kernel.org/filesystems/overlayfs.html
    pub mount_options: Vec<String>,
}

/// What [`Snapshots::update`] changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelChange {
    /// These labels and no others.
    All(Labels),
    /// The labels of these keys; an empty value takes one away.
    Some(Labels),
}

/// A directory of snapshots, open.
#[derive(Clone, Debug)]
pub struct Snapshots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Disk,
    mount_options: Vec<String>,
    problems: Vec<Error>,
    state: Mutex<State>,
    /// Signalled when a name is no longer busy.
    settled: Condvar,
}

#[derive(Debug)]
struct State {
    graph: Graph,
    /// Names with which something is being done that takes long.
    busy: HashSet<String>,
}

/// Names that nobody else works with until this is dropped.
struct Busy<'a> {
    inner: &'a Inner,
    names: Vec<String>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.inner.state);
        state.busy.retain(|name| !self.names.contains(name));
        drop(state);
        self.inner.settled.notify_all();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Every step leaves the graph as it is on disk, so a thread that died broke nothing.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// Opens the snapshots in the directory `root`, which is made where it does not exist.
    ///
    /// What a process that died has left half done is removed, or finished where it was already
    /// visible.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where another process has it open; [`ErrorKind::AlreadyExists`] where
    /// the directory holds something else; [`ErrorKind::Unsupported`] for a newer format. A record
    /// that cannot be read is no error: see [`damaged`](Self::damaged) and
    /// [`problems`](Self::problems).
    pub fn open(root: impl AsRef<Path>, options: &SnapshotsOptions) -> Result<Self> {
        let root = root.as_ref();
        let opened = Disk::open(root, options.durability);
        let (disk, found) = opened
            .map_err(|error| error.within(format_args!("open snapshots {}", root.display())))?;
        let highest = disk.highest_id()?;
        let Found { records, taken, problems } = found;
        let state = State { graph: Graph::of(records, taken, highest), busy: HashSet::new() };
        Ok(Self(Arc::new(Inner {
            disk,
            mount_options: options.mount_options.clone(),
            problems,
            state: Mutex::new(state),
            settled: Condvar::new(),
        })))
    }

    /// Makes an active snapshot `key`, empty or on `parent`, and tells how to mount it.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; [`ErrorKind::NotFound`] where there is no such parent,
    /// [`ErrorKind::InvalidInput`] where it is not committed, or where the labels are too many:
    /// a record may have 16 MiB.
    pub fn prepare(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<SnapshotMount>> {
        self.make(SnapshotKind::Active, key, parent, labels)
            .map_err(|error| error.within(format_args!("prepare snapshot {key:?}")))
    }

    /// Makes a view `key` of `parent`, or of nothing, and tells how to mount it.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn view(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<SnapshotMount>> {
        self.make(SnapshotKind::View, key, parent, labels)
            .map_err(|error| error.within(format_args!("view snapshot {key:?}")))
    }

    fn make(
        &self,
        kind: SnapshotKind,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<SnapshotMount>> {
        let mut state = self.settled([key]);
        let record = state.graph.plan_make(kind, key, parent, labels, now())?;
        let below = state.graph.ids_below(record.parent.as_deref())?;
        self.0.disk.make(&record, below.first().copied())?;
        let id = record.id;
        state.graph.add(record);
        Ok(self.mounts_of(kind, id, &below))
    }

    /// How an active snapshot or a view is mounted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::WrongState`] for a committed one.
    pub fn mounts(&self, key: &str) -> Result<Vec<SnapshotMount>> {
        let state = lock(&self.0.state);
        let record = state.graph.get(key)?;
        if record.kind == SnapshotKind::Committed {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("snapshot {key:?} is committed: neither active nor a view"),
            )
            .hint("prepare or view a snapshot on it, and mount that"));
        }
        let below = state.graph.ids_below(record.parent.as_deref())?;
        Ok(self.mounts_of(record.kind, record.id, &below))
    }

    fn mounts_of(&self, kind: SnapshotKind, id: u64, below: &[u64]) -> Vec<SnapshotMount> {
        mounts::of(kind, &self.0.disk, id, below, &self.0.mount_options)
    }

    /// Makes the active snapshot `key` the committed one `name`; the labels are those given here.
    ///
    /// One that was prepared on nothing may be put on `parent` now, so that the layers of an image
    /// can be unpacked side by side.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; [`ErrorKind::NotFound`] where there is no `key`, or no
    /// `parent`; [`ErrorKind::WrongState`] where `key` is not active, or `parent` not committed;
    /// [`ErrorKind::InvalidInput`] where it stands on another parent already, or where the labels
    /// are too many.
    pub fn commit(
        &self,
        name: &str,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<()> {
        let commit = || {
            let names = [name, key].into_iter().chain(parent);
            let busy = self.busy(names.map(str::to_owned).collect());
            let plan = |usage| {
                let state = lock(&self.0.state);
                state.graph.plan_commit(name, key, parent, labels.clone(), usage, now())
            };
            // Asked before it is walked and synced, which takes long, so no lock is held meanwhile.
            let planned = plan(SnapshotUsage::default())?;
            let usage = self.0.disk.weigh(planned.id)?;
            self.0.disk.sync_contents()?;
            let record = plan(usage)?;
            self.0.disk.commit(key, &record)?;
            let mut state = lock(&self.0.state);
            state.graph.remove(key);
            state.graph.add(record);
            drop(state);
            drop(busy);
            Ok(())
        };
        commit().map_err(|error: Error| {
            error.within(format_args!("commit snapshot {key:?} as {name:?}"))
        })
    }

    /// Removes a snapshot on which nothing stands; its files go at once, or with
    /// [`cleanup`](Self::cleanup).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InUse`] where another snapshot stands on it.
    pub fn remove(&self, key: &str) -> Result<()> {
        let remove = || {
            let mut state = self.settled([key]);
            let id = state.graph.plan_remove(key)?;
            self.0.disk.remove(key, id)?;
            state.graph.remove(key);
            Ok(())
        };
        remove().map_err(|error: Error| error.within(format_args!("remove snapshot {key:?}")))
    }

    /// Deletes the files of snapshots that were removed.
    ///
    /// # Errors
    /// As `unlink(2)`; nothing is removed through a mount.
    pub fn cleanup(&self) -> Result<()> {
        self.0.disk.empty_trash()
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn stat(&self, name: &str) -> Result<Snapshot> {
        lock(&self.0.state).graph.get(name).map(SnapshotRecord::shown)
    }

    /// All snapshots, by name.
    pub fn list(&self) -> Vec<Snapshot> {
        lock(&self.0.state).graph.records().map(SnapshotRecord::shown).collect()
    }

    /// Changes what is written on a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where the labels are too many.
    pub fn update(&self, name: &str, change: LabelChange) -> Result<Snapshot> {
        let update = || {
            let mut state = self.settled([name]);
            let mut record = state.graph.get(name)?.clone();
            record.change_labels(change, now());
            self.0.disk.replace(&record)?;
            let shown = record.shown();
            state.graph.add(record);
            Ok(shown)
        };
        update().map_err(|error: Error| error.within(format_args!("update snapshot {name:?}")))
    }

    /// The room that a snapshot takes: of a committed one as it was written down, of an active one
    /// as it is now; of a view none.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn usage(&self, name: &str) -> Result<SnapshotUsage> {
        let record = lock(&self.0.state).graph.get(name)?.clone();
        match record.kind {
            SnapshotKind::Active => self.0.disk.weigh(record.id),
            SnapshotKind::Committed | SnapshotKind::View => Ok(record.usage),
        }
    }

    /// Records that could not be read when this was opened, or whose files are lost, by the names of
    /// their files in `damaged/`. They are kept, and with them every directory without a record,
    /// until somebody removes them. One whose name is there already has a number behind it: `NAME~2`.
    ///
    /// # Errors
    /// As `readdir(3)`.
    pub fn damaged(&self) -> Result<Vec<String>> {
        self.0.disk.damaged()
    }

    /// What could not be brought in order when this was opened, and stays as it was.
    ///
    /// A record that could neither be read nor set aside is among it: its name cannot be used until
    /// somebody has mended it and this is opened again ([`ErrorKind::Corrupt`]).
    pub fn problems(&self) -> &[Error] {
        &self.0.problems
    }

    /// Where the files of a snapshot lie; of an active one, where the mount writes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let state = lock(&self.0.state);
        Ok(self.0.disk.files_of(state.graph.get(name)?.id))
    }

    /// The state, once nobody works with these names.
    fn settled<const N: usize>(&self, names: [&str; N]) -> MutexGuard<'_, State> {
        let state = lock(&self.0.state);
        let is_busy = |state: &mut State| names.iter().any(|name| state.busy.contains(*name));
        self.0.settled.wait_while(state, is_busy).unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others away from these names.
    fn busy(&self, names: Vec<String>) -> Busy<'_> {
        let state = lock(&self.0.state);
        let is_busy = |state: &mut State| names.iter().any(|name| state.busy.contains(name));
        let waited = self.0.settled.wait_while(state, is_busy);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.busy.extend(names.iter().cloned());
        drop(state);
        Busy { inner: &self.0, names }
    }
}

/// The present, by a clock that may stand anywhere.
fn now() -> Timestamp {
    use std::time::{SystemTime, UNIX_EPOCH};
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        // A clock before 1970 is a machine without one.
        Err(_) => Timestamp { seconds: 0, nanos: 0 },
    }
}

#[cfg(test)]
mod tests;
