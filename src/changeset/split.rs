//! Keeps what a changeset says beside its files' contents, so that the very same tar can be written
//! again from the layer directory.
//!
//! The file `changeset` beside a layer directory is a stream of records: the tar's own bytes, and
//! between them references to files of the layer whose content is the payload. Its first byte tells
//! how the rest is compressed. The directory `replaced`, which few layers have, holds files that a
//! later entry of the same changeset replaced. The format is described in ARCHITECTURE.md.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::header::invalid;
use super::records::{RecordReader, RecordWriter, put_bytes, put_number};
use crate::digest::{Digest, Hashing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::copy::next_data;
use crate::sys::dir::SysResult;
use crate::watch::{Phase, Progress, Watch};

/// The name of the stream of records.
pub(super) const FILE: &str = "changeset";
/// The name of the directory of replaced files.
pub(super) const REPLACED: &str = "replaced";

/// The most runs of one file that are taken for real: 64 MiB of them.
const MOST_RUNS: u64 = 1 << 22;

const END: u8 = 0;
const RAW: u8 = 1;
const CONTENT: u8 = 2;
const RUNS: u8 = 3;
const MOVED: u8 = 4;

/// Writes the records while a changeset is applied.
pub(super) struct SplitWriter<'a> {
    side: &'a Dir,
    out: RecordWriter,
    /// References written so far.
    references: u64,
    /// What was replaced: its path, and how many references had been written by then.
    moved: Vec<(LayerPath, u64)>,
}

impl<'a> SplitWriter<'a> {
    /// Starts the file in `side`, the directory that holds the layer directory.
    pub(super) fn new(side: &'a Dir) -> Result<Self> {
        Ok(Self { side, out: RecordWriter::create(side, FILE)?, references: 0, moved: Vec::new() })
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
            self.side.make_dir(REPLACED.as_bytes(), 0o700).during("create directory", REPLACED)?;
        }
        let replaced = self.side.child(REPLACED.as_bytes()).during("open directory", REPLACED)?;
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
        self.out.finish()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.put(bytes)
    }
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

/// Reads the records.
struct SplitReader(RecordReader);

impl SplitReader {
    fn open(side: &Dir) -> Result<Self> {
        RecordReader::open(side, FILE).map(Self)
    }

    fn next(&mut self) -> Result<Record> {
        let records = &mut self.0;
        Ok(match records.byte()? {
            RAW => Record::Raw(records.number()?),
            CONTENT => Record::Content { path: records.path()?, size: records.number()? },
            RUNS => Record::Runs { path: records.path()?, count: records.number()? },
            MOVED => Record::Moved { path: records.path()?, references: records.number()? },
            END => Record::End,
            other => return Err(records.corrupt(&format!("a record of type {other}"))),
        })
    }

    /// One of the runs behind their record.
    fn run(&mut self) -> Result<(u64, u64)> {
        Ok((self.0.number()?, self.0.number()?))
    }

    /// The bytes of a record [`Record::Raw`].
    fn raw(&mut self, length: u64, out: &mut dyn Write) -> Result<()> {
        let copied = io::copy(&mut (&mut self.0.input).take(length), out).during("copy", FILE)?;
        match copied == length {
            true => Ok(()),
            false => Err(self.0.corrupt("bytes that are cut off")),
        }
    }
}

/// Whether entries of a changeset replaced what earlier ones had made; by what is kept beside it.
pub(crate) fn has_replaced(side: &Dir) -> Result<bool> {
    let there = side.stat_if_exists(REPLACED.as_bytes()).during("look up", REPLACED)?;
    Ok(there.is_some())
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
    let progress = |bytes, entries| Progress {
        subject,
        phase: Phase::Pack,
        bytes,
        total_bytes: None,
        entries,
    };
    reassemble_with(
        side,
        out,
        &mut |bytes, entries| watch.report(&progress(bytes, entries)),
        &mut |payload, out| {
            let file = payload.open(layer, side)?;
            payload.runs.iter().try_for_each(|run| copy_run(&file, *run, out, &payload.path))
        },
    )
}

/// As [`reassemble`]: `payload` writes the content of each file, and `report` sees how many bytes
/// and files there were so far.
pub(super) fn reassemble_with(
    side: &Dir,
    out: &mut dyn Write,
    report: &mut dyn FnMut(u64, u64) -> Result<()>,
    payload: &mut dyn FnMut(&Payload, &mut dyn Write) -> Result<()>,
) -> Result<(Digest, u64)> {
    let moved = Moved::of(moved_files(side)?);
    let mut records = SplitReader::open(side)?;
    let mut out = Hashing::new(out);
    let mut references = 0;
    loop {
        let (path, runs) = match records.next()? {
            Record::Raw(length) => {
                records.raw(length, &mut out)?;
                continue;
            }
            Record::Content { path, size } => (path, vec![(0, size)]),
            Record::Runs { path, count } if count <= MOST_RUNS => {
                let runs: Result<Vec<_>> = (0..count).map(|_| records.run()).collect();
                (path, runs?)
            }
            Record::Runs { count, .. } => {
                return Err(records.0.corrupt(&format!("{count} runs of one file")));
            }
            Record::Moved { .. } => continue,
            Record::End => break,
        };
        let replaced = moved.place(&path, references)?;
        payload(&Payload { path, replaced, runs }, &mut out)?;
        references += 1;
        report(out.bytes(), references)?;
    }
    report(out.bytes(), references)?;
    records.0.end()?;
    let (digest, bytes, _) = out.finish();
    Ok((digest, bytes))
}

/// What the end of the file says of replaced files; only read where there are any.
fn moved_files(side: &Dir) -> Result<Vec<(LayerPath, u64)>> {
    let mut moved = Vec::new();
    if side.stat_if_exists(REPLACED.as_bytes()).during("look for", REPLACED)?.is_none() {
        return Ok(moved);
    }
    let mut records = SplitReader::open(side)?;
    loop {
        match records.next()? {
            Record::Raw(length) => records.raw(length, &mut io::sink())?,
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

/// A payload of the tar: where its bytes are.
#[derive(Debug)]
pub(super) struct Payload {
    /// The file's path when it was unpacked.
    pub(super) path: LayerPath,
    /// Where it is in `replaced`, if a later entry took its place.
    pub(super) replaced: Option<LayerPath>,
    /// The parts of the file that the tar holds: offset and length.
    pub(super) runs: Vec<(u64, u64)>,
}

impl Payload {
    /// Opens the file that holds it, and has to be long enough.
    pub(super) fn open(&self, layer: &Dir, side: &Dir) -> Result<File> {
        let file = match &self.replaced {
            None => open_beneath(layer, &self.path),
            Some(path) => {
                side.child(REPLACED.as_bytes()).and_then(|replaced| open_beneath(&replaced, path))
            }
        };
        let file = file.map_err(|error| damaged(&self.path, &error.to_string()))?;
        let length = file.metadata().during("stat", &self.path)?.len();
        let ends = self.runs.iter().map(|(offset, length)| offset.saturating_add(*length));
        let end = ends.max().unwrap_or(0);
        match length < end {
            true => Err(damaged(&self.path, &format!("it has {length} bytes of {end}"))),
            false => Ok(file),
        }
    }
}

/// What was replaced, by its path: its place in `replaced`, and by how many references it was meant.
struct Moved(HashMap<LayerPath, Vec<(usize, u64)>>);

impl Moved {
    /// Takes what was replaced, in order.
    fn of(moved: Vec<(LayerPath, u64)>) -> Self {
        let mut by_path: HashMap<LayerPath, Vec<(usize, u64)>> = HashMap::new();
        for (index, (path, references)) in moved.into_iter().enumerate() {
            by_path.entry(path).or_default().push((index, references));
        }
        Self(by_path)
    }

    /// Where the file is that was at `path` when the reference of this number was written, if that was
    /// replaced later, or something that it lay in.
    fn place(&self, path: &LayerPath, reference: u64) -> Result<Option<LayerPath>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (mut first, mut at) = (None, Some(path.clone()));
        while let Some(prefix) = at {
            let times = self.0.get(&prefix).map(Vec::as_slice).unwrap_or_default();
            let later = times.partition_point(|(_, references)| *references <= reference);
            if let Some((index, _)) = times.get(later)
                && first.as_ref().is_none_or(|(first, _)| index < first)
            {
                first = Some((*index, prefix.clone()));
            }
            at = prefix.parent();
        }
        let place = |(index, prefix)| replaced_path(index, &prefix, path);
        first.map(place).transpose()
    }
}

/// Where in `replaced` a file is that lay at `path`, beneath `prefix`, which was the `index`th to be
/// replaced.
pub(super) fn replaced_path(
    index: usize,
    prefix: &LayerPath,
    path: &LayerPath,
) -> Result<LayerPath> {
    let rest = path.as_bytes().get(prefix.as_bytes().len()..).unwrap_or_default();
    LayerPath::parse(&[index.to_string().as_bytes(), rest].concat())
}

pub(super) fn open_beneath(dir: &Dir, path: &LayerPath) -> SysResult<File> {
    let (parent, name) = path.split().ok_or(Errno::ISDIR)?;
    // A FIFO that came in the file's place is not waited for.
    dir.descend_as_path(&parent)?.open(name, OFlags::RDONLY | OFlags::NONBLOCK, 0)
}

fn damaged(path: &LayerPath, how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("file {path} of the layer is damaged: {how}"))
        .hint("remove the image and load it again")
}

/// Writes one run of a file; its holes as zeros, without reading them.
pub(super) fn copy_run(
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
        let kept = [&[0], record].concat();
        side.open(FILE.as_bytes(), flags, 0o600).unwrap().write_all(&kept).unwrap();
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
