//! Damaged layers made what they were: from their changesets given again, or from what is sound in
//! the store.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::Serialize;

use super::check::{CheckOptions, Finding, is_no_directory};
use super::compose::Below;
use super::layer::{Expected, Unpacked};
use super::{Driver, Findings};
use crate::changeset::{self, Content, Contents, Ownership, Pair, VerifyOptions};
use crate::compression::Compression;
use crate::digest::{DiffId, Hashing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{self, ImageSource, LayerSeen, LayerSink, Opened, ReadOptions};
use crate::store::{FinishedLayer, LayerKey, LeasedLayer};
use crate::sys::remove::remove_tree;
use crate::watch::Watch;

/// What gives a changeset again: `None` where it has not this one.
pub type GiveChangeset<'a> = dyn Fn(&DiffId) -> Result<Option<Box<dyn Read + Send>>> + Sync + 'a;

/// Where sound changesets come from.
#[non_exhaustive]
#[derive(Clone, Copy)]
pub enum RepairFrom<'a> {
    /// From the store alone: a layer's own list and headers, and files of the same content in other
    /// layers.
    Store,
    /// From a changeset, an OCI image layout or a docker-archive, plain or compressed; what it has
    /// not, from the store.
    Path(&'a Path),
    /// From a callback; what it has not, from the store.
    Callback(&'a GiveChangeset<'a>),
}

impl std::fmt::Debug for RepairFrom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store => f.write_str("Store"),
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Callback(_) => f.write_str("Callback"),
        }
    }
}

/// What became of a repair.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Serialize)]
pub struct Repaired {
    /// The layers that are what they were again.
    pub repaired: Vec<LayerKey>,
    /// Layers that are not, and why.
    pub failed: Vec<(LayerKey, String)>,
    /// What is still wrong.
    pub remaining: Findings,
}

/// Changesets that were given, opened again for each layer.
enum Given<'a> {
    Nothing,
    Source(ImageSource),
    /// A file that is the changeset of this layer.
    Changeset(&'a Path, DiffId),
    Callback(&'a GiveChangeset<'a>),
    /// Unpacked already, since their archive passes once.
    Unpacked(BTreeMap<DiffId, FinishedLayer>),
}

impl Driver {
    /// Finds out which layers are damaged, or those of `only`, and makes each what it was.
    ///
    /// A layer is unpacked again into staging, its diff ID verified, and each file that differs is
    /// replaced in one step; what is right is not touched. Containers on other layers go on; a layer
    /// on which a container is mounted is refused, since the kernel does not want it to change. Where no
    /// layers are named, back links that were lost are put back, as the records tell of them.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`], and what makes it impossible to look. A layer that cannot be
    /// repaired stands in [`Repaired::failed`].
    pub fn repair(
        &self,
        from: &RepairFrom<'_>,
        only: &[LayerKey],
        watch: Watch<'_>,
    ) -> Result<Repaired> {
        if only.is_empty() {
            self.store.relink()?;
        }
        let found = self.check(&CheckOptions::default(), watch)?;
        let mut damaged: BTreeMap<LayerKey, Vec<Finding>> = BTreeMap::new();
        for finding in found.findings {
            if let Some(key) = finding.layer.filter(|key| only.is_empty() || only.contains(key))
                && finding.kind.is_damage()
            {
                damaged.entry(key).or_default().push(finding);
            }
        }
        let mut result = Repaired::default();
        // Variants come last: they are made from the others.
        let wanted: BTreeSet<DiffId> = damaged.keys().filter_map(diff_of).collect();
        let mut given = self.given(from, &wanted, watch)?;
        for (key, findings) in damaged {
            let done = match key {
                LayerKey::Diff(diff_id) => {
                    self.repair_base(&key, diff_id, &findings, &mut given, watch)
                }
                LayerKey::Chain(_) => self.repair_variant(&key, watch),
            };
            match done {
                Ok(()) => result.repaired.push(key),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => result.failed.push((key, error.to_string())),
            }
        }
        result.remaining = self.check(&CheckOptions::default(), watch)?;
        Ok(result)
    }

    /// Finds out what was given.
    fn given<'a>(
        &self,
        from: &RepairFrom<'a>,
        wanted: &BTreeSet<DiffId>,
        watch: Watch<'_>,
    ) -> Result<Given<'a>> {
        let path = match from {
            RepairFrom::Store => return Ok(Given::Nothing),
            RepairFrom::Callback(give) => return Ok(Given::Callback(*give)),
            RepairFrom::Path(path) => *path,
        };
        let options = ReadOptions::default();
        let opened = image::open(path, &options);
        if let Ok(Opened::Source(source)) = opened {
            return Ok(Given::Source(source));
        }
        if path.is_file() {
            let diff_id = diff_id_of(path, &watch)?;
            if wanted.contains(&diff_id) {
                return Ok(Given::Changeset(path, diff_id));
            }
        }
        match opened? {
            Opened::Source(source) => Ok(Given::Source(source)),
            Opened::Stream(file) => {
                let (unpacked, ownership) = (BTreeMap::new(), self.ownership_of(wanted));
                let mut sink = Sink { driver: self, wanted, ownership, unpacked, watch };
                match image::read_stream(file, &mut sink, &options) {
                    Ok(_) => Ok(Given::Unpacked(sink.unpacked)),
                    Err(error) => Err(error.hint("it is the changeset of no damaged layer")),
                }
            }
        }
    }

    /// How the owners of these layers are kept, where that is one way for all of them.
    fn ownership_of(&self, layers: &BTreeSet<DiffId>) -> Option<Ownership> {
        let record = |diff_id| self.store.layer_record(&LayerKey::Diff(diff_id)).ok().flatten();
        let records = layers.iter().filter_map(|diff_id| record(*diff_id));
        let mut ownerships = records.map(|record| record.owners.ownership());
        let first = ownerships.next()?;
        ownerships.all(|other| other == first).then_some(first)
    }

    fn repair_base(
        &self,
        key: &LayerKey,
        diff_id: DiffId,
        findings: &[Finding],
        given: &mut Given<'_>,
        watch: Watch<'_>,
    ) -> Result<()> {
        self.refuse_mounted_layer(key)?;
        let subject = format!("layer {diff_id}");
        // As it was, where that is known: what is right is not to be touched.
        let expected = Expected {
            diff_id: Some(diff_id),
            ownership: self.ownership_of(&BTreeSet::from([diff_id])),
            subject: &subject,
            ..Expected::default()
        };
        let finished = match given.open(&diff_id)? {
            Some(Source::Finished(finished)) => finished,
            Some(Source::Reader(reader)) => self.unpack(reader, expected, watch)?.finished,
            None => self.unpack_own(key, findings, expected, watch)?,
        };
        let sound = finished.side().child(b"diff").during("open directory", "diff")?;
        let layer = self.store.claim_layer(key)?;
        self.replace(&layer, Pair { layer: &sound, side: finished.side() }, watch)?;
        layer.mend_record(&finished.record()?)
    }

    fn repair_variant(&self, key: &LayerKey, watch: Watch<'_>) -> Result<()> {
        self.refuse_mounted_layer(key)?;
        let LayerKey::Chain(chain) = key else { return Ok(()) };
        let missing = || Error::new(ErrorKind::NotFound, format!("no chain stands on layer {key}"));
        let record = self.store.chain_record(chain)?.ok_or_else(missing)?;
        let top = record.top().ok_or_else(missing)?;
        let base = self.store.find_layer(&LayerKey::Diff(top.diff_id))?.ok_or_else(missing)?;
        let base_record = base.record()?;
        let shown = record.parent.filter(|_| !base_record.opaque_root);
        let below = Below::open(self, shown)?;
        let (staging, size) = self.build_variant(&base, &below, &base_record, watch)?;
        let layer = self.store.claim_layer(key)?;
        self.replace(&layer, Pair { layer: staging.dir(), side: staging.side() }, watch)?;
        layer.mend_record(&self.variant_record(*key, &base_record, size)?)
    }

    /// Makes a layer, which is held alone, what the one in staging is.
    fn replace(&self, layer: &LeasedLayer, sound: Pair<'_>, watch: Watch<'_>) -> Result<()> {
        // A layer that is mounted since is still not to be changed.
        self.refuse_mounted_layer(&layer.key())?;
        let durability = self.store.durability();
        durability.sync_file_system(sound.side).during("sync", "staging")?;
        let subject = format!("layer {}", layer.key());
        let options = VerifyOptions {
            namespace: self.store.namespace(),
            contents: Contents::Read,
            subject: &subject,
            total_bytes: None,
            watch,
        };
        let dir = match layer.open() {
            Err(error) if is_no_directory(&error) => {
                remove_tree(layer.side(), b"diff").during("remove", "diff")?;
                layer.side().make_dir(b"diff", 0o755).during("create directory", "diff")?;
                layer.open()?
            }
            opened => opened?,
        };
        let damaged = Pair { layer: &dir, side: layer.side() };
        changeset::restore(damaged, sound, &options)
            .map_err(|error| error.within(format_args!("repair {subject}")))?;
        durability.sync_file_system(layer.side()).during("sync", &subject)
    }

    /// Fails where a container is mounted that shows a layer.
    fn refuse_mounted_layer(&self, key: &LayerKey) -> Result<()> {
        let mut chains = HashMap::new();
        for record in self.store.containers()? {
            let Some(chain) = record.chain else { continue };
            let shows = match chains.get(&chain) {
                Some(shows) => *shows,
                None => {
                    let shows = self.store.stack(&chain)?.iter().any(|one| one.layer() == *key);
                    chains.insert(chain, shows);
                    shows
                }
            };
            if shows {
                let mut lock = self.lock(&record.name)?;
                self.refuse_mounted(&mut lock)
                    .map_err(|error| error.within(format_args!("repair layer {key}")))?;
            }
        }
        // Nothing tells which layers one shows whose record is damaged: any, then.
        for id in self.store.broken_containers()? {
            self.refuse_mounted_broken(&id).map_err(|error| {
                error.within(format_args!("repair layer {key}, which may be beneath it"))
            })?;
        }
        Ok(())
    }

    /// Unpacks a layer again from what is kept of it, with sound files of other layers in place of
    /// its damaged ones.
    fn unpack_own(
        &self,
        key: &LayerKey,
        findings: &[Finding],
        expected: Expected<'_>,
        watch: Watch<'_>,
    ) -> Result<FinishedLayer> {
        let missing = || Error::new(ErrorKind::NotFound, format!("layer {key}"));
        let layer = self.store.find_layer(key)?.ok_or_else(missing)?;
        let namespace = self.store.namespace();
        let found: Vec<_> = findings
            .iter()
            .filter_map(|finding| Some((finding.kind, finding.path.clone()?)))
            .collect();
        let damaged = match changeset::unsound(layer.side(), namespace, &found) {
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            // The list is damaged, and made again: the diff ID tells whether the files are right.
            Err(_) => BTreeMap::new(),
            Ok(damaged) => damaged,
        };
        let supplied = self.siblings(damaged.values().copied().collect(), watch)?;
        let mut substitutes = BTreeMap::new();
        for (path, content) in &damaged {
            match supplied.get(content) {
                Some(file) => drop(substitutes.insert(path.clone(), file)),
                None if content.0 == 0 => {}
                None => {
                    let message = format!("no layer has a sound copy of file {path}");
                    return Err(Error::new(ErrorKind::Corrupt, message)
                        .hint("give its changeset: overlay2 repair --from FILE-or-DIR"));
                }
            }
        }
        let dir = layer.open()?;
        let unpacked = self.pipe(expected, watch, |out| {
            changeset::reassemble_from(&dir, layer.side(), &substitutes, out, &watch).map(drop)
        })?;
        Ok(unpacked.finished)
    }

    /// Sound files of the store with these contents.
    fn siblings(
        &self,
        mut wanted: HashSet<Content>,
        watch: Watch<'_>,
    ) -> Result<HashMap<Content, File>> {
        let mut found = HashMap::new();
        for key in self.store.layers()? {
            watch.check()?;
            if wanted.is_empty() {
                break;
            }
            let Some(layer) = self.store.find_layer(&key)? else { continue };
            let Ok(dir) = layer.open() else { continue };
            let namespace = self.store.namespace();
            for (content, file) in changeset::supply(&dir, layer.side(), namespace, &wanted)? {
                wanted.remove(&content);
                found.insert(content, file);
            }
        }
        Ok(found)
    }
}

/// A changeset, or what became of it already.
enum Source {
    Reader(Box<dyn Read + Send>),
    Finished(FinishedLayer),
}

impl Given<'_> {
    fn open(&mut self, diff_id: &DiffId) -> Result<Option<Source>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Unpacked(layers) => Ok(layers.remove(diff_id).map(Source::Finished)),
            Self::Callback(give) => Ok(give(diff_id)?.map(Source::Reader)),
            Self::Changeset(path, there) if there == diff_id => {
                Ok(Some(Source::Reader(Box::new(open_file(path)?))))
            }
            Self::Changeset(..) => Ok(None),
            Self::Source(source) => {
                let mut layers = source.images().iter().flat_map(|image| &image.layers);
                match layers.find(|layer| layer.diff_id == *diff_id) {
                    Some(layer) => {
                        source.open_layer(layer).map(|reader| Some(Source::Reader(reader)))
                    }
                    None => Ok(None),
                }
            }
        }
    }
}

/// Keeps the layers that are wanted of an archive that passes.
struct Sink<'a> {
    driver: &'a Driver,
    wanted: &'a BTreeSet<DiffId>,
    ownership: Option<Ownership>,
    unpacked: BTreeMap<DiffId, FinishedLayer>,
    watch: Watch<'a>,
}

impl LayerSink for Sink<'_> {
    fn layer(&mut self, name: &str, reader: &mut dyn Read) -> Result<LayerSeen> {
        let ownership = self.ownership;
        let expected = Expected { subject: name, ownership, ..Expected::default() };
        let Unpacked { finished, applied } = self.driver.unpack(reader, expected, self.watch)?;
        if self.wanted.contains(&applied.diff_id) {
            self.unpacked.insert(applied.diff_id, finished);
        }
        let (diff_id, digest, size) = (applied.diff_id, applied.digest, applied.read_bytes);
        Ok(LayerSeen { diff_id, digest, size })
    }
}

fn diff_of(key: &LayerKey) -> Option<DiffId> {
    match key {
        LayerKey::Diff(diff_id) => Some(*diff_id),
        LayerKey::Chain(_) => None,
    }
}

fn open_file(path: &Path) -> Result<BufReader<File>> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file =
        rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, rustix::fs::Mode::empty()))
            .during("open", path)?;
    Ok(BufReader::with_capacity(256 << 10, file.into()))
}

/// What a file is the changeset of, if it is one.
fn diff_id_of(path: &Path, watch: &Watch<'_>) -> Result<DiffId> {
    let (compression, whole) = Compression::sniff(open_file(path)?).during("read", path)?;
    let mut plain = Hashing::new(compression.decoder(whole)?);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match plain.read(&mut buffer) {
            Ok(0) => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => drop(read.during("read", path)?),
        }
        watch.check()?;
    }
    Ok(DiffId::new(plain.finish().0))
}
