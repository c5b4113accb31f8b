//! What is being made: a directory or file in `staging/` that its maker holds locked.
//!
//! Dropping removes it; publishing moves it to its place in one rename, and the lock, which is the
//! directory's own, goes on holding the object there. A maker that dies gives the lock back, and
//! whoever opens the store next removes what it left.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Store;
use super::hold::{Attempt, Held};
use super::layout::{INTENT_PREFIX, Object, STAGING};
use super::record;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::dir::SysResult;
use crate::sys::lock::{Lock, Mode};
use crate::sys::{Dir, random, remove};

/// How often a new name is tried when each is swept away before it can be locked.
const ATTEMPTS: usize = 100;

/// A directory in `staging/`; removed when dropped.
#[derive(Debug)]
pub(super) struct Staged {
    /// Dropped before `held`: nobody else comes near it while it is removed.
    place: StagedPlace,
    held: Held,
}

#[derive(Debug)]
struct StagedPlace {
    store: Store,
    name: String,
    published: bool,
    /// Something else refers to it by now.
    linked: bool,
}

/// What came of publishing.
#[derive(Debug)]
pub(super) enum Published {
    /// It is in its place, and held.
    Done(Held),
    /// Something of that name is there already.
    Exists(Staged),
}

impl Store {
    /// Makes a directory in `staging/` with a name of its own that begins with `tag`.
    pub(super) fn stage(&self, tag: &str) -> Result<Staged> {
        let name = || random::hex::<8>().map(|random| format!("{tag}.{random}"));
        self.stage_as(Mode::Shared, name).map(|(staged, _)| staged)
    }

    /// Makes a directory in `staging/` with the first name that can be had.
    pub(super) fn stage_as<T: AsRef<str>>(
        &self,
        mode: Mode,
        mut name: impl FnMut() -> SysResult<T>,
    ) -> Result<(Staged, T)> {
        self.writable()?;
        let staging = self.top(STAGING);
        for _ in 0..ATTEMPTS {
            let named = name().during("read", "random bytes")?;
            let text = named.as_ref();
            match staging.make_dir(text.as_bytes(), 0o700) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => {
                    return Err(error).during("create directory", &self.at(&[STAGING, text]));
                }
            }
            // Whoever opens the store at this moment may lock and remove it first.
            let attempt = Held::attempt(staging, text.as_bytes(), mode);
            if let Attempt::Held(held) =
                attempt.during("lock directory", &self.at(&[STAGING, text]))?
            {
                let (store, name) = (self.clone(), text.to_owned());
                let place = StagedPlace { store, name, published: false, linked: false };
                return Ok((Staged { place, held }, named));
            }
            // Nobody knows of it any more, should it still be there.
            let _ = staging.remove_dir(text.as_bytes());
        }
        Err(Error::new(ErrorKind::InUse, "staging directories vanish as soon as they are made"))
    }

    /// Makes a file in `staging/`, locked, with a name that begins with `prefix`; its owner
    /// removes it or moves it away.
    pub(super) fn stage_file(&self, prefix: &str, bytes: &[u8]) -> Result<(Lock, String)> {
        self.writable()?;
        let staging = self.top(STAGING);
        for _ in 0..ATTEMPTS {
            let name = random::hex::<8>().during("read", "random bytes")?;
            let name = format!("{prefix}{name}");
            let made = || {
                let file = record::create(staging, name.as_bytes(), b"")?;
                let Some(lock) = Lock::attempt(file.into(), Mode::Exclusive)? else {
                    return Ok(None);
                };
                if !staging.names(name.as_bytes(), &lock)? {
                    return Ok(None);
                }
                write_all(&lock, bytes)?;
                Ok::<_, Errno>(Some(lock))
            };
            if let Some(lock) = made().during("write file", &self.at(&[STAGING, &name]))? {
                return Ok((lock, name));
            }
        }
        Err(Error::new(ErrorKind::InUse, "staging files vanish as soon as they are made"))
    }
}

impl Store {
    /// Replaces or creates the file `name` of `dir` in one step: a reader, and whoever comes after
    /// the process died, sees the old bytes or the new, and nothing is left beside it. Nothing is
    /// synced: a power cut may tear it.
    pub(super) fn replace_unsynced(&self, dir: &Dir, name: &[u8], bytes: &[u8]) -> Result<()> {
        let (_lock, staged) = self.stage_file("record-", bytes)?;
        let staging = self.top(STAGING);
        let moved = staging.rename(staged.as_bytes(), dir, name, RenameFlags::empty());
        if moved.is_err() {
            let _ = staging.remove_file(staged.as_bytes());
        }
        moved.during("write", name)
    }
}

fn write_all(file: &Lock, mut bytes: &[u8]) -> SysResult<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Staged {
    /// The directory.
    pub(super) fn dir(&self) -> &Dir {
        self.held.dir()
    }

    #[cfg(feature = "image")]
    /// The store that it is to become part of.
    pub(super) fn store(&self) -> &Store {
        &self.place.store
    }

    /// The hold on it, which goes with it where it is published to.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// To be called before something else is given a link to it.
    pub(super) fn will_be_linked(&mut self) {
        self.place.linked = true;
    }

    /// Makes the directory `name` in it, of a mode that the umask cannot change.
    pub(super) fn make_dir(&self, name: &[u8], mode: u32) -> Result<()> {
        let dir = self.dir();
        let made = dir.make_dir(name, 0o700).and_then(|()| match mode {
            0o700 => Ok(()),
            _ => dir.chmod(name, mode),
        });
        made.during("create directory", &self.shown(name))
    }

    /// Creates a file in it; it becomes durable when it is synced.
    pub(super) fn create(&self, name: &[u8], bytes: &[u8]) -> Result<std::fs::File> {
        record::create(self.dir(), name, bytes).during("write file", &self.shown(name))
    }

    /// The path of `name` in it, for messages.
    pub(super) fn shown(&self, name: &[u8]) -> String {
        let path = self.place.store.path().join(STAGING).join(&self.place.name);
        path.join(String::from_utf8_lossy(name).as_ref()).display().to_string()
    }

    /// Moves it to the place of `object`; the name is not durable yet.
    pub(super) fn publish(mut self, object: Object) -> Result<Published> {
        let store = &self.place.store;
        let (staging, top) = (store.top(STAGING), store.top(object.place()));
        let (from, to) = (self.place.name.as_bytes(), object.name());
        match staging.rename(from, top, to.as_bytes(), RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.place.published = true;
                Ok(Published::Done(self.held))
            }
            Err(Errno::EXIST) => Ok(Published::Exists(self)),
            Err(error) => Err(error).during("move into place", &store.at(&[object.place(), &to])),
        }
    }
}

impl StagedPlace {
    /// Whether others hold back links of an object that did not come to be. Its maker holds those
    /// others itself, and only who holds them alone may take links away: the next opening does.
    fn is_linked(&self) -> bool {
        let absent = |object| !self.store.exists(object).unwrap_or(true);
        self.linked && Object::from_tag(&self.name).is_some_and(absent)
    }
}

impl Drop for StagedPlace {
    fn drop(&mut self) {
        if !self.published && !self.is_linked() {
            // What cannot be removed now is swept when the store is opened next.
            let _ = remove::remove_tree(self.store.top(STAGING), self.name.as_bytes());
        }
    }
}

/// Objects that were published and that nothing refers to yet.
///
/// They are written down in `staging/` before they appear, so that they go where their maker fails
/// or dies before something uses them.
#[derive(Debug)]
pub(super) struct Intent {
    store: Store,
    name: String,
    /// Holds the file, so that nobody else acts on it.
    _lock: Lock,
    unused: Mutex<BTreeSet<Object>>,
}

impl Store {
    /// Writes down that `objects` go unless something comes to use them.
    pub(super) fn intend(&self, objects: BTreeSet<Object>) -> Result<Intent> {
        let lines: String = objects.iter().map(|object| object.tag() + "\n").collect();
        let (lock, name) = self.stage_file(INTENT_PREFIX, lines.as_bytes())?;
        Ok(Intent { store: self.clone(), name, _lock: lock, unused: Mutex::new(objects) })
    }
}

impl Intent {
    /// Something durable refers to `object` now.
    pub(super) fn mark_used(&self, object: Object) {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).remove(&object);
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let unused = self.unused.get_mut().unwrap_or_else(PoisonError::into_inner);
        let unused: Vec<_> = std::mem::take(unused).into_iter().collect();
        // Where somebody holds one, and does not come to use it either, he looks again, or the next
        // opening does.
        if self.store.drop_unused(&unused).is_ok_and(|all| all) {
            let _ = self.store.top(STAGING).remove_file(self.name.as_bytes());
        }
        if !unused.is_empty() {
            self.store.sweep_intents();
        }
    }
}
