//! Which snapshots there are, which stands on which, and what may be done: no input or output.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::record::{SnapshotRecord, kept};
use super::{Labels, SnapshotKind, SnapshotUsage};
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::encode;
use crate::inode::Timestamp;

/// All snapshots, as they are on disk.
#[derive(Debug, Default)]
pub(super) struct Graph {
    records: BTreeMap<String, SnapshotRecord>,
    /// How many stand on each.
    children: HashMap<String, usize>,
    /// The highest number that any directory has or had.
    highest: u64,
    /// Files that lie where records do, and are none.
    taken: HashSet<Box<[u8]>>,
}

impl Graph {
    pub(super) fn of(
        records: Vec<SnapshotRecord>,
        taken: HashSet<Box<[u8]>>,
        highest: u64,
    ) -> Self {
        let mut graph = Self { highest, taken, ..Self::default() };
        records.into_iter().for_each(|record| graph.add(record));
        graph
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &SnapshotRecord> {
        self.records.values()
    }

    pub(super) fn get(&self, name: &str) -> Result<&SnapshotRecord> {
        self.records.get(name).ok_or_else(|| missing(name))
    }

    /// Takes in a record, in place of the one of that name.
    pub(super) fn add(&mut self, record: SnapshotRecord) {
        self.highest = self.highest.max(record.id);
        self.remove(&record.name);
        if let Some(parent) = &record.parent {
            *self.children.entry(parent.clone()).or_default() += 1;
        }
        self.records.insert(record.name.clone(), record);
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some(record) = self.records.remove(name) else { return };
        let Some(parent) = record.parent else { return };
        if let Some(count) = self.children.get_mut(&parent) {
            *count -= 1;
            if *count == 0 {
                self.children.remove(&parent);
            }
        }
    }

    /// The numbers of a committed snapshot and of those that it stands on, topmost first.
    pub(super) fn ids_below(&self, parent: Option<&str>) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        let mut at = parent;
        while let Some(name) = at {
            let record = self.get(name)?;
            ids.push(record.id);
            at = record.parent.as_deref();
            if ids.len() > self.records.len() {
                let message = format!("snapshot {name:?} stands on itself");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        Ok(ids)
    }

    /// What a new snapshot will be.
    pub(super) fn plan_make(
        &mut self,
        kind: SnapshotKind,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        now: Timestamp,
    ) -> Result<SnapshotRecord> {
        if key.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a snapshot needs a name"));
        }
        if let Some(parent) = parent
            && self.get(parent)?.kind != SnapshotKind::Committed
        {
            let message = format!("parent {parent:?} is not committed");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.must_be_free(key)?;
        // A number that was given once is not given again, also where making it fails.
        self.highest += 1;
        Ok(SnapshotRecord {
            name: key.to_owned(),
            id: self.highest,
            kind,
            parent: parent.map(str::to_owned),
            created: now.into(),
            updated: now.into(),
            labels: kept(labels),
            usage: SnapshotUsage::default(),
        })
    }

    /// What an active snapshot will be once it is committed.
    pub(super) fn plan_commit(
        &self,
        name: &str,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        usage: SnapshotUsage,
        now: Timestamp,
    ) -> Result<SnapshotRecord> {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a snapshot needs a name"));
        }
        self.must_be_free(name)?;
        let active = self.get(key)?;
        if active.kind != SnapshotKind::Active {
            return Err(wrong_state(key, "active"));
        }
        let parent = match (&active.parent, parent) {
            (Some(now), Some(wanted)) if now != wanted => {
                let message = format!("it stands on {now:?}, and cannot be put on {wanted:?}");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            (Some(now), _) => Some(now.clone()),
            (None, wanted) => wanted.map(str::to_owned),
        };
        if let Some(parent) = &parent
            && self.get(parent)?.kind != SnapshotKind::Committed
        {
            return Err(wrong_state(parent, "committed"));
        }
        Ok(SnapshotRecord {
            name: name.to_owned(),
            id: active.id,
            kind: SnapshotKind::Committed,
            parent,
            created: now.into(),
            updated: now.into(),
            labels: kept(labels),
            usage,
        })
    }

    /// The number of a snapshot that may be removed.
    pub(super) fn plan_remove(&self, name: &str) -> Result<u64> {
        let record = self.get(name)?;
        if self.children.contains_key(name) {
            let child = self.records.values().find(|child| child.parent.as_deref() == Some(name));
            let child = child.map_or("another", |child| child.name.as_str());
            let message = format!("snapshot {child:?} stands on it");
            return Err(Error::new(ErrorKind::InUse, message).hint("remove that one first"));
        }
        Ok(record.id)
    }

    fn must_be_free(&self, name: &str) -> Result<()> {
        if self.records.contains_key(name) {
            let message = format!("there is a snapshot {name:?} already");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let file = encode(name);
        if self.taken.contains(file.as_bytes()) {
            let message = format!("there is a damaged record of a snapshot {name:?}");
            return Err(Error::new(ErrorKind::Corrupt, message)
                .hint(format!("mend or remove the file records/{file}, and start anew")));
        }
        Ok(())
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no snapshot {name:?}"))
}

fn wrong_state(name: &str, wanted: &str) -> Error {
    Error::new(ErrorKind::WrongState, format!("snapshot {name:?} is not {wanted}"))
}
