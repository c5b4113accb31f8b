//! Holding an object so that it does not go, or so that nobody else holds it.
//!
//! The lock of an object is a `flock` on its directory. *Shared* is a lease: whoever is about to
//! refer to the object holds it until the reference is committed. *Exclusive* is for those who
//! remove it. Since a directory may be moved to the trash, or be replaced by another of its name,
//! between opening and locking, the name is compared again once the lock is had. Nobody sleeps in
//! the kernel on these locks: waiting is polling, so a removed object is noticed while waiting.

use std::time::{Duration, Instant};

use super::Store;
use super::layout::{Object, USERS};
use crate::error::{Context, Result};
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::lock::{Lock, Mode};
use rustix::io::Errno;

/// How long one removal waits, in all, for those who hold an object only for a moment.
const PATIENCE: Duration = Duration::from_millis(100);

/// A directory that is locked, and was found under its name while it was.
#[derive(Debug)]
pub(super) struct Held(Lock);

/// What came of one attempt to lock a directory.
#[derive(Debug)]
pub(super) enum Attempt {
    Held(Held),
    /// Somebody else holds it in a way that excludes this.
    Busy,
    /// There is no such directory.
    Gone,
}

impl Held {
    /// Locks the directory `name` in `parent`, if that can be done at once.
    pub(super) fn attempt(parent: &Dir, name: &[u8], mode: Mode) -> SysResult<Attempt> {
        loop {
            let dir = match parent.child(name) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => return Ok(Attempt::Gone),
                Err(error) => return Err(error),
            };
            let Some(lock) = Lock::attempt(dir.into(), mode)? else {
                return Ok(Attempt::Busy);
            };
            if parent.names(name, &lock)? {
                return Ok(Attempt::Held(Self(lock)));
            }
        }
    }

    /// As [`attempt`](Self::attempt), again and again until it is had, gone or `deadline` is over.
    fn poll(
        parent: &Dir,
        name: &[u8],
        mode: Mode,
        deadline: Option<Instant>,
    ) -> SysResult<Attempt> {
        let mut pause = Duration::from_micros(200);
        loop {
            match Self::attempt(parent, name, mode)? {
                Attempt::Busy if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                other => return Ok(other),
            }
        }
    }

    /// The directory. Dropping `self` releases the lock, whatever handles were made of this.
    pub(super) fn dir(&self) -> &Dir {
        self.0.dir()
    }

    /// The directory of back links.
    pub(super) fn users(&self) -> SysResult<Dir> {
        self.dir().child(USERS)
    }
}

/// Waits for the exclusive lock of a directory that is always there.
pub(super) fn wait_exclusive(dir: &Dir) -> SysResult<Lock> {
    Lock::wait(dir.child(b".")?.into(), Mode::Exclusive)
}

/// Until when a removal that starts now waits for others.
pub(super) fn patience() -> Instant {
    Instant::now() + PATIENCE
}

impl Store {
    /// Holds `object` so that it does not go; `None` where there is no such object.
    pub(super) fn lease(&self, object: Object) -> Result<Option<Held>> {
        let name = object.name();
        match Held::poll(self.top(object.place()), name.as_bytes(), Mode::Shared, None) {
            Ok(Attempt::Held(held)) => Ok(Some(held)),
            Ok(_) => Ok(None),
            Err(error) => Err(error).during("lock directory", &self.at(&[object.place(), &name])),
        }
    }

    /// Holds `object` alone; waits for others until `deadline`, which [`patience`] gives.
    pub(super) fn claim(&self, object: Object, deadline: Instant) -> Result<Attempt> {
        let name = object.name();
        Held::poll(self.top(object.place()), name.as_bytes(), Mode::Exclusive, Some(deadline))
            .during("lock directory", &self.at(&[object.place(), &name]))
    }

    /// Adds to an object that is held a back link from `user`; returns the directory to be synced.
    pub(super) fn link_user(&self, held: &Held, object: Object, user: Object) -> Result<Dir> {
        self.link_user_by(held, object, user, touch)
    }

    /// As [`link_user`](Self::link_user), by one more name of the user's record: it takes no inode.
    pub(super) fn link_record(
        &self,
        held: &Held,
        object: Object,
        user: Object,
        (dir, record): (&Dir, &[u8]),
    ) -> Result<Dir> {
        self.link_user_by(held, object, user, |users, name| {
            match users.make_link(name, dir, record) {
                // Where the file system has no links, a file like any other.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => touch(users, name),
                linked => linked,
            }
        })
    }

    fn link_user_by(
        &self,
        held: &Held,
        object: Object,
        user: Object,
        make: impl FnOnce(&Dir, &[u8]) -> SysResult<()>,
    ) -> Result<Dir> {
        let link = || {
            let users = held.users()?;
            make(&users, user.tag().as_bytes())?;
            Ok::<_, Errno>(users)
        };
        let name = object.name();
        link().during("add a back link in", &self.at(&[object.place(), &name, "users"]))
    }
}

/// Creates an empty file, or leaves the one that is there.
pub(super) fn touch(dir: &Dir, name: &[u8]) -> SysResult<()> {
    use rustix::fs::OFlags;
    dir.open(name, OFlags::WRONLY | OFlags::CREATE, 0o600).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::RenameFlags;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[test]
    fn what_is_held_still_has_its_name() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        let (held, done) = (AtomicU32::new(0), AtomicBool::new(false));
        let end = Instant::now() + Duration::from_secs(10);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut removed = 0;
                // Both must have come to it many times for the two to have met at the wrong moment.
                while removed < 200 || (held.load(Ordering::Relaxed) < 200 && Instant::now() < end)
                {
                    dir.make_dir(b"object", 0o700).unwrap();
                    while !matches!(
                        Held::attempt(&dir, b"object", Mode::Exclusive).unwrap(),
                        Attempt::Held(_held)
                            if dir.rename(b"object", &dir, b"gone", RenameFlags::empty()).is_ok()
                    ) {}
                    dir.remove_dir(b"gone").unwrap();
                    removed += 1;
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                if let Attempt::Held(leased) = Held::attempt(&dir, b"object", Mode::Shared).unwrap()
                {
                    assert!(dir.names(b"object", leased.dir()).unwrap());
                    held.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert!(held.into_inner() > 0);
    }
}
