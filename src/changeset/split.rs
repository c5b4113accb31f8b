//! Keeps what a changeset says beside its files' contents, so that the very same tar can be written
//! again from the layer directory.
//!
//! The file `changeset` beside a layer directory is a stream of records: the tar's own bytes, and
//! between them references to files of the layer whose content is the payload. Its first byte tells
//! how the rest is compressed. The directory `replaced`, which few layers have, holds files that a
//! later entry of the same changeset replaced. The format is described in ARCHITECTURE.md.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use rustix::fs::{OFlags, RenameFlags};

use super::header::invalid;
use crate::digest::{Digest, Hashing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::copy::next_data;
use crate::watch::{Phase, Progress, Watch};

/// The name of the stream of records.
const FILE: &[u8] = b"changeset";
/// The name of the directory of replaced files.
const REPLACED: &[u8] = b"replaced";

const PLAIN: u8 = 0;
#[cfg(feature = "zstd")]
const ZSTD: u8 = 1;

const END: u8 = 0;
const RAW: u8 = 1;
const CONTENT: u8 = 2;
const RUNS: u8 = 3;
const MOVED: u8 = 4;

/// The most bytes of a path; what the tar itself may hold is less unless its limits were raised.
const LONGEST_PATH: u64 = 64 << 20;

/// Writes the records while a changeset is applied.
pub(super) struct SplitWriter<'a> {
    side: &'a Dir,
    out: Encoder,
    /// References written so far.
    references: u64,
    /// What was replaced: its path, and how many references had been written by then.
    moved: Vec<(LayerPath, u64)>,
}

/// The compression of the stream.
enum Encoder {
    #[cfg(not(feature = "zstd"))]
    Plain(io::BufWriter<File>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::stream::write::Encoder<'static, File>),
}

impl Encoder {
    fn new(mut file: File) -> io::Result<Self> {
        #[cfg(feature = "zstd")]
        {
            file.write_all(&[ZSTD])?;
            zstd::stream::write::Encoder::new(file, 3).map(Self::Zstd)
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

impl<'a> SplitWriter<'a> {
    /// Starts the file in `side`, the directory that holds the layer directory.
    pub(super) fn new(side: &'a Dir) -> Result<Self> {
        let out = side
            .open(FILE, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600)
            .map_err(io::Error::from)
            .and_then(Encoder::new)
            .during("create", FILE)?;
        Ok(Self { side, out, references: 0, moved: Vec::new() })
    }

    /// Bytes of the tar itself.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut record = vec![RAW];
        put_number(&mut record, bytes.len() as u64);
        self.put(&record)?;
        self.put(bytes)
    }

    /// A payload of `size` bytes that is the whole content of the file at `path`.
    pub(super) fn content(&mut self, path: &LayerPath, size: u64) -> Result<()> {
        let mut record = vec![CONTENT];
        put_bytes(&mut record, path.as_bytes());
        put_number(&mut record, size);
        self.references += 1;
        self.put(&record)
    }

    /// A payload that is these runs (offset and length) of the file at `path`.
    pub(super) fn runs(&mut self, path: &LayerPath, runs: &[(u64, u64)]) -> Result<()> {
        let mut record = vec![RUNS];
        put_bytes(&mut record, path.as_bytes());
        put_number(&mut record, runs.len() as u64);
        for &(offset, length) in runs {
            put_number(&mut record, offset);
            put_number(&mut record, length);
        }
        self.references += 1;
        self.put(&record)
    }

    /// Moves `name` of `dir`, which is at `path`, out of the layer; it is to be replaced.
    pub(super) fn move_away(&mut self, dir: &Dir, name: &[u8], path: LayerPath) -> Result<()> {
        if self.moved.is_empty() {
            self.side.make_dir(REPLACED, 0o700).during("create directory", REPLACED)?;
        }
        let replaced = self.side.child(REPLACED).during("open directory", REPLACED)?;
        let new_name = self.moved.len().to_string();
        dir.rename(name, &replaced, new_name.as_bytes(), RenameFlags::NOREPLACE)
            .during("move aside", &path)?;
        self.moved.push((path, self.references));
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut record = Vec::new();
        for (path, references) in &self.moved {
            record.push(MOVED);
            put_bytes(&mut record, path.as_bytes());
            put_number(&mut record, *references);
        }
        record.push(END);
        self.put(&record)?;
        self.out.finish().during("write", FILE)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).during("write", FILE)
    }
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes().first().copied().unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes().first().copied().unwrap_or_default());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// One record, as it is read.
enum Record {
    Raw(u64),
    Content {
        path: LayerPath,
        size: u64,
    },
    /// As many runs follow, each an offset and a length.
    Runs {
        path: LayerPath,
        count: u64,
    },
    Moved {
        path: LayerPath,
        references: u64,
    },
    End,
}

struct SplitReader {
    input: Box<dyn Read>,
}

impl SplitReader {
    fn open(side: &Dir) -> Result<Self> {
        let file = side.open(FILE, OFlags::RDONLY, 0).during("open", FILE)?;
        let mut input = BufReader::new(file);
        let mut how = [0];
        input.read_exact(&mut how).during("read", FILE)?;
        let input: Box<dyn Read> = match how {
            [PLAIN] => Box::new(input),
            #[cfg(feature = "zstd")]
            [ZSTD] => Box::new(BufReader::new(
                zstd::stream::read::Decoder::with_buffer(input).during("read", FILE)?,
            )),
            [other] => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the layer's changeset is kept in form {other}, unknown to this build"),
                )
                .hint("build the crate with feature zstd, or use a newer version"));
            }
        };
        Ok(Self { input })
    }

    fn next(&mut self) -> Result<Record> {
        Ok(match self.byte()? {
            RAW => Record::Raw(self.number()?),
            CONTENT => Record::Content { path: self.path()?, size: self.number()? },
            RUNS => Record::Runs { path: self.path()?, count: self.number()? },
            MOVED => Record::Moved { path: self.path()?, references: self.number()? },
            END => Record::End,
            other => return Err(corrupt(format!("a record of type {other}"))),
        })
    }

    /// One of the runs behind their record.
    fn run(&mut self) -> Result<(u64, u64)> {
        Ok((self.number()?, self.number()?))
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte).during("read", FILE)?;
        let [byte] = byte;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(corrupt("a number of more than 64 bits".to_owned()))
    }

    fn path(&mut self) -> Result<LayerPath> {
        let length = self.number()?;
        if length > LONGEST_PATH {
            return Err(corrupt(format!("a path of {length} bytes")));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(length).read_to_end(&mut bytes).during("read", FILE)?;
        if read as u64 != length {
            return Err(corrupt("a path that is cut off".to_owned()));
        }
        LayerPath::parse(&bytes).map_err(|error| corrupt(error.to_string()))
    }
}

fn corrupt(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the layer's kept changeset holds {what}"))
        .hint("remove the image and load it again")
}

/// Writes the changeset again from a layer directory and what was kept beside it.
///
/// Gives the digest and length of what was written, which the caller compares with the diff ID.
///
/// # Errors
/// [`ErrorKind::Corrupt`] where a file of the layer is missing or has another length.
pub fn reassemble(
    layer: &Dir,
    side: &Dir,
    out: &mut dyn Write,
    subject: &str,
    watch: Watch<'_>,
) -> Result<(Digest, u64)> {
    let moved = moved_files(side)?;
    let mut records = SplitReader::open(side)?;
    let mut out = Hashing::new(out);
    let source = Source { layer, side, moved };
    let mut references = 0;
    loop {
        match records.next()? {
            Record::Raw(length) => {
                let copied = io::copy(&mut (&mut records.input).take(length), &mut out)
                    .during("write", "changeset")?;
                if copied != length {
                    return Err(corrupt("bytes that are cut off".to_owned()));
                }
            }
            Record::Content { path, size } => {
                let file = source.open(&path, references, size)?;
                references += 1;
                copy_run(&file, (0, size), &mut out, &path)?;
            }
            Record::Runs { path, count } => {
                let file = source.open(&path, references, 0)?;
                references += 1;
                let length = file.metadata().during("stat", &path)?.len();
                for _ in 0..count {
                    let (offset, run) = records.run()?;
                    let end = offset.checked_add(run).filter(|&end| end <= length);
                    if end.is_none() {
                        let what = format!("it has {length} bytes, none at {offset} + {run}");
                        return Err(damaged(&path, &what));
                    }
                    copy_run(&file, (offset, run), &mut out, &path)?;
                }
            }
            Record::Moved { .. } => {}
            Record::End => break,
        }
        let progress = Progress {
            subject,
            phase: Phase::Pack,
            bytes: out.bytes(),
            total_bytes: None,
            entries: references,
        };
        watch.report(&progress)?;
    }
    let (digest, bytes, _) = out.finish();
    Ok((digest, bytes))
}

/// What the end of the file says of replaced files; only read where there are any.
fn moved_files(side: &Dir) -> Result<Vec<(LayerPath, u64)>> {
    let mut moved = Vec::new();
    if side.stat_if_exists(REPLACED).during("look for", REPLACED)?.is_none() {
        return Ok(moved);
    }
    let mut records = SplitReader::open(side)?;
    loop {
        match records.next()? {
            Record::Raw(length) => {
                io::copy(&mut (&mut records.input).take(length), &mut io::sink())
                    .during("read", FILE)?;
            }
            Record::Moved { path, references } => moved.push((path, references)),
            Record::End => return Ok(moved),
            Record::Runs { count, .. } => {
                for _ in 0..count {
                    records.run()?;
                }
            }
            Record::Content { .. } => {}
        }
    }
}

/// Where payloads come from.
struct Source<'a> {
    layer: &'a Dir,
    side: &'a Dir,
    moved: Vec<(LayerPath, u64)>,
}

impl Source<'_> {
    /// Opens the file that was at `path` when the reference of this number was written.
    fn open(&self, path: &LayerPath, reference: u64, at_least: u64) -> Result<File> {
        let moved =
            self.moved.iter().enumerate().find(|(_, (prefix, references))| {
                reference < *references && path.starts_with(prefix)
            });
        let file = match moved {
            None => open_beneath(self.layer, path),
            Some((index, (prefix, _))) => {
                let rest = path.as_bytes().get(prefix.as_bytes().len()..).unwrap_or_default();
                let below = [index.to_string().as_bytes(), rest].concat();
                let below = LayerPath::parse(&below)?;
                self.side.child(REPLACED).and_then(|replaced| open_beneath(&replaced, &below))
            }
        };
        let file = file.map_err(|error| damaged(path, &error.to_string()))?;
        let length = file.metadata().during("stat", path)?.len();
        if length < at_least {
            return Err(damaged(path, &format!("it has {length} bytes of {at_least}")));
        }
        Ok(file)
    }
}

fn open_beneath(dir: &Dir, path: &LayerPath) -> crate::sys::dir::SysResult<File> {
    let (parent, name) = path.split().ok_or(rustix::io::Errno::ISDIR)?;
    // A FIFO that came in the file's place is not waited for.
    dir.descend_as_path(&parent)?.open(name, OFlags::RDONLY | OFlags::NONBLOCK, 0)
}

fn damaged(path: &LayerPath, how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("file {path} of the layer is damaged: {how}"))
        .hint("remove the image and load it again")
}

/// Writes one run of a file; its holes as zeros, without reading them.
fn copy_run(
    file: &File,
    (offset, length): (u64, u64),
    out: &mut dyn Write,
    path: &LayerPath,
) -> Result<()> {
    let end = offset.checked_add(length).ok_or_else(|| invalid("run out of range".to_owned()))?;
    let mut at = offset;
    while at < end {
        let (start, stop) = next_data(file, at, end).during("read", path)?.unwrap_or((end, end));
        zeros(start - at, out, path)?;
        data(file, start, stop, out, path)?;
        at = stop;
    }
    Ok(())
}

fn zeros(mut count: u64, out: &mut dyn Write, path: &LayerPath) -> Result<()> {
    const ZEROS: &[u8] = &[0; 64 << 10];
    while count > 0 {
        let piece = usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len());
        out.write_all(ZEROS.get(..piece).unwrap_or_default()).during("write", path)?;
        count -= piece as u64;
    }
    Ok(())
}

fn data(file: &File, start: u64, end: u64, out: &mut dyn Write, path: &LayerPath) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let size = usize::try_from(end - start).unwrap_or(usize::MAX).min(256 << 10);
    let mut buffer = vec![0; size];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..want).unwrap_or_default();
        file.read_exact_at(piece, at).during("read", path)?;
        out.write_all(piece).during("write", path)?;
        at += want as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes again from a layer of one file of ten bytes and a record, given plain.
    fn written(record: &[u8]) -> Result<Vec<u8>> {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir(temporary.path().join("diff")).unwrap();
        let side = Dir::open_ambient(temporary.path()).unwrap();
        let layer = side.child(b"diff").unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE;
        layer.open(b"f", flags, 0o644).unwrap().write_all(b"0123456789").unwrap();
        let kept = [&[PLAIN], record].concat();
        side.open(FILE, flags, 0o600).unwrap().write_all(&kept).unwrap();
        let mut out = Vec::new();
        reassemble(&layer, &side, &mut out, "test", Watch::new()).map(|_| out)
    }

    #[test]
    fn runs_beyond_the_end_of_a_file_are_damage_and_no_endless_zeros() {
        let runs = |runs: &[(u64, u64)]| {
            let mut record = vec![RUNS];
            put_bytes(&mut record, b"f");
            put_number(&mut record, runs.len() as u64);
            for &(offset, length) in runs {
                put_number(&mut record, offset);
                put_number(&mut record, length);
            }
            record.push(END);
            record
        };
        assert_eq!(written(&runs(&[(1, 2), (8, 2)])).unwrap(), b"1289");
        for bad in [&[(0, 1 << 60), (0, 1)][..], &[(8, 3)], &[(u64::MAX, 1)], &[(1, u64::MAX)]] {
            let error = written(&runs(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }

    #[test]
    fn a_record_that_makes_no_sense_is_corrupt() {
        let mut long = vec![CONTENT];
        put_number(&mut long, u64::MAX);
        let outside = [&[CONTENT, 4][..], b"../f", &[1, END]].concat();
        for bad in [&long, &outside, &vec![9], &vec![RAW, 0xff]] {
            let error = written(bad).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::InvalidData), "{error}");
        }
    }
}
