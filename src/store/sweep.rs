//! Cleaning up: what makers that died have left in staging, and what was removed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::hold::{Attempt, Held};
use super::layout::{
    CONTAINER_FILE, IMAGE_NAMES, INTENT_PREFIX, Object, RESERVED_SUFFIX, STAGING, TRASH,
};
use super::record::ContainerRecord;
use super::{Store, ballast};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::dir::{DirEntry, Kind, SysResult};
use crate::sys::lock::{Lock, Mode};
use crate::sys::remove::{Pace, Threads};
use crate::sys::{Dir, random, remove};
use crate::watch::Watch;

/// How long opening a store, or removing something, deletes what was removed.
const BRIEFLY: Duration = Duration::from_micros(500);

/// As many names are deleted however long it takes, so that of something small nothing stays.
const AT_LEAST: u32 = 64;

/// What takes more bytes is left, since nothing can be asked while it is deleted: 400 MB take 40 ms.
const LARGEST: u64 = 4 << 20;

/// The time that those who did not ask for it spend on deleting.
#[derive(Debug)]
struct Brief {
    end: Instant,
    names: AtomicU32,
}

impl Brief {
    fn begin() -> Self {
        Self { end: Instant::now() + BRIEFLY, names: AtomicU32::new(0) }
    }

    /// Whether one more name may be deleted.
    fn goes_on(&self) -> bool {
        self.names.fetch_add(1, Ordering::Relaxed) < AT_LEAST || Instant::now() < self.end
    }
}

/// Deletes for as long as nobody notices, files of at most `largest` bytes.
fn briefly<T>(largest: u64, delete: impl FnOnce(Pace<'_>) -> T) -> T {
    let brief = Brief::begin();
    delete(Pace { go_on: &|| brief.goes_on(), threads: Threads::One, largest })
}

impl Store {
    /// Deletes what was removed, and gives back how many objects that were; what another process
    /// deletes at this moment is left to it. Several threads do it where there is much.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] where `watch` says so; what is left is
    /// deleted another time. Where one object cannot be deleted the others are, and the first error
    /// is given. Nothing is deleted through a mount: what holds one stays in the trash.
    pub fn empty_trash(&self, watch: &Watch<'_>) -> Result<u64> {
        let go_on = || watch.check().is_ok();
        let deleted = self.empty_trash_at(Pace { go_on: &go_on, ..Pace::WHOLE })?;
        ballast::hold(&self.0.root);
        watch.check().map(|()| deleted)
    }

    /// As [`empty_trash`](Self::empty_trash), but for no longer than anybody notices: about half a
    /// millisecond. What is left, and a file of more than 4 MiB, is deleted by those who come later, or
    /// by a collection.
    ///
    /// # Errors
    /// As [`empty_trash`](Self::empty_trash); that something is left is no error.
    pub fn empty_trash_briefly(&self) -> Result<u64> {
        briefly(LARGEST, |pace| self.empty_trash_at(pace))
    }

    /// Deletes one object in the trash, which is held, as [`empty_trash_briefly`] would.
    ///
    /// [`empty_trash_briefly`]: Self::empty_trash_briefly
    pub(super) fn delete_briefly(&self, name: &str) -> SysResult<()> {
        let (top, name) = (self.top(TRASH), name.as_bytes());
        match briefly(LARGEST, |pace| remove::remove_tree_at(top, name, pace)) {
            Err(Errno::CANCELED) => Ok(()),
            other => other,
        }
    }

    fn empty_trash_at(&self, pace: Pace<'_>) -> Result<u64> {
        self.writable()?;
        let (mut count, mut failed, mut seen) = (0, None, BTreeSet::new());
        loop {
            let mut entries = self.top(TRASH).entries().during("list", &self.at(&[TRASH]))?;
            entries.retain(|entry| seen.insert(entry.name.clone()));
            // What goes may take more with it, which is in the trash then.
            if entries.is_empty() {
                return failed.map_or(Ok(count), Err);
            }
            for entry in entries {
                if !(pace.go_on)() {
                    return failed.map_or(Ok(count), Err);
                }
                match self.delete_trash(&entry, pace) {
                    Ok(deleted) => count += u64::from(deleted),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
    }

    /// What is done when the store is opened. What fails here is tried again next time, and does
    /// not keep anybody from using the store.
    pub(super) fn sweep(&self) {
        self.sweep_staging();
        // Whatever it takes: else a large file would stay until somebody asks for a collection.
        let _ = briefly(u64::MAX, |pace| self.empty_trash_at(pace));
    }

    /// Takes away what makers that died have left.
    pub(super) fn sweep_staging(&self) {
        for entry in self.top(STAGING).entries().unwrap_or_default() {
            let _ = match entry.kind {
                Kind::Directory => self.sweep_directory(&entry),
                _ => self.sweep_file(&entry),
            };
        }
    }

    /// Looks again at what makers left who found that somebody else held it.
    pub(super) fn sweep_intents(&self) {
        let mut entries = self.top(STAGING).entries().unwrap_or_default();
        entries.retain(|entry| entry.name.starts_with(INTENT_PREFIX.as_bytes()));
        entries.iter().for_each(|entry| drop(self.sweep_file(entry)));
    }

    /// A reservation or an intent whose owner died.
    fn sweep_file(&self, entry: &DirEntry) -> Result<()> {
        let (staging, name) = (self.top(STAGING), String::from_utf8_lossy(&entry.name));
        let Ok(Some(_lock)) = self.lock_staged_file(&entry.name) else {
            return Ok(());
        };
        if name.starts_with(INTENT_PREFIX) && !name.ends_with(RESERVED_SUFFIX) {
            let bytes = super::record::read_bytes(staging, &entry.name).unwrap_or_default();
            let lines = String::from_utf8_lossy(&bytes).into_owned();
            let objects: Vec<_> = lines.lines().filter_map(Object::from_tag).collect();
            let all = self.drop_unused(&objects)?;
            lines.lines().try_for_each(|line| self.finish_names(line))?;
            if !all {
                return Ok(());
            }
        }
        staging.remove_file(&entry.name).during("remove", &self.at(&[STAGING, &name]))
    }

    /// Locks a file in staging; `None` where its maker holds it.
    pub(super) fn lock_staged_file(&self, name: &[u8]) -> SysResult<Option<Lock>> {
        let staging = self.top(STAGING);
        let file = staging.open(name, OFlags::RDONLY, 0)?;
        let Some(lock) = Lock::attempt(file.into(), Mode::Exclusive)? else {
            return Ok(None);
        };
        Ok(staging.names(name, &lock)?.then_some(lock))
    }

    /// A half-made object whose maker died: its links go, then itself.
    fn sweep_directory(&self, entry: &DirEntry) -> Result<()> {
        let (staging, name) = (self.top(STAGING), String::from_utf8_lossy(&entry.name));
        let place = self.at(&[STAGING, &name]).to_string();
        let attempt = Held::attempt(staging, &entry.name, Mode::Exclusive);
        let Attempt::Held(held) = attempt.during("lock directory", &place)? else {
            return Ok(());
        };
        if let Some(object) = Object::from_tag(&name) {
            self.unlink(object, held.dir())?;
        }
        // Deleted like all else that is removed: a big one takes its time.
        let trash = format!("staging.{}", random::hex::<8>().during("read", "random bytes")?);
        staging
            .rename(&entry.name, self.top(TRASH), trash.as_bytes(), RenameFlags::NOREPLACE)
            .during("move to the trash", &place)
    }

    fn delete_trash(&self, entry: &DirEntry, pace: Pace<'_>) -> Result<bool> {
        let (trash, name) = (self.top(TRASH), String::from_utf8_lossy(&entry.name));
        let place = self.at(&[TRASH, &name]).to_string();
        let attempt = Held::attempt(trash, &entry.name, Mode::Exclusive);
        let held = match attempt {
            Ok(Attempt::Held(held)) => held,
            Ok(_) => return Ok(false),
            // Something that is no directory.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                trash.remove_file(&entry.name).during("remove", &place)?;
                return Ok(true);
            }
            Err(error) => return Err(error).during("lock directory", &place),
        };
        if let Some(object) = Object::from_tag(&name) {
            // Whoever removed it may have died before it came to this.
            self.unlink(object, held.dir())?;
        }
        match remove::remove_tree_at(trash, &entry.name, pace) {
            Err(Errno::CANCELED) => Ok(false),
            other => other.map(|()| true).during("delete", &place).map_err(hint_at_owners),
        }
    }

    /// Takes the links and names of an object that is no more, or never came to be, from those
    /// that stay. What only it used goes too.
    pub(super) fn unlink(&self, object: Object, dir: &Dir) -> Result<()> {
        match object {
            Object::Layer(_) | Object::Chain(_) => {}
            Object::Image(id) => {
                let names = dir.child(IMAGE_NAMES).and_then(|names| names.entries());
                for name in names.unwrap_or_default() {
                    self.forget_image_name(&name.name, &id)?;
                }
            }
            Object::Container(id) => {
                let record = self.read_record_in(dir, object, CONTAINER_FILE);
                let record: Result<Option<ContainerRecord>> = record;
                if let Ok(Some(record)) = record {
                    self.forget_container_name(&record.name, &id)?;
                    self.lift_quota(&record)?;
                }
            }
        }
        let below = self.uses_of(object, dir)?;
        self.release(object, below)
    }
}

/// What was written in a user namespace may belong to ids that only such a one has.
fn hint_at_owners(error: Error) -> Error {
    match error.kind() == ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() {
        true => error.hint(
            "it holds files of ids that only a user namespace has: overlay2 unshare overlay2 gc",
        ),
        false => error,
    }
}
