//! [`TarReader`]: walks over an archive that holds blobs.
//!
//! A changeset is a tar too, but with far more to it; here an entry is a name, a kind and bytes.
//! What counts is that nothing is taken for whole that is not, and that nothing is held in memory
//! because a header says so.

use std::io::{self, Read};

use crate::compression::{Compression, is_tar_header};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;

/// The unit of a tar.
const BLOCK: u64 = 512;

/// The most bytes that a long name or the records of an extended header may take.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// Bytes that may be passed over without being read.
pub(super) trait Skip: Read {
    /// Passes over `count` bytes; an error where they end before that.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// A stream, whose bytes are read and dropped.
pub(super) struct Streamed<R>(pub(super) R);

impl<R: Read> Read for Streamed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Skip for Streamed<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match io::copy(&mut self.0.by_ref().take(count), &mut io::sink())? {
            skipped if skipped == count => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// One entry of an archive.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None` where it cannot be a name inside the archive (`..` above its root).
    pub(super) name: Option<LayerPath>,
    pub(super) kind: EntryKind,
    /// Bytes of content; 0 for all but files.
    pub(super) size: u64,
    /// Where the content begins in the archive.
    pub(super) offset: u64,
}

/// As much of an entry's type as matters where only blobs are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    /// A symlink, which is relative to the directory that it stands in.
    Symlink(Vec<u8>),
    /// A hard link, which is relative to the archive's root.
    HardLink(Vec<u8>),
    /// A directory, a device, a sparse file.
    Other,
}

/// Reads one entry after the other.
pub(super) struct TarReader<R> {
    reader: R,
    position: u64,
    /// Bytes of the current entry's content that were not read yet, and of its padding.
    content: u64,
    padding: u64,
}

/// What extended headers said about the entry behind them.
#[derive(Default)]
struct Extensions {
    seen: bool,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Skip> TarReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, position: 0, content: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive, which is two blocks of zeros, or one, or
    /// where the stream ends between two entries.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.finish_entry()?;
            let Some(header) = self.read_header(&extensions)? else {
                return Ok(None);
            };
            let size = match header.entry_type() {
                tar::EntryType::GNULongName
                | tar::EntryType::GNULongLink
                | tar::EntryType::XHeader
                | tar::EntryType::XGlobalHeader => header.entry_size(),
                _ => extensions.size.map_or_else(|| header.entry_size(), Ok),
            };
            let size = size.map_err(|error| self.malformed(&format!("its size: {error}")))?;
            self.expect_content(size)?;
            match header.entry_type() {
                tar::EntryType::GNULongName => extensions.name = Some(self.read_name()?),
                tar::EntryType::GNULongLink => extensions.link = Some(self.read_name()?),
                tar::EntryType::XHeader => self.read_records(&mut extensions)?,
                // Nothing that may stand in a global header says where content lies.
                tar::EntryType::XGlobalHeader => continue,
                _ => return Ok(Some(self.entry(&header, extensions))),
            }
            extensions.seen = true;
        }
    }

    /// Reads the current entry's content; ends where that ends.
    pub(super) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Passes over what is left of the stream, behind the end of the archive.
    pub(super) fn finish(mut self) -> Result<()> {
        io::copy(&mut self.reader, &mut io::sink()).map(drop).during("read", "end of the archive")
    }

    fn finish_entry(&mut self) -> Result<()> {
        let left = self.content + self.padding;
        self.reader.skip(left).map_err(|error| self.ended(error, "in the middle of an entry"))?;
        self.position += left;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    fn read_header(&mut self, extensions: &Extensions) -> Result<Option<tar::Header>> {
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).during("read", "archive"),
            }
        }
        let ended = filled == 0 || block.iter().all(|&byte| byte == 0);
        if ended && extensions.seen {
            return Err(self.malformed("an extended header has no entry behind it"));
        }
        if filled == 0 {
            return Ok(None);
        }
        let begin = block.get(..filled).filter(|_| self.position == 0).unwrap_or_default();
        let packed = Compression::packed_otherwise("archive", begin);
        if filled < block.len() {
            let error = io::ErrorKind::UnexpectedEof.into();
            return Err(packed.unwrap_or_else(|| self.ended(error, "in the middle of a header")));
        }
        if ended {
            return Ok(None);
        }
        if !is_tar_header(block) {
            return Err(packed.unwrap_or_else(|| {
                self.malformed("what should be a header has a wrong checksum")
                    .hint("the file is no tar archive, or it is damaged")
            }));
        }
        self.position += BLOCK;
        Ok(Some(header))
    }

    fn expect_content(&mut self, size: u64) -> Result<()> {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
        // What no file can hold would overflow the sums.
        if size > i64::MAX as u64 - self.position - BLOCK {
            return Err(self.malformed("an entry has an impossible size"));
        }
        Ok(())
    }

    fn entry(&mut self, header: &tar::Header, extensions: Extensions) -> Entry {
        let name = extensions.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        let kind = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => EntryKind::File,
            tar::EntryType::Symlink => EntryKind::Symlink(link),
            tar::EntryType::Link => EntryKind::HardLink(link),
            _ => EntryKind::Other,
        };
        // POSIX: a size there is none of content, but says how much to reserve, or nothing.
        let bare = matches!(header.as_bytes().get(156), Some(b'1'..=b'6'));
        if bare {
            (self.content, self.padding) = (0, 0);
        }
        Entry {
            name: LayerPath::parse(&name).ok(),
            size: if kind == EntryKind::File { self.content } else { 0 },
            kind,
            offset: self.position,
        }
    }

    fn read_extension(&mut self) -> Result<Vec<u8>> {
        if self.content > EXTENSION_LIMIT {
            let message = format!(
                "the archive has an extended header of {} bytes, at byte {}",
                self.content, self.position
            );
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes).during("read", "extended header")?;
        Ok(bytes)
    }

    /// A long name, which ends at its NUL.
    fn read_name(&mut self) -> Result<Vec<u8>> {
        let mut bytes = self.read_extension()?;
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    /// The records of a PAX header, `LENGTH KEY=VALUE\n`, read by their lengths.
    fn read_records(&mut self, extensions: &mut Extensions) -> Result<()> {
        let bytes = self.read_extension()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Some((key, value, behind)) = split_record(rest) else {
                return Err(self.malformed("an extended header is malformed"));
            };
            match key {
                b"path" => extensions.name = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    let size = size.ok_or_else(|| self.malformed("a PAX size is no number"))?;
                    extensions.size = Some(size);
                }
                _ => {}
            }
            rest = behind;
        }
        Ok(())
    }

    fn malformed(&self, what: &str) -> Error {
        let message = format!("malformed archive at byte {}: {what}", self.position);
        Error::new(ErrorKind::InvalidData, message)
    }

    fn ended(&self, error: io::Error, place: &str) -> Error {
        if error.kind() != io::ErrorKind::UnexpectedEof {
            return Err::<(), _>(error)
                .during("read", "archive")
                .err()
                .unwrap_or_else(|| Error::new(ErrorKind::Io, "read archive"));
        }
        let message = format!("the archive ends {place}, behind byte {}", self.position);
        Error::new(ErrorKind::InvalidData, message).hint("it was cut short: fetch it again")
    }
}

/// The content of one entry; that the archive ends inside it is an error.
pub(super) struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: Skip> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        let most = buffer.len().min(usize::try_from(reader.content).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = reader.reader.read(buffer)?;
        if count == 0 {
            let error = io::ErrorKind::UnexpectedEof.into();
            return Err(reader.ended(error, "in the middle of an entry").into());
        }
        reader.content -= count as u64;
        reader.position += count as u64;
        Ok(count)
    }
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, bytes.get(length..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(archive: &[u8]) -> Result<Vec<String>> {
        let mut reader = TarReader::new(Streamed(archive));
        let mut names = Vec::new();
        while let Some(entry) = reader.next()? {
            let name = entry.name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
            names.push(format!("{}={}", name.unwrap_or_default(), entry.size));
        }
        Ok(names)
    }

    fn entry(kind: u8, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_cksum();
        let padding = vec![0; content.len().wrapping_neg() % 512];
        [header.as_bytes(), content, &padding].concat()
    }

    fn record(key: &str, value: &str) -> String {
        let rest = format!(" {key}={value}\n");
        let length = |digits: usize| rest.len() + digits;
        let digits = length(2).to_string().len().max(2);
        format!("{}{rest}", length(digits))
    }

    #[test]
    fn extended_headers_name_the_entry_behind_them() {
        let long = "d/".repeat(200) + "file";
        let odd = "new\nline=x";
        let pax = |text: &str| entry(b'x', "pax", text.as_bytes());
        let long_name = entry(b'L', "@LongLink", format!("{long}\0").as_bytes());
        let archive = [
            entry(b'g', "global", record("path", "ignored").as_bytes()),
            pax(&(record("comment", odd) + &record("path", odd))),
            entry(b'0', "short", b"12345"),
            long_name,
            entry(b'0', "short", b""),
            entry(b'0', "../out", b"1"),
            entry(b'5', "dir/", b""),
            entry(b'7', "./contiguous", b"123"),
        ]
        .concat();
        let expected = [
            format!("{odd}=5"),
            format!("{long}=0"),
            "=1".into(),
            "dir=0".into(),
            "contiguous=3".into(),
        ];
        assert_eq!(names(&archive).unwrap(), expected);
    }

    #[test]
    fn what_has_no_content_is_followed_by_none_whatever_its_size_says() {
        for kind in b'1'..=b'6' {
            let mut bare = entry(kind, "bare", &[0; 4096]);
            bare.truncate(512);
            let archive = [bare, entry(b'0', "f", b"123")].concat();
            assert_eq!(names(&archive).unwrap(), ["bare=0", "f=3"]);
        }
    }

    #[test]
    fn a_size_that_ustar_cannot_hold_comes_from_pax() {
        let mut file = entry(b'0', "f", b"");
        file.extend([0; 1024]);
        let archive = [entry(b'x', "pax", record("size", "1000").as_bytes()), file].concat();
        assert_eq!(names(&archive).unwrap(), ["f=1000"]);
    }

    #[test]
    fn malformed_headers_are_errors() {
        let bad_records = ["5 a=b\n", "x a=b\n", "999 a=b\n", "0 a=b\n", "6 a=b", "5 ab\n", "\0"];
        for bad in bad_records {
            let archive = [entry(b'x', "p", bad.as_bytes()), entry(b'0', "f", b"")].concat();
            assert_eq!(names(&archive).unwrap_err().kind(), ErrorKind::InvalidData, "{bad:?}");
        }
        let dangling = entry(b'x', "p", record("path", "x").as_bytes());
        assert!(names(&dangling).is_err());
        assert!(names(&[&dangling[..], &[0; 1024]].concat()).is_err());
        let huge = entry(b'x', "p", &vec![b'x'; 2 << 20]);
        assert_eq!(names(&huge).unwrap_err().kind(), ErrorKind::LimitExceeded);
        for size in [u64::MAX, i64::MAX as u64] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_cksum();
            assert!(names(header.as_bytes()).is_err());
        }
        let mut spoilt = entry(b'0', "f", b"");
        spoilt[0] ^= 1;
        assert_eq!(names(&spoilt).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn content_ends_with_its_entry() {
        let archive = [entry(b'0', "a", b"first"), entry(b'0', "b", b"second")].concat();
        let mut reader = TarReader::new(Streamed(&archive[..]));
        let mut found = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let mut bytes = Vec::new();
            reader.content().read_to_end(&mut bytes).unwrap();
            assert_eq!(archive[entry.offset as usize..][..bytes.len()], bytes);
            found.push(bytes);
        }
        assert_eq!(found, [&b"first"[..], b"second"]);
        let mut reader = TarReader::new(Streamed(&archive[..514]));
        reader.next().unwrap();
        assert!(reader.content().read_to_end(&mut Vec::new()).is_err());
    }
}
