//! One 512-byte header of a tar: its fields, in the spellings of ustar, GNU, star and v7.
//!
//! Source: POSIX.1-2017 pax, "ustar Interchange Format"; tar(5) of libarchive and of GNU.

use crate::error::{Error, ErrorKind, Result};

/// The size of every block of a tar.
pub(super) const BLOCK: usize = 512;

/// Where a run of data begins in its file, and its length.
pub(super) type Run = (u64, u64);

/// A header whose checksum is right.
#[derive(Clone)]
pub(super) struct Header([u8; BLOCK]);

/// Which of the old formats a header is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    V7,
    Posix,
    Star,
    Gnu,
}

/// Where each field stands.
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const TYPE: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
    pub(super) const PREFIX: Range<usize> = 345..500;
    pub(super) const STAR_PREFIX: Range<usize> = 345..476;
    pub(super) const STAR_TRAILER: Range<usize> = 508..512;
    pub(super) const GNU_ATIME: Range<usize> = 345..357;
    pub(super) const GNU_CTIME: Range<usize> = 357..369;
    pub(super) const GNU_SPARSE: Range<usize> = 386..482;
    pub(super) const GNU_EXTENDED: usize = 482;
    pub(super) const GNU_REAL_SIZE: Range<usize> = 483..495;
}

impl Header {
    /// Takes a block; `None` where it is all zeros, which ends an archive.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] where the checksum is wrong.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Option<Self>> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Self(*block);
        let stored = header.number(field::CHECKSUM, "checksum")?;
        // Some old writers summed signed bytes.
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, &byte) in block.iter().enumerate() {
            let byte = if field::CHECKSUM.contains(&index) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored != unsigned && stored != signed {
            return Err(invalid("this is no tar header: its checksum is wrong".to_owned()));
        }
        Ok(Some(header))
    }

    fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn text(&self, range: std::ops::Range<usize>) -> &[u8] {
        let bytes = self.bytes(range);
        bytes.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    fn number(&self, range: std::ops::Range<usize>, what: &str) -> Result<i64> {
        number(self.bytes(range)).ok_or_else(|| invalid(format!("malformed {what} in a header")))
    }

    fn flavour(&self) -> Flavour {
        match self.bytes(field::MAGIC) {
            b"ustar  \0" => Flavour::Gnu,
            magic if !magic.starts_with(b"ustar\0") => Flavour::V7,
            _ if self.bytes(field::STAR_TRAILER) == b"tar\0" => Flavour::Star,
            _ => Flavour::Posix,
        }
    }

    /// The type flag.
    pub(super) fn kind(&self) -> u8 {
        self.0.get(field::TYPE).copied().unwrap_or_default()
    }

    /// The name, with its prefix where the format has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let prefix = match self.flavour() {
            Flavour::Posix => self.text(field::PREFIX),
            Flavour::Star => self.text(field::STAR_PREFIX),
            // GNU has times there. What is neither a time nor empty was put there by writers that
            // mixed up the two formats, Go's before 1.8 among them.
            Flavour::Gnu if !self.has_gnu_times() => {
                Some(self.text(field::PREFIX)).filter(|prefix| prefix.is_ascii()).unwrap_or(b"")
            }
            Flavour::V7 | Flavour::Gnu => b"",
        };
        let name = self.text(field::NAME);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn has_gnu_times(&self) -> bool {
        [field::GNU_ATIME, field::GNU_CTIME].iter().all(|range| {
            let bytes = self.bytes(range.clone());
            bytes.first() == Some(&0) || number(bytes).is_some()
        })
    }

    /// What a link points to.
    pub(super) fn link(&self) -> Vec<u8> {
        self.text(field::LINK).to_vec()
    }

    /// The permission bits; what else stands in the field is dropped, as all readers do.
    pub(super) fn mode(&self) -> Result<u32> {
        Ok(u32::try_from(self.number(field::MODE, "mode")? & 0o7777).unwrap_or_default())
    }

    /// The owning user's id, of any size.
    pub(super) fn uid(&self) -> Result<i64> {
        self.number(field::UID, "uid")
    }

    /// The owning group's id, of any size.
    pub(super) fn gid(&self) -> Result<i64> {
        self.number(field::GID, "gid")
    }

    /// The payload's length.
    pub(super) fn size(&self) -> Result<u64> {
        self.length(field::SIZE, "size")
    }

    fn length(&self, range: std::ops::Range<usize>, what: &str) -> Result<u64> {
        u64::try_from(self.number(range, what)?)
            .map_err(|_| invalid(format!("negative {what} in a header")))
    }

    /// The modification time in whole seconds.
    pub(super) fn mtime(&self) -> Result<i64> {
        self.number(field::MTIME, "mtime")
    }

    /// A device's numbers; 0 where the format has none.
    pub(super) fn device(&self) -> Result<(i64, i64)> {
        if self.flavour() == Flavour::V7 {
            return Ok((0, 0));
        }
        Ok((self.number(field::MAJOR, "device")?, self.number(field::MINOR, "device")?))
    }

    /// The runs of data of a GNU sparse header, whether more blocks of them follow, and the
    /// file's length.
    pub(super) fn gnu_sparse(&self) -> Result<(Vec<Run>, bool, u64)> {
        let runs = sparse_runs(self.bytes(field::GNU_SPARSE))?;
        let more = self.0.get(field::GNU_EXTENDED).is_some_and(|&flag| flag != 0);
        Ok((runs, more, self.length(field::GNU_REAL_SIZE, "sparse size")?))
    }
}

/// The runs in a block that extends a GNU sparse header, and whether another one follows.
pub(super) fn gnu_sparse_block(block: &[u8; BLOCK]) -> Result<(Vec<(u64, u64)>, bool)> {
    let (runs, rest) = block.split_at(504);
    Ok((sparse_runs(runs)?, rest.first().is_some_and(|&flag| flag != 0)))
}

fn sparse_runs(bytes: &[u8]) -> Result<Vec<(u64, u64)>> {
    let mut runs = Vec::new();
    for pair in bytes.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if offset.first() == Some(&0) {
            break;
        }
        let field = |bytes| number(bytes).and_then(|value| u64::try_from(value).ok());
        match (field(offset), field(length)) {
            (Some(offset), Some(length)) => runs.push((offset, length)),
            _ => return Err(invalid("malformed map of a sparse file".to_owned())),
        }
    }
    Ok(runs)
}

/// A number in octal text, or in base 256 where the first bit is set; empty is 0.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(&first) if first & 0x80 != 0 => base_256(first, field.get(1..)?),
        _ => octal(field),
    }
}

fn base_256(first: u8, rest: &[u8]) -> Option<i64> {
    // Two's complement, of which the first bit only tells that this is no text.
    let negative = first & 0x40 != 0;
    let start = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
    let mut value = start;
    for &byte in rest {
        value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_padding(byte)).unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(is_padding).unwrap_or(digits.len());
    let mut value = 0_i64;
    for &digit in digits.get(..end)? {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

/// An error in what was read.
pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o77777777777)),
            (b"777777777777", Some(0o777777777777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\0\xff\xff\xff\xfe", Some(4294967294)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000008\0", None),
            (b"-1      ", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    #[test]
    fn a_header_needs_its_checksum() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a/b").unwrap();
        header.set_mode(0o4755);
        header.set_size(7);
        header.set_cksum();
        let mut block: [u8; BLOCK] = *header.as_bytes();
        let parsed = Header::parse(&block).unwrap().unwrap();
        assert_eq!((parsed.name(), parsed.mode().unwrap()), (b"a/b".to_vec(), 0o4755));
        assert_eq!(parsed.size().unwrap(), 7);
        block[0] = b'x';
        assert!(Header::parse(&block).is_err());
        assert!(Header::parse(&[0; BLOCK]).unwrap().is_none());
    }
}
