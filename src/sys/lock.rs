//! Advisory locks that end with the descriptor that holds them, so with its process at the latest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FlockOperation;
use rustix::io::{Errno, retry_on_intr};

use super::dir::{Dir, SysResult};

/// Whether others may hold the same lock meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Others may hold it shared.
    Shared,
    /// Nobody else may hold it.
    Exclusive,
}

/// A lock that is held; dropping it releases it.
///
/// It is a `flock` on a file or directory: on an open file description, so that two threads of one
/// process exclude each other as two processes do, and it follows the inode through renames. It is
/// given back explicitly, since a child that was forked meanwhile may hold the description too.
#[derive(Debug)]
pub(crate) struct Lock(Dir);

impl Lock {
    /// Waits until the lock can be had. `file` must be a description of its own.
    pub(crate) fn wait(file: OwnedFd, mode: Mode) -> SysResult<Self> {
        let operation = match mode {
            Mode::Shared => FlockOperation::LockShared,
            Mode::Exclusive => FlockOperation::LockExclusive,
        };
        retry_on_intr(|| rustix::fs::flock(file.as_fd(), operation))?;
        Ok(Self(file.into()))
    }

    /// Takes the lock if nobody holds it in a way that excludes this; else `None`.
    pub(crate) fn attempt(file: OwnedFd, mode: Mode) -> SysResult<Option<Self>> {
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match retry_on_intr(|| rustix::fs::flock(file.as_fd(), operation)) {
            Ok(()) => Ok(Some(Self(file.into()))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory that is locked, where it is one.
    pub(crate) fn dir(&self) -> &Dir {
        &self.0
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Dir;

    #[test]
    fn shared_and_exclusive() {
        let temporary = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(Dir::open_ambient(temporary.path()).unwrap());
        let first = Lock::attempt(open(), Mode::Shared).unwrap().unwrap();
        let second = Lock::attempt(open(), Mode::Shared).unwrap().unwrap();
        assert!(Lock::attempt(open(), Mode::Exclusive).unwrap().is_none());
        let duplicate = second.dir().try_clone().unwrap();
        drop((first, second));
        let _only = Lock::attempt(open(), Mode::Exclusive).unwrap().unwrap();
        assert!(Lock::attempt(open(), Mode::Shared).unwrap().is_none());
        drop(duplicate);
    }
}
