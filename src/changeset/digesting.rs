//! Digests taken beside the work: of buffers that others read at the same time, on threads of their
//! own.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hashing};
use crate::error::{Context, Error, ErrorKind, Result};

/// Bytes of one buffer.
pub(super) const CHUNK: usize = 512 << 10;

/// How many buffers may wait for one reader; with those in hand, the most memory that is used.
pub(super) const AHEAD: usize = 2;

/// Buffers that are filled, read by several threads, and filled again.
pub(super) struct Pool {
    home: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
}

/// A filled buffer; it goes back to its pool when the last who reads it lets go.
pub(super) struct Chunk {
    buffer: Vec<u8>,
    length: usize,
    home: Sender<Vec<u8>>,
}

impl Pool {
    pub(super) fn new() -> Self {
        let (home, returned) = channel();
        Self { home, returned }
    }

    /// A buffer that `fill` puts something into; it returns how many bytes.
    pub(super) fn fill<E>(&self, fill: impl FnOnce(&mut [u8]) -> (usize, E)) -> (Arc<Chunk>, E) {
        let mut buffer = self.returned.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        let (length, how) = fill(&mut buffer);
        (Arc::new(Chunk { buffer, length, home: self.home.clone() }), how)
    }
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // The pool may be gone.
        let _ = self.home.send(std::mem::take(&mut self.buffer));
    }
}

/// The digest of a sequence of buffers, taken on a thread of its own where there is more than one.
pub(super) struct Digesting(How);

enum How {
    /// At most one buffer so far.
    Waiting(Option<Arc<Chunk>>),
    /// No thread could be started.
    Here(Hashing<io::Sink>),
    Beside(SyncSender<Arc<Chunk>>, JoinHandle<(Digest, u64)>),
}

impl Digesting {
    pub(super) fn new() -> Self {
        Self(How::Waiting(None))
    }

    /// Takes what comes next; waits where too much of it was not looked at yet.
    pub(super) fn take(&mut self, chunk: &Arc<Chunk>) {
        if let How::Waiting(Some(_)) = &self.0 {
            let How::Waiting(first) = std::mem::replace(&mut self.0, How::start()) else { return };
            first.iter().for_each(|first| self.take(first));
        }
        match &mut self.0 {
            How::Waiting(first) => *first = Some(Arc::clone(chunk)),
            How::Here(hashing) => see(hashing, chunk),
            // It takes all until it is told that there is no more.
            How::Beside(sender, _) => drop(sender.send(Arc::clone(chunk))),
        }
    }

    /// The digest of all buffers, and how many bytes they held.
    ///
    /// # Errors
    /// Where the thread died.
    pub(super) fn finish(self) -> Result<(Digest, u64)> {
        let mut hashing = Hashing::new(io::sink());
        match self.0 {
            How::Waiting(first) => first.iter().for_each(|first| see(&mut hashing, first)),
            How::Here(here) => hashing = here,
            How::Beside(sender, thread) => {
                drop(sender);
                let died = |_| Error::new(ErrorKind::Io, "the thread that takes a digest died");
                return thread.join().map_err(died);
            }
        }
        let (digest, bytes, _) = hashing.finish();
        Ok((digest, bytes))
    }
}

impl How {
    fn start() -> Self {
        let (sender, receiver) = sync_channel::<Arc<Chunk>>(AHEAD);
        let work = move || {
            let mut hashing = Hashing::new(io::sink());
            receiver.iter().for_each(|chunk| see(&mut hashing, &chunk));
            let (digest, bytes, _) = hashing.finish();
            (digest, bytes)
        };
        match std::thread::Builder::new().spawn(work) {
            Ok(thread) => Self::Beside(sender, thread),
            Err(_) => Self::Here(Hashing::new(io::sink())),
        }
    }
}

fn see(hashing: &mut Hashing<io::Sink>, chunk: &Chunk) {
    // A sink takes everything.
    let _ = hashing.write_all(chunk.bytes());
}

/// A reader that takes the digest of all that passes, and counts it.
pub(super) struct Seen<'a, R> {
    input: R,
    pool: Pool,
    chunk: Option<Arc<Chunk>>,
    at: usize,
    digesting: Digesting,
    /// For whoever cannot reach the reader.
    count: &'a AtomicU64,
}

impl<'a, R: Read> Seen<'a, R> {
    pub(super) fn new(input: R, count: &'a AtomicU64) -> Self {
        let (pool, digesting) = (Pool::new(), Digesting::new());
        Self { input, pool, chunk: None, at: 0, digesting, count }
    }

    /// Reads what is left, and gives the digest and the length of it all.
    ///
    /// # Errors
    /// Those of the reader below.
    pub(super) fn finish(mut self) -> Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink()).during("read", "changeset")?;
        self.digesting.finish()
    }

    /// What was read and not handed out yet; empty at the end.
    fn rest(&mut self) -> io::Result<&[u8]> {
        if self.chunk.as_ref().is_none_or(|chunk| self.at == chunk.length) {
            self.chunk = None;
            let input = &mut self.input;
            let (chunk, read) = self.pool.fill(|buffer| match input.read(buffer) {
                Ok(count) => (count, Ok(())),
                Err(error) => (0, Err(error)),
            });
            read?;
            self.count.fetch_add(chunk.length as u64, Ordering::Relaxed);
            if chunk.length > 0 {
                self.digesting.take(&chunk);
            }
            self.at = 0;
            self.chunk = Some(chunk);
        }
        let chunk = self.chunk.as_ref().map(|chunk| chunk.bytes()).unwrap_or_default();
        Ok(chunk.get(self.at..).unwrap_or_default())
    }
}

impl<R: Read> Read for Seen<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.rest()?.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_bytes_however_they_come() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let count = AtomicU64::new(0);
            let mut seen = Seen::new(bytes.as_slice(), &count);
            let mut begin = Vec::new();
            seen.by_ref().take(300_000).read_to_end(&mut begin).unwrap();
            assert!(bytes.starts_with(&begin) && begin.len() == length.min(300_000));
            let (digest, read) = seen.finish().unwrap();
            assert_eq!((digest, read), (Digest::of(&bytes), length as u64));
            assert_eq!(count.into_inner(), read);
        }
    }

    #[test]
    fn buffers_are_used_again() {
        let pool = Pool::new();
        let place = |chunk: &Arc<Chunk>| chunk.buffer.as_ptr();
        let (first, ()) = pool.fill(|_| (1, ()));
        let (second, ()) = pool.fill(|_| (2, ()));
        let (other, known) = (Arc::clone(&first), place(&first));
        drop(first);
        assert_ne!(place(&pool.fill(|_| (0, ())).0), known, "it is still read");
        drop(other);
        // The one in between went back before.
        let _between = pool.fill(|_| (0, ())).0;
        assert_eq!(place(&pool.fill(|_| (3, ())).0), known);
        assert_eq!(second.bytes(), [0, 0]);
    }
}
