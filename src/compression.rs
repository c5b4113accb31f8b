//! [`Compression`]: told by the first bytes, never by a name or a media type.
//!
//! A stream is read to its very end: every gzip member and every zstd frame, so that a digest taken
//! of what is below covers all of it, and so that nothing hides behind the first member.

use std::fmt;
use std::io::{self, Chain, Cursor, Read, Write};

#[cfg(feature = "zstd")]
use crate::error::Context;
use crate::error::{Error, ErrorKind, Result};

/// How bytes are compressed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, RFC 1952; needs the feature `gzip`.
    Gzip,
    /// Zstandard, RFC 8878; needs the feature `zstd`.
    Zstd,
}

/// Bytes of a tar header. So many first bytes tell the compression: a tar is none, whatever the name is
/// that it begins with.
pub(crate) const BLOCK: usize = 512;

/// What was read to tell the compression, followed by the rest.
pub(crate) type Sniffed<R> = Chain<Cursor<Vec<u8>>, R>;

impl Compression {
    /// Tells the compression from the first bytes of a stream. Four are enough, but of a tar whose first
    /// name begins as compressed data does: of that the first 512 tell that it is none.
    pub fn detect(prefix: &[u8]) -> Self {
        match prefix {
            _ if prefix.first_chunk().is_some_and(is_tar_header) => Self::None,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, which may stand in front (RFC 8878, section 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Reads as much of `reader` as tells the compression, and gives back the whole.
    pub(crate) fn sniff<R: Read>(mut reader: R) -> io::Result<(Self, Sniffed<R>)> {
        let mut prefix = Vec::with_capacity(BLOCK);
        reader.by_ref().take(BLOCK as u64).read_to_end(&mut prefix)?;
        Ok((Self::detect(&prefix), Cursor::new(prefix).chain(reader)))
    }

    /// What to say of `what` that is to be a tar but known to be something else, by what it begins with.
    pub(crate) fn packed_otherwise(what: &str, begin: &[u8]) -> Option<Error> {
        const KNOWN: [(&[u8], &str); 4] = [
            (b"\xfd7zXZ\0", "xz"),
            (b"BZh", "bzip2"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"LZIP", "lzip"),
        ];
        let message = match Self::detect(begin) {
            Self::None => {
                let (_, how) = KNOWN.iter().find(|(magic, _)| begin.starts_with(magic))?;
                format!("the {what} is compressed with {how}")
            }
            again => format!("the {what} is compressed with {again}, a second time"),
        };
        Some(
            Error::new(ErrorKind::Unsupported, message).hint(
                "it has to be a tar, plain or compressed with gzip or zstd: decompress it first",
            ),
        )
    }

    /// A reader of the uncompressed bytes of `reader`.
    ///
    /// It reads to the end of `reader`. Zeros behind the last gzip member are passed over, as
    /// gzip itself does; anything else there, and a stream that ends early, is an error.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where this build lacks the feature; as the system's where the
    /// decoder cannot be made.
    pub fn decoder<R: Read>(self, reader: R) -> Result<Decoder<R>> {
        Ok(Decoder(match self {
            Self::None => Decoding::Plain(reader),
            #[cfg(feature = "gzip")]
            Self::Gzip => Decoding::Gzip(Box::new(gzip::Members::new(Below(reader)))),
            #[cfg(feature = "zstd")]
            Self::Zstd => Decoding::Zstd(
                zstd::stream::read::Decoder::new(Below(reader)).during("start", "zstd decoder")?,
            ),
            #[cfg(not(all(feature = "gzip", feature = "zstd")))]
            other => return Err(other.missing()),
        }))
    }

    /// A writer that compresses into `writer`; the same input gives the same bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where this build lacks the feature.
    pub fn encoder<W: Write>(self, writer: W) -> Result<Encoder<W>> {
        Ok(Encoder(match self {
            Self::None => Encoding::Plain(writer),
            #[cfg(feature = "gzip")]
            Self::Gzip => Encoding::Gzip(Box::new(flate2::write::GzEncoder::new(
                writer,
                flate2::Compression::default(),
            ))),
            #[cfg(feature = "zstd")]
            Self::Zstd => Encoding::Zstd(
                zstd::stream::write::Encoder::new(writer, 0).during("start", "zstd encoder")?,
            ),
            #[cfg(not(all(feature = "gzip", feature = "zstd")))]
            other => return Err(other.missing()),
        }))
    }

    #[cfg(not(all(feature = "gzip", feature = "zstd")))]
    fn missing(self) -> Error {
        Error::new(ErrorKind::Unsupported, format!("this build cannot read or write {self}"))
            .hint(format!("build the crate with its feature `{self}`"))
    }
}

/// Whether a block is the header of a tar entry, by its checksum.
pub(crate) fn is_tar_header(block: &[u8; BLOCK]) -> bool {
    let header = tar::Header::from_byte_slice(block);
    let Ok(stated) = header.cksum() else {
        return false;
    };
    // The checksum's own eight bytes count as spaces.
    let sum = |value: fn(u8) -> i64| -> i64 {
        let bytes = block.iter().enumerate();
        bytes.map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { value(byte) }).sum()
    };
    // Some old archivers summed signed bytes.
    let stated = i64::from(stated);
    stated == sum(i64::from) || stated == sum(|byte| i64::from(byte.cast_signed()))
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl std::str::FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            other => {
                Err(Error::new(ErrorKind::InvalidInput, format!("{other:?} is no compression"))
                    .hint("one of none, gzip, zstd"))
            }
        }
    }
}

/// Reads what [`Compression::decoder`] decompresses.
pub struct Decoder<R: Read>(Decoding<R>);

enum Decoding<R: Read> {
    Plain(R),
    #[cfg(feature = "gzip")]
    Gzip(Box<gzip::Members<Below<R>>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::stream::read::Decoder<'static, io::BufReader<Below<R>>>),
}

/// A reader that is asked again where a signal came between: a decoder above it may not be able to
/// go on after an error.
pub(crate) struct Uninterrupted<R>(pub(crate) R);

impl<R: Read> Read for Uninterrupted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// What is below a decoder; marks its errors, so that they are told from the decoder's own.
#[cfg(any(feature = "gzip", feature = "zstd"))]
struct Below<R>(R);

#[cfg(any(feature = "gzip", feature = "zstd"))]
impl<R: Read> Read for Below<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = Uninterrupted(&mut self.0).read(buffer);
        read.map_err(|error| io::Error::new(error.kind(), FromBelow(error)))
    }
}

/// An error of what is below a decoder, on its way through it.
#[derive(Debug)]
#[cfg(any(feature = "gzip", feature = "zstd"))]
struct FromBelow(io::Error);

#[cfg(any(feature = "gzip", feature = "zstd"))]
impl fmt::Display for FromBelow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(any(feature = "gzip", feature = "zstd"))]
impl std::error::Error for FromBelow {}

/// An error as what is below had it, or one of the decoder, which means that the data is damaged.
#[cfg(any(feature = "gzip", feature = "zstd"))]
fn told_apart(error: io::Error) -> io::Error {
    match error.downcast::<FromBelow>() {
        Ok(FromBelow(error)) => error,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => error,
        Err(error) => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Decoding::Plain(reader) => reader.read(buffer),
            #[cfg(feature = "gzip")]
            Decoding::Gzip(members) => members.read(buffer).map_err(told_apart),
            #[cfg(feature = "zstd")]
            Decoding::Zstd(frames) => frames.read(buffer).map_err(told_apart),
        }
    }
}

impl<R: Read> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// Writes what [`Compression::encoder`] compresses; [`finish`](Self::finish) completes it.
pub struct Encoder<W: Write>(Encoding<W>);

enum Encoding<W: Write> {
    Plain(W),
    #[cfg(feature = "gzip")]
    Gzip(Box<flate2::write::GzEncoder<W>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Writes what is still held back, and gives back the writer below.
    ///
    /// # Errors
    /// What the writer below fails with.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Encoding::Plain(writer) => Ok(writer),
            #[cfg(feature = "gzip")]
            Encoding::Gzip(encoder) => encoder.finish(),
            #[cfg(feature = "zstd")]
            Encoding::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Encoding::Plain(writer) => writer.write(buffer),
            #[cfg(feature = "gzip")]
            Encoding::Gzip(encoder) => encoder.write(buffer),
            #[cfg(feature = "zstd")]
            Encoding::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Encoding::Plain(writer) => writer.flush(),
            #[cfg(feature = "gzip")]
            Encoding::Gzip(encoder) => encoder.flush(),
            #[cfg(feature = "zstd")]
            Encoding::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(feature = "gzip")]
mod gzip {
    use std::io::{self, BufRead, BufReader, Read};

    use flate2::bufread::GzDecoder;

    /// All members of a gzip stream, one after the other.
    pub(super) struct Members<R> {
        member: Option<GzDecoder<BufReader<R>>>,
    }

    impl<R: Read> Members<R> {
        pub(super) fn new(reader: R) -> Self {
            let reader = BufReader::with_capacity(64 << 10, reader);
            Self { member: Some(GzDecoder::new(reader)) }
        }
    }

    impl<R: Read> Read for Members<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if buffer.is_empty() {
                return Ok(0);
            }
            while let Some(member) = &mut self.member {
                let count = member.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                let ended = self.member.take().map(GzDecoder::into_inner);
                self.member = match ended {
                    Some(reader) => next_member(reader)?,
                    None => None,
                };
            }
            Ok(0)
        }
    }

    /// What stands behind a member: one more, zeros to the end, or the end.
    fn next_member<R: Read>(
        mut reader: BufReader<R>,
    ) -> io::Result<Option<GzDecoder<BufReader<R>>>> {
        let garbage = || io::Error::new(io::ErrorKind::InvalidData, "garbage behind a gzip member");
        match reader.fill_buf()? {
            [] => return Ok(None),
            [0x1f, ..] => return Ok(Some(GzDecoder::new(reader))),
            _ => {}
        }
        loop {
            let padding = reader.fill_buf()?;
            if padding.iter().any(|&byte| byte != 0) {
                return Err(garbage());
            }
            if padding.is_empty() {
                return Ok(None);
            }
            let count = padding.len();
            reader.consume(count);
        }
    }
}

#[cfg(test)]
#[cfg(all(feature = "gzip", feature = "zstd"))]
mod tests {
    use super::*;

    const BOTH: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

    fn pack(how: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = how.encoder(Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (how, reader) = Compression::sniff(bytes)?;
        let mut plain = Vec::new();
        how.decoder(reader)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn what_was_packed_is_found_by_its_first_bytes() {
        let text = b"overlay ".repeat(10_000);
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let packed = pack(how, &text);
            assert_eq!(Compression::detect(&packed), how);
            assert_eq!(packed, pack(how, &text), "the same bytes each time");
            assert_eq!(unpack(&packed).unwrap(), text);
            assert_eq!(how.to_string().parse::<Compression>().unwrap(), how);
        }
        for short in [&b""[..], b"a", b"\x1f", b"\x28\xb5\x2f"] {
            assert_eq!(unpack(short).unwrap(), short);
        }
    }

    #[test]
    fn a_tar_is_none_whatever_its_first_name_is() {
        for name in [&b"\x1f\x8bx"[..], b"(\xb5/\xfd", b"P*M\x18", b"_*M\x18/f"] {
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_cksum();
            let tar = [&header.as_bytes()[..], &[0; 1024]].concat();
            assert_ne!(Compression::detect(name), Compression::None);
            assert_eq!(Compression::detect(&tar), Compression::None);
            assert_eq!(unpack(&tar).unwrap(), tar);
            for how in BOTH {
                assert_eq!(unpack(&pack(how, &tar)).unwrap(), tar);
            }
        }
    }

    #[test]
    fn every_member_and_frame_is_read() {
        for how in BOTH {
            let joined = [pack(how, b"one "), pack(how, b""), pack(how, b"two")].concat();
            assert_eq!(unpack(&joined).unwrap(), b"one two", "{how}");
        }
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let frame = pack(Compression::Zstd, b"data");
        for order in [[&skippable, &frame], [&frame, &skippable]] {
            let joined = [&order[0][..], &order[1][..]].concat();
            assert_eq!(unpack(&joined).unwrap(), b"data");
        }
    }

    #[test]
    fn padding_is_passed_over_and_garbage_is_not() {
        let zeros = vec![0; 200_000];
        let gzip = pack(Compression::Gzip, b"data");
        assert_eq!(unpack(&[&gzip[..], &zeros].concat()).unwrap(), b"data");
        for garbage in [&b"x"[..], b"\x1f", b"\x1f\x8bnonsense", b"\0\0x"] {
            for how in BOTH {
                let spoilt = [&pack(how, b"data"), garbage].concat();
                assert!(unpack(&spoilt).is_err(), "{how} {garbage:?}");
            }
        }
    }

    #[test]
    fn damage_is_told_from_a_source_that_fails() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(5))
            }
        }
        for how in BOTH {
            let mut packed = pack(how, &b"overlay ".repeat(1_000));
            let half = packed.len() / 2;
            let mut cut = how.decoder(packed[..half].chain(Failing)).unwrap();
            let error = cut.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{how}");
            packed[half..].fill(0xa5);
            assert_eq!(unpack(&packed).unwrap_err().kind(), io::ErrorKind::InvalidData, "{how}");
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error_wherever_it_ends() {
        let text: Vec<u8> = (0..5_000u32).flat_map(|n| n.to_le_bytes()).collect();
        for how in BOTH {
            let packed = pack(how, &text);
            for end in (4..packed.len()).step_by(97).chain([packed.len() - 1]) {
                let error = unpack(&packed[..end]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{how} at {end}");
            }
        }
    }
}
