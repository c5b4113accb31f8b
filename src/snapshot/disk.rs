//! The directory of snapshots: what lies where, and in which order it is written.
//!
//! ```text
//! ROOT/
//!   snapshots.json    {"version":1}
//!   records/ENCODED   a SnapshotRecord; ENCODED is its name as a file name
//!   snapshots/ID/     ID is a number that is given once
//!     fs/             the files; of an active one, the UpperDir
//!     work/           of an active one, the WorkDir
//!   trash/ID/         removed, and not deleted yet
//!   damaged/ENCODED   records that could not be read, or whose files are lost
//! ```
//!
//! A record that cannot even be moved to `damaged/` keeps its place, and its name is not given again.
//!
//! A directory comes before its record and goes after it, so one without a record is what somebody
//! left who died. A commit writes the record of the new name, which makes it one, and then takes
//! the old one away: where both are there, the committed one counts.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::record::SnapshotRecord;
use super::{SnapshotKind, SnapshotUsage};
use crate::error::{Context, Error, ErrorKind, Result, is_starved};
use crate::file_name::encode;
use crate::sys::dir::SysResult;
use crate::sys::durable::{Durability, temporary_name};
use crate::sys::lock::{Lock, Mode};
use crate::sys::remove::remove_tree;
use crate::sys::weigh::weigh;
use crate::sys::xattr::Target;
use crate::sys::{Dir, inode_io};

const VERSION: u32 = 1;
const VERSION_FILE: &[u8] = b"snapshots.json";
const FILES: &[u8] = b"fs";
const WORK: &[u8] = b"work";

/// What makes a directory one of snapshots.
#[derive(Serialize, Deserialize)]
struct VersionRecord {
    version: u32,
}

/// The directory, open and locked.
#[derive(Debug)]
pub(super) struct Disk {
    /// Absolute, for mounts are given as paths.
    root: PathBuf,
    durability: Durability,
    records: Dir,
    snapshots: Dir,
    trash: Dir,
    damaged: Dir,
    /// Held by the one who empties the trash.
    emptying: Mutex<()>,
    _lock: Lock,
}

/// What is there when the directory is opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<SnapshotRecord>,
    /// The names of files in `records/` that are no records, and stay.
    pub(super) taken: HashSet<Box<[u8]>>,
    /// What could not be brought in order.
    pub(super) problems: Vec<Error>,
}

impl Found {
    fn stays(&mut self, file_name: &[u8], problem: Error) {
        self.taken.insert(file_name.into());
        self.problems.push(problem);
    }
}

impl Disk {
    /// Opens or makes it, and brings it in order.
    pub(super) fn open(root: &Path, durability: Durability) -> Result<(Self, Found)> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).during("create directory", root)?;
        let dir = Dir::open_ambient(root)?;
        let path = dir.ambient_path().or_else(|| std::path::absolute(root).ok());
        let path = path.filter(|path| path.to_str().is_some()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "its path is no UTF-8, so no mount can name it")
        })?;
        let own = Dir::open_ambient(root)?;
        let lock = Lock::attempt(own.into(), Mode::Exclusive).during("lock", root)?;
        let lock = lock.ok_or_else(|| {
            Error::new(ErrorKind::InUse, "another process has it open")
                .hint("only one snapshotter may use a directory at a time")
        })?;
        check_version(&dir, durability)?;
        let part = |name: &str| -> Result<Dir> {
            match dir.make_dir(name.as_bytes(), 0o700) {
                Ok(()) | Err(Errno::EXIST) => dir.child(name.as_bytes()).during("open", name),
                Err(error) => Err(error).during("create directory", name),
            }
        };
        let disk = Self {
            root: path,
            durability,
            records: part("records")?,
            snapshots: part("snapshots")?,
            trash: part("trash")?,
            damaged: part("damaged")?,
            emptying: Mutex::new(()),
            _lock: lock,
        };
        let found = disk.recover()?;
        Ok((disk, found))
    }

    /// Where the files of a snapshot lie.
    pub(super) fn files_of(&self, id: u64) -> PathBuf {
        self.root.join(format!("snapshots/{id}/fs"))
    }

    /// The WorkDir of an active snapshot.
    pub(super) fn work_of(&self, id: u64) -> PathBuf {
        self.root.join(format!("snapshots/{id}/work"))
    }

    /// The highest number that is in use, or was and is not deleted yet.
    pub(super) fn highest_id(&self) -> Result<u64> {
        let numbers = |dir: &Dir| Ok::<_, Errno>(ids(dir)?.into_iter().max().unwrap_or(0));
        let highest = numbers(&self.snapshots).and_then(|n| Ok(n.max(numbers(&self.trash)?)));
        highest.during("list", "snapshots")
    }

    /// Makes the directories of a snapshot, and its record.
    ///
    /// The root of the files looks as that of the snapshot below, for overlayfs shows the topmost.
    pub(super) fn make(&self, record: &SnapshotRecord, below: Option<u64>) -> Result<()> {
        let name = record.id.to_string();
        let make = || -> SysResult<Dir> {
            self.snapshots.make_dir(name.as_bytes(), 0o700)?;
            let dir = self.snapshots.child(name.as_bytes())?;
            dir.make_dir(FILES, 0o755)?;
            let files = dir.child(FILES)?;
            let mut mode = 0o755;
            if let Some(below) = below {
                let stat = self.files(below)?.stat_self()?;
                mode = stat.st_mode & 0o7777;
                let own = files.stat_self()?;
                if (own.st_uid, own.st_gid) != (stat.st_uid, stat.st_gid) {
                    inode_io::chown(Target::open(&files), stat.st_uid, stat.st_gid)?;
                }
            }
            inode_io::chmod(Target::open(&files), mode)?;
            if record.kind == SnapshotKind::Active {
                dir.make_dir(WORK, 0o711)?;
            }
            Ok(dir)
        };
        let made = make().during("create directories of", &record.name);
        let written = made.and_then(|dir| self.write(record, RenameFlags::NOREPLACE, &[&dir]));
        if written.is_err() {
            let _ = remove_tree(&self.snapshots, name.as_bytes());
        }
        written
    }

    /// Puts another record in the place of the one of that name.
    pub(super) fn replace(&self, record: &SnapshotRecord) -> Result<()> {
        self.write(record, RenameFlags::empty(), &[])
    }

    /// Makes the snapshot `key` the one that `record` describes.
    pub(super) fn commit(&self, key: &str, record: &SnapshotRecord) -> Result<()> {
        self.write(record, RenameFlags::NOREPLACE, &[])?;
        self.forget(key).inspect_err(|_| drop(self.forget(&record.name)))
    }

    /// Takes away a record, and puts its directory where it is deleted from.
    pub(super) fn remove(&self, key: &str, id: u64) -> Result<()> {
        self.forget(key)?;
        // What stays is found without a record at the next opening.
        let _ = self.discard(id);
        Ok(())
    }

    /// The room that the files of a snapshot take.
    pub(super) fn weigh(&self, id: u64) -> Result<SnapshotUsage> {
        let weight = self.files(id).and_then(|files| weigh(&files));
        let weight = weight.during("walk", &self.files_of(id))?;
        Ok(SnapshotUsage { size: weight.allocated, inodes: weight.inodes })
    }

    /// All that was written to files so far is on disk.
    pub(super) fn sync_contents(&self) -> Result<()> {
        self.durability.sync_file_system(&self.snapshots).during("sync", "snapshots")
    }

    /// Deletes what was removed, one caller after the other.
    pub(super) fn empty_trash(&self) -> Result<()> {
        let _alone = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = Ok(());
        for entry in self.trash.entries().during("list", "trash")? {
            let removed = remove_tree(&self.trash, &entry.name).during("remove", &*entry.name);
            done = done.and(removed);
        }
        done
    }

    /// Records that were set aside, by the names of their files.
    pub(super) fn damaged(&self) -> Result<Vec<String>> {
        let entries = self.damaged.sorted_entries().during("list", "damaged")?;
        Ok(entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into()).collect())
    }

    fn files(&self, id: u64) -> SysResult<Dir> {
        self.snapshots.child(id.to_string().as_bytes())?.child(FILES)
    }

    /// Writes a record; names that were made in `dirs` before are there where it is.
    fn write(&self, record: &SnapshotRecord, flags: RenameFlags, dirs: &[&Dir]) -> Result<()> {
        let bytes = bytes_of(record)?;
        let name = encode(&record.name);
        let temporary = temporary_name(name.as_bytes());
        let flags_open = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let write = || -> SysResult<()> {
            let mut file = self.records.open(&temporary, flags_open, 0o600)?;
            let written = file.write_all(&bytes);
            written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            let dirs = dirs.iter().copied().chain((!dirs.is_empty()).then_some(&self.snapshots));
            self.durability.sync_file_and_names(&file, dirs)?;
            self.records.rename(&temporary, &self.records, name.as_bytes(), flags)
        };
        let written = write().and_then(|()| self.durability.sync_names(&self.records));
        if written.is_err() {
            let _ = self.records.remove_file(&temporary);
        }
        written.during("write record of snapshot", &record.name)
    }

    fn forget(&self, name: &str) -> Result<()> {
        self.records
            .remove_file(encode(name).as_bytes())
            .and_then(|()| self.durability.sync_names(&self.records))
            .during("remove record of snapshot", name)
    }

    fn discard(&self, id: u64) -> SysResult<()> {
        let name = id.to_string();
        self.snapshots.rename(name.as_bytes(), &self.trash, name.as_bytes(), RenameFlags::empty())
    }

    /// Reads all records, and finishes what somebody left who died.
    ///
    /// One that is damaged hinders no other; where the process lacks something, no record is.
    fn recover(&self) -> Result<Found> {
        let there = ids(&self.snapshots).during("list", "snapshots")?;
        let mut found = Found::default();
        let mut records: BTreeMap<u64, SnapshotRecord> = BTreeMap::new();
        for entry in self.records.sorted_entries().during("list", "records")? {
            // What was not written to its end.
            if entry.name.starts_with(b".") && self.records.remove_file(&entry.name).is_ok() {
                continue;
            }
            let record = match self.read(&entry.name, &there) {
                Ok(record) => record,
                Err(error) if error.is_starved() => return Err(error),
                Err(error) => {
                    self.set_aside(&entry.name, error, &mut found)?;
                    continue;
                }
            };
            let other = records.get(&record.id);
            let is_old = other.is_some_and(|other| other.kind == SnapshotKind::Committed);
            let old = match is_old {
                true => Some(record),
                false => records.insert(record.id, record),
            };
            // Of a commit that wrote the new record and did not come to the old one.
            let Some(old) = old else { continue };
            match self.forget(&old.name) {
                Err(error) if error.is_starved() => return Err(error),
                Err(error) => found.stays(encode(&old.name).as_bytes(), error),
                Ok(()) => {}
            }
        }
        // A record that cannot be read may be that of any directory.
        if self.damaged()?.is_empty() && found.taken.is_empty() {
            for id in there.iter().filter(|id| !records.contains_key(id)) {
                // One that stays is in nobody's way: its number is not given again.
                let gone = self.discard(*id);
                let gone = gone.during("remove what was left of snapshot", &id.to_string());
                found.problems.extend(gone.err());
            }
        }
        found.records = records.into_values().collect();
        Ok(found)
    }

    /// A record, of one of the directories that are there.
    fn read(&self, file_name: &[u8], there: &HashSet<u64>) -> Result<SnapshotRecord> {
        use std::io::Read;
        // A FIFO in its place is not waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = self.records.open(file_name, flags, 0).during("open record", file_name)?;
        let mut bytes = Vec::new();
        file.take(MOST_RECORD as u64).read_to_end(&mut bytes).during("read record", file_name)?;
        let damage = |what: &str| {
            let name = String::from_utf8_lossy(file_name);
            Error::new(ErrorKind::Corrupt, format!("read record {name}: {what}"))
        };
        let record = serde_json::from_slice::<SnapshotRecord>(&bytes)
            .map_err(|error| damage("it is malformed").because(error))?;
        if encode(&record.name).as_bytes() != file_name {
            return Err(damage("it has the name of another"));
        }
        if !there.contains(&record.id) {
            return Err(damage("its files are lost"));
        }
        Ok(record)
    }

    /// Moves away what is no record, beside others of its name that were moved before.
    fn set_aside(&self, file_name: &[u8], why: Error, found: &mut Found) -> Result<()> {
        let to = |name: &[u8]| {
            self.records.rename(file_name, &self.damaged, name, RenameFlags::NOREPLACE)
        };
        let mut moved = to(file_name);
        let mut number = 2_u32;
        while moved == Err(Errno::EXIST) {
            moved = to(&[file_name, format!("~{number}").as_bytes()].concat());
            number += 1;
        }
        match moved {
            Err(error) if is_starved(error) => {
                return moved.during("set aside the damaged record", file_name);
            }
            Err(error) => {
                let hint = "until it is mended or removed its name is not given again, and no \
                            directory without a record is removed";
                let why = why.within(format_args!("set aside a damaged record: {error}"));
                found.stays(file_name, why.hint(hint));
            }
            Ok(()) => {}
        }
        Ok(())
    }
}

/// The most bytes that a record may have: labels of 4 KiB each, and many of them.
pub(super) const MOST_RECORD: usize = 16 << 20;

/// A record as it is written: no longer than what is read.
fn bytes_of(record: &SnapshotRecord) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record).map_err(|error| {
        Error::new(ErrorKind::Io, "serialise the record of a snapshot").because(error)
    })?;
    bytes.push(b'\n');
    if bytes.len() > MOST_RECORD {
        let length = bytes.len();
        let message = format!("its record would have {length} bytes, and may have {MOST_RECORD}");
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("give it fewer labels, or shorter ones"));
    }
    Ok(bytes)
}

/// The numbers that are names in a directory.
fn ids(dir: &Dir) -> SysResult<HashSet<u64>> {
    let number = |name: &[u8]| std::str::from_utf8(name).ok()?.parse().ok();
    Ok(dir.entries()?.iter().filter_map(|entry| number(&entry.name)).collect())
}

/// Makes sure that this is a directory of snapshots, or an empty one, which becomes it.
fn check_version(dir: &Dir, durability: Durability) -> Result<()> {
    use std::io::Read;
    let subject = "snapshots.json";
    let file = match dir.open(VERSION_FILE, OFlags::RDONLY, 0) {
        Ok(file) => file,
        Err(Errno::NOENT) => {
            let entries = dir.entries().during("list", "the directory")?;
            let is_ours = |name: &[u8]| name == temporary_name(VERSION_FILE);
            if !entries.iter().all(|entry| is_ours(&entry.name)) {
                let message = "the directory holds something else";
                return Err(Error::new(ErrorKind::AlreadyExists, message)
                    .hint("give an empty directory, or one that does not exist"));
            }
            let text = format!("{{\"version\":{VERSION}}}\n");
            return durability
                .replace_file(dir, VERSION_FILE, text.as_bytes())
                .during("write", subject);
        }
        Err(error) => return Err(error).during("open", subject),
    };
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).during("read", subject)?;
    let record: VersionRecord = serde_json::from_str(&text).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("{subject} is malformed")).because(error)
    })?;
    if record.version != VERSION {
        let message = format!("format {} is not known, only {VERSION} is", record.version);
        return Err(Error::new(ErrorKind::Unsupported, message).hint("use a newer version"));
    }
    Ok(())
}
