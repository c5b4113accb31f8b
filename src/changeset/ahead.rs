//! Reads and decompresses on one thread while another unpacks, and takes the digest on a third.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::digesting::{AHEAD, Chunk, Digesting, Pool};
use crate::digest::Digest;
use crate::error::{Context, Error, ErrorKind, Result};

/// Runs `work` on the bytes of `input`, which are read ahead of it; gives also their digest and
/// number.
///
/// `input` is read on the caller's thread, so it need not be `Send`, and `work` runs on another;
/// but where all of it fits one buffer, everything happens here. Nobody copies a buffer: `work` and
/// the digest see the one that was read into. `input` is read to its end unless `work` fails or
/// returns early, in which case the digest is that of what was read.
pub(super) fn read_ahead<T: Send>(
    input: &mut dyn Read,
    work: impl FnOnce(&mut dyn BufRead) -> Result<T> + Send,
) -> Result<(T, Digest, u64)> {
    let (pool, mut digesting) = (Pool::new(), Digesting::new());
    let (first, ended) = pool.fill(|buffer| fill(input, buffer));
    digesting.take(&first);
    let (full, waiting) = sync_channel(AHEAD);
    let mut reader = Reader { waiting, chunk: first, at: 0 };
    let done = match ended {
        Some(ended) => {
            // There is room for one.
            ended.err().map(|error| full.send(Err(error)));
            drop(full);
            work(&mut reader)?
        }
        None => std::thread::scope(|scope| {
            let work = move || work(&mut reader);
            let worker = std::thread::Builder::new().spawn_scoped(scope, work);
            let worker = worker.during("start", "thread")?;
            pump(input, &pool, &mut digesting, &full);
            drop(full);
            worker.join().unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Io, "the thread that unpacks a changeset died"))
            })
        })?,
    };
    let (digest, bytes) = digesting.finish()?;
    Ok((done, digest, bytes))
}

/// What is handed to the worker; an error in the place of more bytes.
type Handed = io::Result<Arc<Chunk>>;

/// Sends what is read until the end, an error, or until nobody takes it any more.
fn pump(input: &mut dyn Read, pool: &Pool, digesting: &mut Digesting, full: &SyncSender<Handed>) {
    loop {
        let (chunk, ended) = pool.fill(|buffer| fill(input, buffer));
        if !chunk.bytes().is_empty() {
            digesting.take(&chunk);
            if full.send(Ok(chunk)).is_err() {
                return;
            }
        }
        match ended {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => {
                // Nobody is left to tell where this fails.
                let _ = full.send(Err(error));
                return;
            }
        }
    }
}

/// Fills the buffer; the second value tells whether, and how, the input ended.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> (usize, Option<io::Result<()>>) {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => return (length, Some(Ok(()))),
            Ok(count) => length += count,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return (length, Some(Err(error))),
        }
    }
    (length, None)
}

/// The worker's end.
struct Reader {
    waiting: Receiver<Handed>,
    chunk: Arc<Chunk>,
    at: usize,
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.bytes().len()
            && let Ok(next) = self.waiting.recv()
        {
            self.chunk = next?;
            self.at = 0;
        }
        Ok(self.chunk.bytes().get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.chunk.bytes().len());
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::digesting::CHUNK;
    use super::*;

    fn whole(input: &mut dyn Read) -> Result<(Vec<u8>, Digest, u64)> {
        read_ahead(input, |reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).during("read", "test")?;
            Ok(bytes)
        })
    }

    #[test]
    fn all_bytes_arrive_in_order() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let (read, digest, count) = whole(&mut bytes.as_slice()).unwrap();
            assert!(read == bytes, "{length}");
            assert_eq!((digest, count), (Digest::of(&bytes), length as u64));
        }
    }

    #[test]
    fn an_error_of_either_side_ends_both() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        }
        for length in [10, CHUNK, 9 * CHUNK] {
            let bytes = vec![7; length];
            assert!(whole(&mut bytes.as_slice().chain(Failing)).is_err());
            let refused: Result<((), _, _)> = read_ahead(&mut bytes.as_slice(), |_| {
                Err(Error::new(ErrorKind::Cancelled, "enough"))
            });
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Cancelled);
        }
    }
}
