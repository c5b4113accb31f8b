//! Streams of records beside a layer directory: bytes, numbers and paths, compressed.
//!
//! The first byte tells how the rest is compressed. `changeset` and `entries` are such streams;
//! their records are described in ARCHITECTURE.md.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use rustix::fs::OFlags;

use crate::compression::Uninterrupted;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::sys::Dir;

/// The most bytes of a path; what the tar itself may hold is less unless its limits were raised.
const LONGEST_PATH: u64 = 64 << 20;

const PLAIN: u8 = 0;
#[cfg(feature = "zstd")]
const ZSTD: u8 = 1;

/// A stream that is written.
#[derive(Debug)]
pub(super) struct RecordWriter {
    name: &'static str,
    out: Encoder,
}

/// The compression of a stream.
enum Encoder {
    #[cfg(not(feature = "zstd"))]
    Plain(io::BufWriter<File>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::stream::write::Encoder<'static, File>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    fn new(mut file: File) -> io::Result<Self> {
        #[cfg(feature = "zstd")]
        {
            file.write_all(&[ZSTD])?;
            // A layer of one file has such streams too: at higher levels, most of its time would go
            // to the tables that the encoder clears. The streams are a thirtieth larger.
            let mut encoder = zstd::stream::write::Encoder::new(file, 1)?;
            // So that a flipped bit in it is told from one in a file that it names.
            encoder.include_checksum(true)?;
            Ok(Self::Zstd(encoder))
        }
        #[cfg(not(feature = "zstd"))]
        {
            file.write_all(&[PLAIN])?;
            Ok(Self::Plain(io::BufWriter::new(file)))
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            #[cfg(not(feature = "zstd"))]
            Self::Plain(out) => out.write_all(bytes),
            #[cfg(feature = "zstd")]
            Self::Zstd(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            #[cfg(not(feature = "zstd"))]
            Self::Plain(mut out) => out.flush(),
            #[cfg(feature = "zstd")]
            Self::Zstd(out) => out.finish().map(drop),
        }
    }
}

impl RecordWriter {
    /// Starts the stream `name` in `side`, the directory that holds the layer directory.
    pub(super) fn create(side: &Dir, name: &'static str) -> Result<Self> {
        let out = side
            .open(name.as_bytes(), OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600)
            .map_err(io::Error::from)
            .and_then(Encoder::new)
            .during("create", name)?;
        Ok(Self { name, out })
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).during("write", self.name)
    }

    /// Writes what is left.
    pub(super) fn finish(self) -> Result<()> {
        self.out.finish().during("write", self.name)
    }
}

/// Appends a number: seven bits to a byte, lowest first, the eighth set on all but the last.
pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes().first().copied().unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes().first().copied().unwrap_or_default());
}

/// Appends a length and that many bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A stream that is read.
pub(super) struct RecordReader {
    name: &'static str,
    pub(super) input: Box<dyn Read>,
    sum: crc32fast::Hasher,
}

impl RecordReader {
    pub(super) fn open(side: &Dir, name: &'static str) -> Result<Self> {
        let file = side
            .open(name.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK, 0)
            .during("open", name)?;
        let mut input = BufReader::new(Uninterrupted(file));
        let mut how = [0];
        input.read_exact(&mut how).during("read", name)?;
        let input: Box<dyn Read> = match how {
            [PLAIN] => Box::new(input),
            #[cfg(feature = "zstd")]
            [ZSTD] => Box::new(BufReader::new(
                zstd::stream::read::Decoder::with_buffer(input).during("read", name)?,
            )),
            [other] => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the layer's {name} is kept in form {other}, unknown to this build"),
                )
                .hint("build the crate with feature zstd, or use a newer version"));
            }
        };
        Ok(Self { name, input, sum: crc32fast::Hasher::new() })
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.fill(&mut byte)?;
        let [byte] = byte;
        Ok(byte)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).during("read", self.name)?;
        self.sum.update(bytes);
        Ok(())
    }

    /// The CRC-32 of the records read so far.
    pub(super) fn sum(&self) -> u32 {
        self.sum.clone().finalize()
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.corrupt("a number of more than 64 bits"))
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>> {
        let length = self.number()?;
        if length > LONGEST_PATH {
            return Err(self.corrupt(&format!("a string of {length} bytes")));
        }
        let mut bytes = Vec::new();
        let read =
            (&mut self.input).take(length).read_to_end(&mut bytes).during("read", self.name)?;
        if read as u64 != length {
            return Err(self.corrupt("a string that is cut off"));
        }
        self.sum.update(&bytes);
        Ok(bytes)
    }

    pub(super) fn path(&mut self) -> Result<LayerPath> {
        LayerPath::parse(&self.bytes()?).map_err(|error| self.corrupt(&error.to_string()))
    }

    /// Nothing stands behind the last record, and the compressed stream ends as it should.
    pub(super) fn end(&mut self) -> Result<()> {
        let mut more = [0];
        match self.input.read(&mut more).during("read", self.name)? {
            0 => Ok(()),
            _ => Err(self.corrupt("more behind its end")),
        }
    }

    pub(super) fn corrupt(&self, what: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("the layer's {} holds {what}", self.name))
            .hint("give the layer's changeset again: overlay2 repair --from FILE")
    }
}
