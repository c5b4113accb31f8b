//! Small files that other threads fill, and give what their entries say, while the changeset is read
//! on.
//!
//! The thread that unpacks makes each file, so that names come into being in the changeset's order;
//! what is left to do concerns the file alone. It goes to [`Workers`] by the batch, or is done here
//! where all of them are busy, so that nobody waits while there is work.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufRead;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::attributes::{Given, Manner, Put};
use super::content::{Content, each_piece};
use super::entry::{Entry, called};
use super::reader::TarReader;
use crate::error::{Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::sys;
use crate::sys::parallel::{self, Job, Workers};
use crate::sys::xattr::Target;

/// The largest file that waits for another thread; it is copied once for that.
const SMALL: u64 = 64 << 10;

/// The most bytes of attributes of a file that waits.
const ATTRIBUTES: usize = 4 << 10;

/// How many files are handed over at once at most, each with a descriptor.
const FILES: usize = 16;

/// With fewer descriptors than this nothing waits, and none of them is taken from anybody.
const DESCRIPTORS: usize = 256;

/// As many bytes are handed over at once, or up to [`SMALL`] more.
const BYTES: usize = 192 << 10;

/// How many threads write files at most, for all changesets that share them.
const WORKERS: usize = 8;

/// Threads for so many in all, of which one unpacks; for 0 as many as there are processors.
pub(crate) fn workers(threads: usize) -> Workers {
    let descriptors = sys::most_descriptors();
    // An eighth of them may be those of files that wait.
    let most = match descriptors < DESCRIPTORS {
        true => 0,
        false => WORKERS.min(descriptors / 8 / (2 * files_at_once(descriptors))),
    };
    Workers::new(parallel::threads(threads).saturating_sub(1).min(most))
}

fn files_at_once(descriptors: usize) -> usize {
    (descriptors / 64).clamp(1, FILES)
}

/// Files on their way to other threads, and back.
pub(super) struct Writers<'a> {
    workers: &'a Workers,
    manner: Manner,
    batch: Batch,
    files_at_once: usize,
    /// What becomes of the batches that were handed over, in their order.
    away: VecDeque<Receiver<Vec<Written>>>,
}

/// What became of a file.
pub(super) type Written = (LayerPath, Result<Put>);

/// Files that are made and empty, and what is to be in them, one after the other.
#[derive(Default)]
struct Batch {
    files: Vec<Waiting>,
    bytes: Vec<u8>,
}

struct Waiting {
    file: File,
    path: LayerPath,
    entry: Entry,
    created_mode: u32,
}

impl<'a> Writers<'a> {
    pub(super) fn new(workers: &'a Workers, manner: Manner) -> Self {
        let files_at_once = files_at_once(sys::most_descriptors());
        Self { workers, manner, batch: Batch::default(), files_at_once, away: VecDeque::new() }
    }

    /// Whether a file may wait: one with little content and few attributes.
    pub(super) fn wants(&self, entry: &Entry) -> bool {
        let attributes = entry.inode.xattrs.iter().map(|(name, value)| name.len() + value.len());
        !self.workers.is_empty()
            && entry.payload <= SMALL
            && attributes.sum::<usize>() <= ATTRIBUTES
    }

    /// Takes a file that was just made, and reads its payload, which is its whole content. `true`
    /// where a batch went on its way, so that there may be something to [`collect`](Self::collect).
    pub(super) fn take<R: BufRead>(
        &mut self,
        file: File,
        path: LayerPath,
        (entry, created_mode): (Entry, u32),
        tar: &mut TarReader<R>,
    ) -> Result<bool> {
        let Batch { files, bytes } = &mut self.batch;
        each_piece(tar, entry.payload, &path, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        files.push(Waiting { file, path, entry, created_mode });
        let full = files.len() >= self.files_at_once || bytes.len() >= BYTES;
        if full {
            self.hand_over();
        }
        Ok(full)
    }

    /// Gives the files on hand to another thread, if one is free.
    fn hand_over(&mut self) {
        let (job, receiver) = self.job();
        if let Err(job) = self.workers.offer(job) {
            job();
        }
        self.away.push_back(receiver);
    }

    fn job(&mut self) -> (Job, Receiver<Vec<Written>>) {
        let (batch, manner) = (std::mem::take(&mut self.batch), self.manner);
        let (sender, receiver) = sync_channel(1);
        let job: Job = Box::new(move || {
            // Nobody waits for it where the changeset has failed meanwhile.
            let _ = sender.send(batch.write(manner));
        });
        (job, receiver)
    }

    /// What became of the files of the next batch, if that is known.
    pub(super) fn collect(&mut self) -> Option<Result<Vec<Written>>> {
        let done = self.away.front()?.try_recv();
        if matches!(done, Err(TryRecvError::Empty)) {
            return None;
        }
        self.away.pop_front();
        Some(done.map_err(|_| died()))
    }

    /// The same, of all files, once it is known.
    pub(super) fn settle(&mut self) -> Option<Result<Vec<Written>>> {
        if !self.batch.files.is_empty() {
            // Whoever waits for it does it himself; a small changeset starts no thread.
            let (job, receiver) = self.job();
            job();
            self.away.push_back(receiver);
        }
        self.away.pop_front().map(|batch| batch.recv().map_err(|_| died()))
    }
}

impl Drop for Writers<'_> {
    fn drop(&mut self) {
        // Nobody writes any more when a changeset has failed.
        self.away.drain(..).for_each(|batch| drop(batch.recv()));
    }
}

impl Batch {
    fn write(self, manner: Manner) -> Vec<Written> {
        let mut rest = self.bytes.as_slice();
        let one = |waiting: Waiting| {
            let length = usize::try_from(waiting.entry.payload).unwrap_or(usize::MAX);
            let (content, next) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = next;
            let name = || called(&waiting.entry.raw_path);
            let put = waiting.write(content, manner).map_err(|error| error.within(name()));
            (waiting.path, put)
        };
        self.files.into_iter().map(one).collect()
    }
}

impl Waiting {
    fn write(&self, bytes: &[u8], manner: Manner) -> Result<Put> {
        let mut content = Content::new(&self.file, &self.path);
        content.write(bytes, 0)?;
        let checksum = content.finish(bytes.len() as u64)?;
        let created_mode = Some(self.created_mode);
        let given = Given { created_mode, checksum, ..Given::of(&self.entry) };
        manner.put(Target::open(&self.file), &self.path, &given, false)
    }
}

fn died() -> Error {
    Error::new(ErrorKind::Io, "a thread that writes files died")
}
