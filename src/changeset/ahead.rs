//! Reads and decompresses on one thread while another unpacks.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::error::{Error, ErrorKind, Result};

/// Bytes that are handed over at once.
const CHUNK: usize = 256 << 10;

/// How many chunks may be ahead of the work; with the two in hand, the most memory that is used.
const AHEAD: usize = 4;

/// Runs `work` on the bytes of `input`, which are read ahead of it.
///
/// `input` is read on the caller's thread, so it need not be `Send`, and `work` runs on another;
/// but where all of it fits one chunk, everything happens here. `input` is read to its end unless
/// `work` fails or returns early.
pub(super) fn read_ahead<T: Send>(
    input: &mut dyn Read,
    work: impl FnOnce(&mut dyn Read) -> Result<T> + Send,
) -> Result<T> {
    let mut first = vec![0; CHUNK];
    let (length, ended) = fill(input, &mut first);
    first.truncate(length);
    match ended {
        Some(Ok(())) => return work(&mut first.as_slice()),
        Some(Err(error)) => return work(&mut first.as_slice().chain(Failing(Some(error)))),
        None => {}
    }
    let (full_sender, full) = sync_channel(AHEAD);
    let (empty_sender, empty) = channel();
    std::thread::scope(|scope| {
        let mut reader = ChunkReader { full, empty: empty_sender, chunk: first, at: 0 };
        let worker = scope.spawn(move || work(&mut reader));
        pump(input, &full_sender, &empty);
        drop(full_sender);
        worker.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Io, "the thread that unpacks a changeset died"))
        })
    })
}

type Chunk = io::Result<Vec<u8>>;

/// Sends what is read until the end, an error, or until nobody takes it any more.
fn pump(input: &mut dyn Read, full: &SyncSender<Chunk>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let (length, ended) = fill(input, &mut chunk);
        chunk.truncate(length);
        if length > 0 && full.send(Ok(chunk)).is_err() {
            return;
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
struct ChunkReader {
    full: Receiver<Chunk>,
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.full.recv() {
                Ok(Ok(chunk)) => {
                    let used = std::mem::replace(&mut self.chunk, chunk);
                    self.at = 0;
                    // The reader may have come to its end and gone.
                    let _ = self.empty.send(used);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(0),
            }
        }
        let mut rest = self.chunk.get(self.at..).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

/// An error in the place of more bytes.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Context;

    fn whole(input: &mut dyn Read) -> Result<Vec<u8>> {
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
            assert!(whole(&mut bytes.as_slice()).unwrap() == bytes, "{length}");
        }
    }

    #[test]
    fn an_error_of_either_side_ends_both() {
        for length in [10, 9 * CHUNK] {
            let bytes = vec![7; length];
            let mut broken =
                bytes.as_slice().chain(Failing(Some(io::Error::from(io::ErrorKind::BrokenPipe))));
            assert!(whole(&mut broken).is_err());
            let refused: Result<()> = read_ahead(&mut bytes.as_slice(), |_| {
                Err(Error::new(ErrorKind::Cancelled, "enough"))
            });
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Cancelled);
        }
    }
}
