//! [`apply`]: a changeset into a directory.

use std::io::{BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::read_ahead;
use super::attributes::{Attach, Unkept};
use super::digesting::Seen;
use super::entries::EntriesWriter;
use super::entry::called;
use super::limits::ApplyLimits;
use super::links_below::LinksBelow;
use super::reader::TarReader;
use super::split::SplitWriter;
use super::tree::Tree;
use super::unpack::Unpack;
use super::writers;
use crate::compression::Compression;
use crate::digest::{DiffId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{Assumptions, Ownership};
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::parallel::Workers;
use crate::watch::{Phase, Progress, Watch};

/// How a changeset is applied.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct ApplyOptions<'a> {
    /// Where overlayfs's marks are written; that of the mounts that will use the layer.
    pub namespace: Namespace,
    /// How owners are kept.
    pub ownership: Ownership,
    /// Bounds on what the changeset may hold.
    pub limits: ApplyLimits,
    /// What the uncompressed changeset must hash to.
    pub expected_diff_id: Option<DiffId>,
    /// What the changeset as it is read, compressed or not, must hash to.
    pub expected_digest: Option<Digest>,
    /// A directory beside the layer's, in which is kept what it takes to write the very same tar
    /// again ([`reassemble`](super::reassemble)): the file `changeset`, and seldom the directory
    /// `replaced`.
    pub side: Option<&'a Dir>,
    /// What progress reports call the changeset.
    pub subject: &'a str,
    /// How many bytes there are to read, where that is known; for progress reports alone.
    pub total_bytes: Option<u64>,
    /// Sees how far it is, and may stop it.
    pub watch: Watch<'a>,
    /// On how many threads files are made, besides those that read, decompress and take digests.
    /// 0: as many as there are processors.
    pub threads: usize,
    /// Those threads, where several changesets share them.
    pub(crate) workers: Option<&'a Workers>,
    /// Symlinks of the layers below that entries lead through, where those are known.
    pub(crate) links_below: Option<&'a LinksBelow>,
}

impl ApplyOptions<'_> {
    /// Exact owners, default limits, nothing expected, nothing kept beside the layer.
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            ownership: Ownership::default(),
            limits: ApplyLimits::default(),
            expected_diff_id: None,
            expected_digest: None,
            side: None,
            subject: "changeset",
            total_bytes: None,
            watch: Watch::new(),
            threads: 0,
            workers: None,
            links_below: None,
        }
    }
}

/// What became of a changeset.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Applied {
    /// The sha256 of the uncompressed changeset.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed changeset.
    pub changeset_bytes: u64,
    /// The sha256 of the changeset as it was read.
    pub digest: Digest,
    /// Bytes of the changeset as it was read.
    pub read_bytes: u64,
    /// Bytes in the files of the layer, holes included.
    pub content_bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// Files, directories and other inodes in the layer, its root included.
    pub inodes: u64,
    /// What the layer takes for granted of those below it.
    pub assumptions: Assumptions,
    /// An opaque marker stands in the root: no layer below this one shows.
    pub opaque_root: bool,
    /// The changeset has an entry for its root, whose attributes the layer directory now has.
    pub explicit_root: bool,
    /// What the file system or the kernel would not take, at most 100 of them.
    pub unkept: Vec<Unkept>,
    /// How many of those there are.
    pub unkept_count: u64,
}

/// Unpacks a changeset into `dir`, which must be empty and nobody else's.
///
/// The changeset may be plain, or compressed with gzip or zstd. Whiteouts and opaque markers become
/// overlayfs's own marks; they count for the whole changeset, whatever their order. Symlinks are
/// resolved inside `dir`, never outside. Nothing is made durable here.
///
/// # Errors
/// [`ErrorKind::InvalidData`] where the changeset is malformed, truncated or hostile,
/// [`ErrorKind::LimitExceeded`], [`ErrorKind::DigestMismatch`], [`ErrorKind::Cancelled`], and what
/// the file system answers. What was unpacked so far is left for the caller to remove.
///
/// Source: OCI image-spec, layer.md.
pub fn apply(input: impl Read, dir: &Dir, options: &ApplyOptions<'_>) -> Result<Applied> {
    let read = AtomicU64::new(0);
    let mut compressed = Seen::new(options.watch.reading(input), &read);
    let (compression, whole) = Compression::sniff(&mut compressed).during("read", "changeset")?;
    let mut plain = compression.decoder(whole)?;
    let own = writers::workers(options.threads);
    let workers = options.workers.unwrap_or(&own);
    let (unpacked, diff_digest, changeset_bytes) =
        read_ahead(&mut plain, |tar| unpack(tar, dir, options, (&read, workers)))?;
    drop(plain);
    // Whatever stands behind the compressed data is part of the blob.
    let (digest, read_bytes) = compressed.finish()?;
    report(options, read_bytes, unpacked.entries)?;
    let diff_id = DiffId::new(diff_digest);
    expect(options.expected_digest, digest, "digest")?;
    expect(options.expected_diff_id, diff_id, "diff ID")?;
    let Unpacked {
        entries,
        inodes,
        content_bytes,
        assumptions,
        opaque_root,
        explicit_root,
        unkept,
    } = unpacked;
    let (unkept, unkept_count) = unkept;
    Ok(Applied {
        diff_id,
        changeset_bytes,
        digest,
        read_bytes,
        content_bytes,
        entries,
        inodes,
        assumptions,
        opaque_root,
        explicit_root,
        unkept,
        unkept_count,
    })
}

/// What is known when the tar has come to its end.
struct Unpacked {
    entries: u64,
    inodes: u64,
    content_bytes: u64,
    assumptions: Assumptions,
    opaque_root: bool,
    explicit_root: bool,
    unkept: (Vec<Unkept>, u64),
}

/// Makes the files of a plain tar.
fn unpack(
    tar: &mut dyn BufRead,
    dir: &Dir,
    options: &ApplyOptions<'_>,
    (read, workers): (&AtomicU64, &Workers),
) -> Result<Unpacked> {
    let split = options.side.map(SplitWriter::new).transpose()?;
    let mut tar = TarReader::new(tar, options.limits.clone(), split.is_some());
    let entries = options.side.map(EntriesWriter::new).transpose()?;
    let attach = Attach::new(options.namespace, options.ownership, entries);
    let mut unpack = Unpack::new(dir, attach, options.limits.clone(), split, workers);
    unpack.links_below = options.links_below;
    unpack.disinherit()?;
    let made = make_all(&mut unpack, &mut tar, options, read);
    unpack.settle();
    let entries = unpack.unless_failed(made)?;
    let assumptions = unpack.finish()?;
    if let Some(split) = unpack.split.take() {
        split.finish()?;
    }
    if let Some(entries) = unpack.attach.entries.take() {
        entries.finish()?;
    }
    let root = unpack.tree.get(Tree::ROOT);
    let (opaque_root, explicit_root) = (root.opaque, root.is_explicit());
    let (content_bytes, inodes) = (unpack.content_bytes, unpack.inodes());
    let unkept = unpack.attach.into_unkept();
    Ok(Unpacked { entries, inodes, content_bytes, assumptions, opaque_root, explicit_root, unkept })
}

/// Makes what the entries say, up to the end of the stream; gives their number.
fn make_all(
    unpack: &mut Unpack<'_>,
    tar: &mut TarReader<&mut dyn BufRead>,
    options: &ApplyOptions<'_>,
    read: &AtomicU64,
) -> Result<u64> {
    let mut entries = 0;
    while let Some(entry) = tar.next()? {
        entries += 1;
        let name = entry.raw_path.clone();
        let made = unpack.entry(entry, tar);
        let made = made.map_err(|error| error.within(called(&name)));
        unpack.unless_failed(made)?;
        while tar.skip_some()? {
            unpack.keep(tar)?;
        }
        if entries % 64 == 0 {
            unpack.keep(tar)?;
            report(options, read.load(Ordering::Relaxed), entries)?;
        }
    }
    unpack.keep(tar)?;
    while tar.drain_some()? {
        unpack.keep(tar)?;
        options.watch.check()?;
    }
    Ok(entries)
}

fn report(options: &ApplyOptions<'_>, bytes: u64, entries: u64) -> Result<()> {
    let (subject, phase, total_bytes) = (options.subject, Phase::Unpack, options.total_bytes);
    options.watch.report(&Progress { subject, phase, bytes, total_bytes, entries })
}

/// Fails where something else was expected.
fn expect<T: PartialEq + std::fmt::Display>(
    expected: Option<T>,
    found: T,
    what: &str,
) -> Result<()> {
    match expected {
        Some(expected) if expected != found => Err(Error::new(
            ErrorKind::DigestMismatch,
            format!("the changeset's {what} is {found}, expected {expected}"),
        )
        .hint("the data is damaged or not what its manifest says: fetch or build it again")),
        _ => Ok(()),
    }
}
