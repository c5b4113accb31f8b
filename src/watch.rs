//! [`Watch`]: how long work is observed, and how it is stopped.

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Sees how long work goes on; every method may be called from several threads.
///
/// Closures over [`Progress`] are observers.
pub trait Observer: Sync {
    /// Called when some work was done; often, so it should return at once.
    fn progress(&self, progress: &Progress<'_>);
}

impl<F: Fn(&Progress<'_>) + Sync> Observer for F {
    fn progress(&self, progress: &Progress<'_>) {
        self(progress);
    }
}

/// How far one piece of work is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is worked on: a layer's digest, an image's or container's name. Stays the same from
    /// the first report on it to the last.
    pub subject: &'a str,
    /// What is being done to it.
    pub phase: Phase,
    /// Bytes done in this phase.
    pub bytes: u64,
    /// Bytes that there will be, where that is known.
    pub total_bytes: Option<u64>,
    /// Files, directories or other entries done in this phase.
    pub entries: u64,
}

/// What long work is doing.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A changeset is read and unpacked; bytes count as they were read, compressed or not.
    Unpack,
    /// The subject was in the store already; nothing is done.
    Exists,
    /// A changeset is written.
    Pack,
    /// Files are compared.
    Compare,
    /// A layer is compared with what was put there.
    Check,
    /// A layer of an image that is loaded or saved is finished. Other calls have ended when they return.
    Done,
}

/// An observer and a cancel flag, both optional, as every long call takes them.
///
/// ```
/// # use std::sync::atomic::AtomicBool;
/// # use overlay2::{Progress, Watch};
/// let cancel = AtomicBool::new(false);
/// let observer = |progress: &Progress<'_>| eprintln!("{} {}", progress.subject, progress.bytes);
/// let watch = Watch::new().observer(&observer).cancel(&cancel);
/// # let _ = watch;
/// ```
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    observer: Option<&'a dyn Observer>,
    cancel: Option<&'a AtomicBool>,
}

impl<'a> Watch<'a> {
    /// Neither observes nor cancels.
    pub const fn new() -> Self {
        Self { observer: None, cancel: None }
    }

    /// Reports progress to `observer`.
    #[must_use]
    pub const fn observer(mut self, observer: &'a dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Stops the work soon after `flag` becomes true; the call then fails with
    /// [`ErrorKind::Cancelled`] and leaves nothing behind.
    #[must_use]
    pub const fn cancel(mut self, flag: &'a AtomicBool) -> Self {
        self.cancel = Some(flag);
        self
    }

    /// Fails where the work is to stop.
    pub(crate) fn check(&self) -> Result<()> {
        match self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Cancelled, "cancelled"))
            }
            _ => Ok(()),
        }
    }

    /// Reads from what a caller gave: until the work is to stop, and again where a read was interrupted.
    pub(crate) fn reading<R: Read>(self, reader: R) -> Watched<'a, R> {
        Watched { reader, watch: self }
    }

    /// Reports `progress`, and fails where the work is to stop.
    pub(crate) fn report(&self, progress: &Progress<'_>) -> Result<()> {
        if let Some(observer) = self.observer {
            observer.progress(progress);
        }
        self.check()
    }
}

/// A reader that is [watched](Watch::reading).
#[derive(Debug)]
pub(crate) struct Watched<'a, R> {
    reader: R,
    watch: Watch<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.watch.check()?;
            match self.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) if count > buffer.len() => {
                    let message = "the reader says that it read more than it was asked for";
                    return Err(Error::new(ErrorKind::InvalidInput, message).into());
                }
                other => return other,
            }
        }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("observed", &self.observer.is_some())
            .field("cancellable", &self.cancel.is_some())
            .finish()
    }
}
