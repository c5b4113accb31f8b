//! Contents compared: each file by its checksum, the changeset by its digest.

use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;

use super::{Difference, Verify};
use crate::changeset::checksum::{Checksum, Summing};
use crate::changeset::entries::{Entries, Listed, State};
use crate::changeset::split::{Payload, copy_run, open_beneath, reassemble_with};
use crate::digest::Digest;
use crate::error::{Context, ErrorKind, Result, is_starved};
use crate::finding::FindingKind;
use crate::inode::FileKind;
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::watch::{Phase, Progress};

impl Verify<'_> {
    /// The contents of all files, by their checksums.
    pub(super) fn files(&mut self, entries: &Entries) -> Result<()> {
        let mut read = HashMap::new();
        for (path, name) in &entries.names {
            let FileKind::Regular { size } = name.file.kind else { continue };
            if name.state.get() != State::Seen || read.insert(Rc::as_ptr(&name.file), ()).is_some()
            {
                continue;
            }
            let path = LayerPath::parse(path)?;
            let file = open_beneath(self.layer, &path);
            let read = file.and_then(|file| match rustix::fs::fstat(&file)?.st_size {
                // Its length is wrong already.
                found if u64::try_from(found) != Ok(size) => Ok(None),
                _ => Checksum::of_file(&file, size).map(Some),
            });
            if let Err(error) = read
                && is_starved(error)
            {
                return Err(error).during("open", &path);
            }
            self.compare_sum(&path, read, name.file.checksum);
            self.bytes += size;
            self.report()?;
        }
        Ok(())
    }

    fn compare_sum(&mut self, path: &LayerPath, sum: SysResult<Option<u32>>, expected: u32) {
        match sum {
            Ok(Some(sum)) if sum != expected => {
                let detail = format!("checksum {sum:08x}, expected {expected:08x}");
                self.add(path, FindingKind::Contents, detail);
            }
            Ok(_) => {}
            Err(error) => {
                self.add(path, FindingKind::Contents, format!("cannot be read: {error}"));
            }
        }
    }

    /// The changeset, written again and hashed; on the way the checksum of each file.
    pub(super) fn hash(&mut self, entries: &Entries, digest: Digest) -> Result<()> {
        let (layer, side, options) = (self.layer, self.side, self.options);
        let mut wrong: Vec<Difference> = Vec::new();
        let entries_seen = self.seen;
        // However much a broken record asks for.
        let most = options.total_bytes.unwrap_or(1 << 30);
        let mut report = |bytes, _| {
            options.watch.report(&Progress {
                subject: options.subject,
                phase: Phase::Check,
                bytes,
                total_bytes: options.total_bytes,
                entries: entries_seen,
            })
        };
        let hashed = reassemble_with(side, &mut io::sink(), &mut report, &mut |payload, out| {
            let listed = match &payload.replaced {
                None => entries.names.get(payload.path.as_bytes()).map(|name| &name.file),
                Some(path) => entries.replaced.get(path.as_bytes()),
            };
            let mut out = Summing { out, sum: Checksum::default(), bytes: 0 };
            let copied = copy_payload(payload, layer, side, &mut out, listed);
            let runs = payload.runs.iter();
            let total = runs.fold(0, |sum: u64, (_, length)| sum.saturating_add(*length));
            let missing = total.saturating_sub(out.bytes);
            let detail = match copied {
                Ok(sum) => {
                    let sum = sum.unwrap_or_else(|| out.sum.value());
                    let expected = listed.map(|listed| listed.checksum);
                    expected
                        .filter(|expected| *expected != sum)
                        .map(|expected| format!("checksum {sum:08x}, expected {expected:08x}"))
                }
                Err(error) if error.kind() == ErrorKind::Cancelled || error.is_starved() => {
                    return Err(error);
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(detail) = detail {
                let (path, kind) = (Some(payload.path.clone()), FindingKind::Contents);
                wrong.push(Difference { path, kind, detail });
            }
            // The hash will be wrong anyway; the other files are still looked at.
            fill(&mut out, missing.min(most))
        });
        if hashed.is_err() {
            // What it named may be anything.
            wrong.clear();
            self.files(entries)?;
        }
        // A file that is missing or has another length is named already.
        let named = |difference: &Difference| {
            self.found.iter().any(|found| {
                found.path == difference.path
                    && matches!(
                        found.kind,
                        FindingKind::Missing | FindingKind::Type | FindingKind::Contents
                    )
            })
        };
        wrong.retain(|difference| {
            !named(difference) && !self.is_beneath_missing(difference, entries)
        });
        self.found.append(&mut wrong);
        self.judge(hashed.map(|(found, _)| found), digest)
    }

    /// Notes what the changeset itself shows to be wrong, if that is not told of a file already.
    fn judge(&mut self, hashed: Result<Digest>, digest: Digest) -> Result<()> {
        match hashed {
            Ok(found) if found == digest => {}
            Ok(found) => {
                let told = |found: &Difference| {
                    matches!(
                        found.kind,
                        FindingKind::Contents | FindingKind::Missing | FindingKind::Type
                    )
                };
                if !self.found.iter().any(told) {
                    let detail = format!("its changeset has {found}, expected {digest}");
                    self.whole(FindingKind::Digest, detail);
                }
            }
            Err(error) if error.kind() == ErrorKind::Cancelled || error.is_starved() => {
                return Err(error);
            }
            Err(error) => self.whole(FindingKind::Record, format!("changeset: {error}")),
        }
        Ok(())
    }

    /// Whether a file is missing with a directory around it, which is named.
    fn is_beneath_missing(&self, difference: &Difference, entries: &Entries) -> bool {
        let state = |path: &LayerPath| {
            entries.names.get(path.as_bytes()).map_or(State::Seen, |name| name.state.get())
        };
        let mut at = difference.path.as_ref().and_then(LayerPath::parent);
        while let Some(path) = at {
            if state(&path) != State::Seen {
                return true;
            }
            at = path.parent();
        }
        false
    }
}

/// Copies the payload of a file; gives the checksum of its whole content where that is another than
/// of what was copied.
fn copy_payload(
    payload: &Payload,
    layer: &Dir,
    side: &Dir,
    out: &mut Summing<'_>,
    listed: Option<&Rc<Listed>>,
) -> Result<Option<u32>> {
    let path = &payload.path;
    let file = payload.open(layer, side)?;
    for run in &payload.runs {
        copy_run(&file, *run, out, path)?;
    }
    match (payload.runs.as_slice(), listed.map(|listed| &listed.kind)) {
        ([(0, length)], Some(FileKind::Regular { size })) if length == size => Ok(None),
        // What the tar leaves out of a sparse file must be zeros.
        (_, Some(FileKind::Regular { size })) => {
            Checksum::of_file(&file, *size).during("read", path).map(Some)
        }
        _ => Ok(None),
    }
}

/// Writes zeros for what cannot be read.
fn fill(out: &mut dyn Write, bytes: u64) -> Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), out).map(drop).during("write", "changeset")
}
