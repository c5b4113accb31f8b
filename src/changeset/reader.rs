//! [`TarReader`]: a changeset's entries and payloads, one after the other, and every byte between.

use std::io::{self, BufRead};

use super::entry::{Body, Entry, GnuLong, called};
use super::header::{BLOCK, Header, gnu_sparse_block, invalid};
use super::limits::{self, ApplyLimits};
use super::pax::Records;
use crate::compression::Compression;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::inode::FileKind;

/// Reads a tar from a stream.
///
/// After [`next`](Self::next) gave an entry its payload is taken with [`payload`](Self::payload);
/// what is not taken is skipped. All bytes that are no payload are kept in between, so that the
/// very same tar can be written again. Payloads are handed out where the input has them.
pub(super) struct TarReader<R> {
    input: R,
    /// How many bytes the input's buffer holds, and how many of them were handed out.
    held: usize,
    taken: usize,
    /// Bytes of the current entry's payload that were not taken yet.
    remaining: u64,
    /// Zeros behind the payload, up to a whole block.
    padding: usize,
    globals: Records,
    limits: ApplyLimits,
    entries: u64,
    bytes: u64,
    /// Of the attributes of all entries.
    attribute_bytes: u64,
    /// The bytes since the last payload, unless nobody wants them.
    kept: Option<Vec<u8>>,
}

/// What stands before an entry and describes it.
#[derive(Default)]
struct Prelude {
    pax: Records,
    long: GnuLong,
    bytes: u64,
    seen: bool,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from `input`; `keep` says whether the bytes between payloads are wanted.
    pub(super) fn new(input: R, limits: ApplyLimits, keep: bool) -> Self {
        Self {
            input,
            held: 0,
            taken: 0,
            remaining: 0,
            padding: 0,
            globals: Records::default(),
            limits,
            entries: 0,
            bytes: 0,
            attribute_bytes: 0,
            kept: keep.then(Vec::new),
        }
    }

    /// The bytes since the last payload, or the last call, which are then forgotten.
    pub(super) fn take_kept(&mut self) -> Vec<u8> {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        self.finish_entry()?;
        let mut prelude = Prelude::default();
        loop {
            let Some(block) = self.block()? else {
                if prelude.seen {
                    return Err(truncated("behind an extended header"));
                }
                return Ok(None);
            };
            let parsed = Header::parse(&block).map_err(|error| match self.entries {
                0 => Compression::packed_otherwise("changeset", &block).unwrap_or(error),
                _ => error,
            });
            let Some(header) = parsed? else {
                if prelude.seen {
                    return Err(truncated("behind an extended header"));
                }
                return Ok(None);
            };
            self.entries += 1;
            limits::check(self.entries, self.limits.entries, "entries in a changeset")?;
            if self.extend(&header, &mut prelude)? {
                continue;
            }
            return self.entry(&header, prelude).map(Some);
        }
    }

    /// Takes a header that only says something of the next one; `false` where it is an entry.
    fn extend(&mut self, header: &Header, prelude: &mut Prelude) -> Result<bool> {
        match header.kind() {
            b'x' | b'X' => {
                let payload = self.extension(header, prelude)?;
                // Of several the last counts, as other readers of changesets have it.
                prelude.pax = Records::default();
                prelude.pax.read(&payload, self.limits.sparse_runs)?;
            }
            b'g' => {
                // Nothing has to follow a global header.
                let seen = prelude.seen;
                let payload = self.extension(header, prelude)?;
                prelude.seen = seen;
                self.globals.read(&payload, self.limits.sparse_runs)?;
                let limit = self.limits.header_bytes;
                limits::check(self.globals.bytes(), limit, "bytes of global headers")?;
            }
            b'L' => prelude.long.name = c_string(self.extension(header, prelude)?),
            b'K' => prelude.long.link = c_string(self.extension(header, prelude)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The payload of a header that describes another.
    fn extension(&mut self, header: &Header, prelude: &mut Prelude) -> Result<Vec<u8>> {
        prelude.seen = true;
        let size = header.size()?;
        prelude.bytes = prelude.bytes.saturating_add(size);
        let limit = self.limits.header_bytes;
        limits::check(prelude.bytes, limit, "bytes of extended headers")?;
        let mut payload = Vec::new();
        let mut left = size;
        while left > 0 {
            let piece = self.slice(left)?;
            left -= piece.len() as u64;
            payload.extend_from_slice(piece);
        }
        self.keep(&payload);
        self.skip_padding(padding_of(size))?;
        Ok(payload)
    }

    fn entry(&mut self, header: &Header, prelude: Prelude) -> Result<Entry> {
        let pax = prelude.pax.over(&self.globals);
        let mut entry = Entry::new(header, &pax, prelude.long)?;
        let target = match (&entry.body, &entry.inode.kind) {
            (Body::Link(target), _) | (_, FileKind::Symlink { target }) => target.len(),
            _ => 0,
        };
        let path = entry.raw_path.len().max(target);
        limits::check(path, self.limits.path_bytes, "bytes in a path")?;
        let attributes = entry.inode.xattrs.iter().map(|(name, value)| name.len() + value.len());
        self.attribute_bytes += attributes.sum::<usize>() as u64;
        let limit = self.limits.attribute_bytes;
        limits::check(self.attribute_bytes, limit, "bytes of attributes")?;
        self.remaining = entry.payload;
        self.padding = padding_of(entry.payload);
        if matches!((&entry.body, &entry.inode.kind), (Body::Inode, FileKind::Regular { .. })) {
            self.read_sparse(header, &pax, &mut entry)
                .map_err(|error| error.within(called(&entry.raw_path)))?;
        }
        if let FileKind::Regular { size } = entry.inode.kind {
            limits::check(size, self.limits.file_bytes, "bytes in a file")?;
        }
        Ok(entry)
    }

    /// Finds the map of a sparse file, in whichever of the four places it stands.
    fn read_sparse(&mut self, header: &Header, pax: &Records, entry: &mut Entry) -> Result<()> {
        if header.kind() == b'S' {
            let (mut runs, mut more, size) = header.gnu_sparse()?;
            while more {
                let block = self.block()?.ok_or_else(|| truncated("in a sparse map"))?;
                let (next, further) = gnu_sparse_block(&block)?;
                runs.extend(next);
                limits::check(runs.len(), self.limits.sparse_runs, "runs in a sparse file")?;
                more = further;
            }
            return entry.set_sparse(runs, size);
        }
        let Some(size) = pax.sparse_size()? else { return Ok(()) };
        if pax.sparse_map_in_payload() {
            let (runs, used) = self.map_in_payload()?;
            entry.payload -= used;
            return entry.set_sparse(runs, size);
        }
        match pax.sparse_map(self.limits.sparse_runs)? {
            Some(runs) => entry.set_sparse(runs, size),
            None if entry.payload == 0 => entry.set_sparse(Vec::new(), size),
            None => Ok(()),
        }
    }

    /// Reads decimal numbers, one a line, up to a whole block: how many runs, then each.
    fn map_in_payload(&mut self) -> Result<(Vec<(u64, u64)>, u64)> {
        let mut numbers = Vec::new();
        let mut digits = Vec::new();
        let mut used = 0;
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(invalid("the map of a sparse file is cut off".to_owned()));
            }
            let block = self.block()?.ok_or_else(|| truncated("in a sparse map"))?;
            self.remaining -= BLOCK as u64;
            used += BLOCK as u64;
            for &byte in &block {
                if byte != b'\n' {
                    // No number has more digits, whatever the payload holds.
                    if digits.len() == 20 {
                        return Err(invalid("malformed map of a sparse file".to_owned()));
                    }
                    digits.push(byte);
                    continue;
                }
                let text = std::str::from_utf8(&digits).ok();
                let number: u64 = text
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| invalid("malformed map of a sparse file".to_owned()))?;
                digits.clear();
                numbers.push(number);
                let runs = numbers.first().copied().unwrap_or_default();
                let limit = self.limits.sparse_runs as u64;
                limits::check(runs, limit, "runs in a sparse file")?;
                if numbers.len() as u64 == 1 + 2 * runs {
                    let pairs = numbers.get(1..).unwrap_or_default().chunks_exact(2);
                    let pair = |pair: &[u64]| match pair {
                        &[offset, length] => (offset, length),
                        _ => (0, 0),
                    };
                    return Ok((pairs.map(pair).collect(), used));
                }
            }
        }
    }

    /// The next piece of the current entry's payload, at most `limit` bytes; empty at its end.
    pub(super) fn payload(&mut self, limit: u64) -> Result<&[u8]> {
        let limit = limit.min(self.remaining);
        if limit == 0 {
            return Ok(&[]);
        }
        let count = self.fill_some(limit)?;
        self.remaining -= count as u64;
        self.hand_out(count)
    }

    /// Skips a piece of the current entry's payload; `false` at its end.
    pub(super) fn skip_some(&mut self) -> Result<bool> {
        let piece = self.payload(u64::MAX)?.to_vec();
        self.keep(&piece);
        Ok(!piece.is_empty())
    }

    /// Reads a piece of what stands behind the archive, which counts for the diff ID; `false` at
    /// the end of the stream.
    pub(super) fn drain_some(&mut self) -> Result<bool> {
        if self.at_end() && !self.refill()? {
            return Ok(false);
        }
        let piece = self.slice(u64::MAX)?.to_vec();
        self.keep(&piece);
        Ok(true)
    }

    /// Skips what is left of the current entry.
    fn finish_entry(&mut self) -> Result<()> {
        while self.skip_some()? {}
        let padding = std::mem::take(&mut self.padding);
        self.skip_padding(padding)
    }

    fn at_end(&self) -> bool {
        self.taken == self.held
    }

    /// One whole block; `None` at a clean end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            if self.at_end() && !self.refill()? {
                if filled == 0 {
                    return Ok(None);
                }
                let begin = block.get(..filled).filter(|_| self.entries == 0).unwrap_or_default();
                let error = Compression::packed_otherwise("changeset", begin);
                return Err(error.unwrap_or_else(|| truncated("inside a header")));
            }
            let piece = self.slice((BLOCK - filled) as u64)?;
            if let Some(to) = block.get_mut(filled..filled + piece.len()) {
                to.copy_from_slice(piece);
            }
            filled += piece.len();
        }
        self.keep(&block);
        Ok(Some(block))
    }

    fn skip_padding(&mut self, count: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            // Some writers leave out the last padding, or the end of it.
            if self.at_end() && !self.refill()? {
                return Ok(());
            }
            let piece = self.slice(left as u64)?.to_vec();
            left -= piece.len();
            self.keep(&piece);
        }
        Ok(())
    }

    /// At least one byte and at most `limit`, out of the buffer.
    fn slice(&mut self, limit: u64) -> Result<&[u8]> {
        let count = self.fill_some(limit)?;
        self.hand_out(count)
    }

    /// The next bytes of the input's buffer, of which there are as many.
    fn hand_out(&mut self, count: usize) -> Result<&[u8]> {
        let from = self.taken;
        self.taken += count;
        let buffer = self.input.fill_buf().during("read", "changeset")?;
        Ok(buffer.get(from..from + count).unwrap_or_default())
    }

    fn fill_some(&mut self, limit: u64) -> Result<usize> {
        if self.at_end() && !self.refill()? {
            return Err(truncated("inside a payload"));
        }
        let available = self.held - self.taken;
        Ok(usize::try_from(limit).map_or(available, |limit| available.min(limit)))
    }

    /// Reads on; `false` at the end of the stream.
    fn refill(&mut self) -> Result<bool> {
        self.input.consume(self.taken);
        (self.held, self.taken) = (0, 0);
        loop {
            match self.input.fill_buf().map(<[u8]>::len) {
                Ok(count) => {
                    self.held = count;
                    self.bytes += count as u64;
                    let limit = self.limits.bytes;
                    limits::check(self.bytes, limit, "bytes in a changeset")?;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted && !is_ours(&error) => {}
                Err(error) => return Err(error).during("read", "changeset"),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
    }
}

/// Whether an error is one of this crate's, on its way through a reader.
fn is_ours(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Error>())
}

fn padding_of(size: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - size % block) % block).unwrap_or(0)
}

/// A name up to its NUL; an empty one says nothing.
fn c_string(mut payload: Vec<u8>) -> Option<Vec<u8>> {
    if let Some(end) = payload.iter().position(|&byte| byte == 0) {
        payload.truncate(end);
    }
    Some(payload).filter(|name| !name.is_empty())
}

fn truncated(place: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the changeset is truncated: it ends {place}"))
        .hint("fetch or build the archive again")
}
