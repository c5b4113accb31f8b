//! A pipe inside the process: one thread writes, another reads, and a bounded amount is in between.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::error::{Context, Error, ErrorKind, Result};

/// Bytes that are handed over at once.
pub(crate) const CHUNK: usize = 256 << 10;

/// How many chunks may wait; with the two in hand, the most memory that is used.
const WAITING: usize = 4;

/// Runs `write` on a thread of its own, and `read` on the caller's, with a pipe from one to the
/// other. `read` comes to the end where `write` returns, however it does.
///
/// # Errors
/// Those of `write`, unless that is only that nobody reads any more; then those of `read`.
pub(crate) fn between<W: Send, R>(
    write: impl FnOnce(&mut PipeWriter) -> Result<W> + Send,
    read: impl FnOnce(PipeReader) -> Result<R>,
) -> Result<(W, R)> {
    let (mut writer, reader) = pipe();
    let (written, read) = std::thread::scope(|scope| {
        let work = move || {
            let done = write(&mut writer)?;
            Write::flush(&mut writer).during("hand over", "bytes")?;
            Ok(done)
        };
        let started = std::thread::Builder::new().spawn_scoped(scope, work);
        let writing = started.during("start", "thread")?;
        let read = read(reader);
        let died = |_| Err(Error::new(ErrorKind::Io, "the thread that writes died"));
        Ok::<_, Error>((writing.join().unwrap_or_else(died), read))
    })?;
    match (written, read) {
        (Ok(written), read) => Ok((written, read?)),
        (Err(error), Ok(_)) => Err(error),
        // A writer whose reader went away knows no more than that.
        (Err(error), Err(other)) => {
            Err(if error.raw_os_error() == Some(libc::EPIPE) { other } else { error })
        }
    }
}

/// Runs `write` on a thread of its own; what it writes goes to `out` meanwhile.
///
/// # Errors
/// Those of `write` and of `out`.
pub(crate) fn ahead_of<W: Send>(
    out: &mut dyn Write,
    what: &str,
    write: impl FnOnce(&mut PipeWriter) -> Result<W> + Send,
) -> Result<W> {
    let copy = |mut reader: PipeReader| {
        while reader.fill() {
            out.write_all(&reader.chunk).during("write", what)?;
            reader.at = reader.chunk.len();
        }
        out.flush().during("write", what)
    };
    between(write, copy).map(|(written, ())| written)
}

fn pipe() -> (PipeWriter, PipeReader) {
    let (full_sender, full) = sync_channel(WAITING);
    let (empty_sender, empty) = channel();
    let writer = PipeWriter { full: full_sender, empty, chunk: Vec::new() };
    (writer, PipeReader { full, empty: empty_sender, chunk: Vec::new(), at: 0 })
}

/// What takes bytes by the buffer.
pub(crate) trait Sink {
    /// Takes all that is in `buffer`, and leaves it, or another one, empty in its place, with room
    /// for as much as is handed over at once.
    fn take(&mut self, buffer: &mut Vec<u8>) -> io::Result<()>;

    /// Hands on what it holds back.
    fn flush(&mut self) -> io::Result<()>;
}

/// A writer that takes bytes by the buffer.
pub(crate) struct Through<'a>(pub(crate) &'a mut dyn Write);

impl Sink for Through<'_> {
    fn take(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.0.write_all(buffer)?;
        buffer.clear();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The end that is written to; what is not flushed when it is dropped is lost.
pub(crate) struct PipeWriter {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK.saturating_sub(self.chunk.len()).min(bytes.len());
        self.chunk.extend_from_slice(bytes.get(..room).unwrap_or_default());
        if self.chunk.len() >= CHUNK {
            Write::flush(self)?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.chunk);
        let sent = self.send(&mut chunk);
        self.chunk = chunk;
        sent
    }
}

impl Sink for PipeWriter {
    fn take(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        Write::flush(self)?;
        self.send(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::flush(self)
    }
}

impl PipeWriter {
    /// Sends what is in `buffer`, and leaves one that was read before in its place.
    fn send(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let mut next = self.empty.try_recv().unwrap_or_default();
        next.clear();
        next.reserve(CHUNK);
        let full = std::mem::replace(buffer, next);
        self.full.send(full).map_err(|_| io::Error::from_raw_os_error(libc::EPIPE))
    }
}

/// The end that is read from.
pub(crate) struct PipeReader {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl PipeReader {
    /// Waits for bytes where it has none; `false` at the end.
    fn fill(&mut self) -> bool {
        while self.at >= self.chunk.len() {
            let Ok(chunk) = self.full.recv() else { return false };
            let used = std::mem::replace(&mut self.chunk, chunk);
            self.at = 0;
            // The writer may have come to its end and gone.
            let _ = self.empty.send(used);
        }
        true
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.fill() {
            return Ok(0);
        }
        let count = self.chunk.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(_: &mut PipeWriter) -> Result<()> {
        Err(Error::new(ErrorKind::Corrupt, "the writer's reason"))
    }

    #[test]
    fn all_bytes_arrive_in_order() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let write = |out: &mut PipeWriter| {
                bytes.chunks(77_777).try_for_each(|part| out.write_all(part)).during("write", "t")
            };
            let mut copied = Vec::new();
            ahead_of(&mut copied, "t", write).unwrap();
            assert!(copied == bytes, "{length}");
            let whole = |mut reader: PipeReader| {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).during("read", "t")?;
                Ok(read)
            };
            assert!(between(write, whole).unwrap().1 == bytes, "{length}");
            // The same with buffers given away, behind a byte that was written.
            let give = |out: &mut PipeWriter| -> Result<()> {
                out.write_all(b"x").during("write", "t")?;
                let mut buffer = bytes.clone();
                Sink::take(out, &mut buffer).during("write", "t")?;
                assert!(buffer.is_empty());
                Ok(())
            };
            let (_, read) = between(give, whole).unwrap();
            assert!(read.strip_prefix(b"x") == Some(&bytes), "{length}");
        }
    }

    #[test]
    fn the_reason_of_either_side_is_told() {
        let much = |out: &mut PipeWriter| {
            (0..100).try_for_each(|_| out.write_all(&[7; CHUNK])).during("write", "t")
        };
        let refuse = |_: PipeReader| -> Result<()> {
            Err(Error::new(ErrorKind::InvalidData, "the reader's reason"))
        };
        let told = |result: Result<((), ())>| result.unwrap_err().to_string();
        assert_eq!(told(between(much, refuse)), "the reader's reason");
        assert_eq!(told(between(failing, refuse)), "the writer's reason");
        assert_eq!(told(between(failing, |_| Ok(()))), "the writer's reason");
        // No room on the way out.
        let full = ahead_of(&mut [0; 3].as_mut_slice(), "archive", much).unwrap_err();
        assert!(full.to_string().starts_with("write archive: "), "{full}");
        assert!(ahead_of(&mut io::sink(), "t", failing).is_err());
    }
}
