//! Cleaning up: what makers that died have left in staging, and what was removed.

use std::collections::BTreeSet;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Store;
use super::hold::{Attempt, Held};
use super::layout::{
    CONTAINER_FILE, IMAGE_NAMES, INTENT_PREFIX, Object, RESERVED_SUFFIX, STAGING, TRASH,
};
use super::record::ContainerRecord;
use crate::error::{Context, Result};
use crate::sys::dir::{DirEntry, Kind};
use crate::sys::lock::{Lock, Mode};
use crate::sys::{Dir, remove};
use crate::watch::Watch;

impl Store {
    /// Deletes what was removed, and gives back how many objects that were; what another process
    /// deletes at this moment is left to it.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) between two objects where `watch`
    /// says so. Where one object cannot be deleted the others are, and the first error is given.
    /// Nothing is deleted through a mount: what holds one stays in the trash.
    pub fn empty_trash(&self, watch: &Watch<'_>) -> Result<u64> {
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
                watch.check()?;
                match self.delete_trash(&entry) {
                    Ok(deleted) => count += u64::from(deleted),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
    }

    /// What is done when the store is opened. What fails here is tried again next time, and does
    /// not keep anybody from using the store.
    pub(super) fn sweep(&self) {
        for entry in self.top(STAGING).entries().unwrap_or_default() {
            let _ = match entry.kind {
                Kind::Directory => self.sweep_directory(&entry),
                _ => self.sweep_file(&entry),
            };
        }
        let _ = self.empty_trash(&Watch::new());
    }

    /// A reservation or an intent whose owner died.
    fn sweep_file(&self, entry: &DirEntry) -> Result<()> {
        let (staging, name) = (self.top(STAGING), String::from_utf8_lossy(&entry.name));
        let locked = || {
            let file = staging.open(&entry.name, OFlags::RDONLY, 0)?;
            let Some(lock) = Lock::attempt(file.into(), Mode::Exclusive)? else {
                return Ok(None);
            };
            Ok::<_, Errno>(staging.names(&entry.name, &lock)?.then_some(lock))
        };
        let Ok(Some(_lock)) = locked() else {
            return Ok(());
        };
        if name.starts_with(INTENT_PREFIX) && !name.ends_with(RESERVED_SUFFIX) {
            let bytes = super::record::read_bytes(staging, &entry.name).unwrap_or_default();
            let lines = String::from_utf8_lossy(&bytes).into_owned();
            let objects: Vec<_> = lines.lines().filter_map(Object::from_tag).collect();
            self.drop_unused(&objects)?;
            lines.lines().try_for_each(|line| self.finish_names(line))?;
        }
        staging.remove_file(&entry.name).during("remove", &self.at(&[STAGING, &name]))
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
        remove::remove_tree(staging, &entry.name).during("remove", &place)
    }

    fn delete_trash(&self, entry: &DirEntry) -> Result<bool> {
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
        remove::remove_tree(trash, &entry.name).during("delete", &place)?;
        Ok(true)
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
                if let Ok(Some(ContainerRecord { name, .. })) = record {
                    self.forget_container_name(&name, &id)?;
                }
            }
        }
        let below = self.uses_of(object, dir)?;
        self.release(object, below)
    }
}
