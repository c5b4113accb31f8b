//! Images into the store: layers unpacked side by side, each made durable before it has a name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use super::Driver;
use super::layer::{Expected, Unpacked};
use crate::changeset::{self, ApplyLimits};
use crate::digest::{DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{
    self, ImageEntry, ImageSource, LayerBlob, LayerSeen, LayerSink, Opened, ReadOptions, Reference,
};
use crate::store::{
    FinishedLayer, LayerKey, LeasedChain, LeasedLayer, NewImage, Reserved, Retention,
};
use crate::sys::parallel::Workers;
use crate::sys::{self, parallel};
use crate::watch::{Phase, Progress, Watch};

/// How images are loaded.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// For which machine, of an image that is there for several.
    pub read: ReadOptions,
    /// What the image is called where its archive does not say.
    pub name: Option<String>,
    /// Bounds on what each changeset may hold.
    pub limits: ApplyLimits,
    /// How many layers are unpacked at once, and how many threads make files for all of them. 0: as
    /// many as there are processors.
    pub threads: usize,
    /// Bytes of memory for layers in hand, each of which takes up to 8 MiB: fewer are unpacked at once
    /// where there is not enough, but always one. 0: 64 MiB. What the format asks for comes on top: the
    /// window of zstd, usually 2 to 8 MiB and 128 MiB at most, and names of directories and marks.
    pub memory: u64,
}

/// What one layer has in hand while it is unpacked, in bytes: buffers on their way from one thread to
/// another, some 5 MiB, and what its decoder and its encoders hold.
const LAYER_MEMORY: u64 = 8 << 20;

/// Memory for layers where nobody says, in bytes.
const USUAL_MEMORY: u64 = 64 << 20;

impl LoadOptions {
    /// How many of so many layers are unpacked at once.
    fn at_once(&self, layers: usize) -> usize {
        let memory = if self.memory == 0 { USUAL_MEMORY } else { self.memory };
        let afforded = usize::try_from(memory / LAYER_MEMORY).unwrap_or(usize::MAX).max(1);
        parallel::threads(self.threads).min(afforded).min(layers)
    }
}

/// An image that was loaded.
#[non_exhaustive]
#[derive(Clone, Debug, serde::Serialize)]
pub struct LoadedImage {
    /// The sha256 of its config.
    pub id: Digest,
    /// What it is called now.
    pub names: Vec<String>,
}

/// Layers that are held until a chain stands on them.
type Leases = BTreeMap<DiffId, LeasedLayer>;

impl Driver {
    /// Loads the images at `path`: an OCI image layout (directory or tar) or a docker-archive.
    ///
    /// Layers that are in the store already are not read. An image without a name of its own gets
    /// [`LoadOptions::name`], else that of the file or directory.
    ///
    /// # Errors
    /// As [`image::open`] and [`changeset::apply`](crate::changeset::apply); the store is then as it
    /// was before.
    pub fn load(
        &self,
        path: impl AsRef<Path>,
        options: &LoadOptions,
        watch: Watch<'_>,
    ) -> Result<Vec<LoadedImage>> {
        let path = path.as_ref();
        let fallback = options.name.clone().or_else(|| name_of(path));
        let loaded = match image::open(path, &options.read)? {
            Opened::Source(source) => self.load_source(&source, fallback, options, watch),
            Opened::Stream(file) => self.load_named(file, fallback, options, watch),
        };
        loaded.map_err(|error| error.within(format_args!("load {}", path.display())))
    }

    /// Loads the images of an archive that passes once, such as standard input.
    ///
    /// No layer is written anywhere but into the store.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_stream(
        &self,
        reader: impl Read,
        options: &LoadOptions,
        watch: Watch<'_>,
    ) -> Result<Vec<LoadedImage>> {
        self.load_named(reader, options.name.clone(), options, watch)
            .map_err(|error| error.within("load archive"))
    }

    fn load_named(
        &self,
        reader: impl Read,
        fallback: Option<String>,
        options: &LoadOptions,
        watch: Watch<'_>,
    ) -> Result<Vec<LoadedImage>> {
        let workers = changeset::workers(options.threads);
        let mut sink =
            Sink { driver: self, options, watch, workers: &workers, unpacked: BTreeMap::new() };
        let reader = watch.reading(reader);
        let entries = image::read_stream(reader, &mut sink, &options.read)?;
        let wanted: BTreeSet<DiffId> =
            entries.iter().flat_map(|entry| &entry.layers).map(|layer| layer.diff_id).collect();
        let mut unpacked = sink.unpacked;
        unpacked.retain(|diff_id, _| wanted.contains(diff_id));
        let leased = self.store.commit_layers(unpacked.into_values().collect())?;
        let mut leases = Leases::new();
        for layer in leased {
            leases.insert(layer.record()?.diff_id, layer);
        }
        let mut chains = Vec::with_capacity(entries.len());
        for entry in &entries {
            let layers = entry.layers.iter().map(|blob| self.lease(blob, &leases));
            chains.push(self.optional_chain(None, layers.collect::<Result<_>>()?, watch)?);
        }
        self.add_images(&entries, chains, fallback.as_deref())
    }

    /// A layer that was committed a moment ago, or was in the store before.
    fn lease(&self, blob: &LayerBlob, leases: &Leases) -> Result<LeasedLayer> {
        // A diff may stand in a stack more than once, and in several images; it goes where none of
        // them comes to be.
        if let Some(layer) = leases.get(&blob.diff_id) {
            return layer.again();
        }
        self.store.find_layer(&LayerKey::Diff(blob.diff_id))?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("layer {} is not in the archive, nor in the store", blob.diff_id),
            )
        })
    }

    fn load_source(
        &self,
        source: &ImageSource,
        fallback: Option<String>,
        options: &LoadOptions,
        watch: Watch<'_>,
    ) -> Result<Vec<LoadedImage>> {
        let mut chains = Vec::with_capacity(source.images().len());
        for entry in source.images() {
            let mut chain = None;
            // A layer takes a few descriptors until its chain stands.
            for batch in entry.layers.chunks(batch_size()) {
                let layers = self.layers_of(source, batch, options, watch)?;
                chain = self.optional_chain(chain, layers, watch)?;
            }
            chains.push(chain);
        }
        self.add_images(source.images(), chains, fallback.as_deref())
    }

    /// The layers of a batch, in its order: those that were there and those that are unpacked.
    fn layers_of(
        &self,
        source: &ImageSource,
        batch: &[LayerBlob],
        options: &LoadOptions,
        watch: Watch<'_>,
    ) -> Result<Vec<LeasedLayer>> {
        let mut blobs = BTreeMap::new();
        for blob in batch {
            blobs.entry(blob.diff_id).or_insert(blob);
        }
        let (mut leases, mut busy) = (Leases::new(), Vec::new());
        let (mut reservations, mut wanted) = (Vec::new(), Vec::new());
        for (diff_id, blob) in blobs {
            match self.store.try_reserve(&LayerKey::Diff(diff_id))? {
                Reserved::Ready(layer) => {
                    report(&format!("layer {diff_id}"), Phase::Exists, blob.size, 0, watch)?;
                    leases.insert(diff_id, layer);
                }
                Reserved::Yours(reservation) => {
                    reservations.push(reservation);
                    wanted.push(blob);
                }
                Reserved::Busy => busy.push(blob),
            }
        }
        let finished = self.unpack_all(source, wanted, options, watch)?;
        for layer in self.store.commit_layers(finished)? {
            leases.insert(layer.record()?.diff_id, layer);
        }
        drop(reservations);
        // Only now, holding no reservation: whoever has these may wait for ours.
        for blob in busy {
            let layer = self.wait_for(source, blob, options, watch)?;
            leases.insert(blob.diff_id, layer);
        }
        batch.iter().map(|blob| self.lease(blob, &leases)).collect()
    }

    fn wait_for(
        &self,
        source: &ImageSource,
        blob: &LayerBlob,
        options: &LoadOptions,
        watch: Watch<'_>,
    ) -> Result<LeasedLayer> {
        let key = LayerKey::Diff(blob.diff_id);
        match self.store.reserve(&key, &watch)? {
            Reserved::Ready(layer) => Ok(layer),
            _ => {
                let finished = self.unpack_all(source, vec![blob], options, watch)?;
                let mut leased = self.store.commit_layers(finished)?;
                leased
                    .pop()
                    .ok_or_else(|| Error::new(ErrorKind::Io, format!("layer {key} is lost")))
            }
        }
    }

    /// Unpacks layers side by side, largest first.
    fn unpack_all(
        &self,
        source: &ImageSource,
        mut blobs: Vec<&LayerBlob>,
        options: &LoadOptions,
        watch: Watch<'_>,
    ) -> Result<Vec<FinishedLayer>> {
        blobs.sort_by_key(|blob| blob.size);
        let threads = options.at_once(blobs.len());
        let workers = changeset::workers(options.threads);
        let pending = Mutex::new(blobs);
        let results = Mutex::new((Vec::new(), None));
        let work = || {
            while let Some(blob) = take(&pending) {
                let result = self.unpack_blob(source, blob, (options, &workers), watch);
                let mut results = lock(&results);
                match result {
                    Ok(unpacked) => results.0.push(unpacked.finished),
                    Err(error) => {
                        // The first error is the one that is told; the others end soon.
                        lock(&pending).clear();
                        results.1.get_or_insert(error);
                    }
                }
            }
        };
        parallel::side_by_side(threads, work);
        let (finished, failed) =
            results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        match failed {
            Some(error) => Err(error),
            None => Ok(finished),
        }
    }

    fn unpack_blob(
        &self,
        source: &ImageSource,
        blob: &LayerBlob,
        (options, workers): (&LoadOptions, &Workers),
        watch: Watch<'_>,
    ) -> Result<Unpacked> {
        let subject = format!("layer {}", blob.diff_id);
        let expected = Expected {
            diff_id: Some(blob.diff_id),
            digest: blob.digest,
            subject: &subject,
            bytes: Some(blob.size),
            limits: Some(&options.limits),
            workers: Some(workers),
            ownership: None,
        };
        let unpacked = self.unpack(source.open_layer(blob)?, expected, watch)?;
        report(&subject, Phase::Done, blob.size, unpacked.applied.entries, watch)?;
        Ok(unpacked)
    }

    fn optional_chain(
        &self,
        parent: Option<LeasedChain>,
        mut layers: Vec<LeasedLayer>,
        watch: Watch<'_>,
    ) -> Result<Option<LeasedChain>> {
        if layers.is_empty() {
            return Ok(parent);
        }
        self.stack_up(parent, &mut layers, Retention::WhileUsed, watch).map(Some)
    }

    /// Adds the images of an archive, each on its chain, once all chains stand: an archive that is
    /// damaged leaves none of them.
    fn add_images(
        &self,
        entries: &[ImageEntry],
        chains: Vec<Option<LeasedChain>>,
        fallback: Option<&str>,
    ) -> Result<Vec<LoadedImage>> {
        let names = entries.iter().map(|entry| names_of(entry, fallback));
        let names = names.collect::<Result<Vec<_>>>()?;
        let mut loaded: Vec<LoadedImage> = Vec::with_capacity(entries.len());
        for ((entry, chain), names) in entries.iter().zip(chains).zip(names) {
            let diff_ids = entry.layers.iter().map(|layer| layer.diff_id).collect();
            let image = self.put_image(&entry.config_bytes, diff_ids, chain, &names)?;
            // A name belongs to the last that has it.
            for other in loaded.iter_mut().filter(|other| other.id != image.id) {
                other.names.retain(|name| !image.names.contains(name));
            }
            loaded.push(image);
        }
        Ok(loaded)
    }

    /// Adds an image, or finds that it is there, and gives it its names.
    pub(super) fn put_image(
        &self,
        config: &[u8],
        diff_ids: Vec<DiffId>,
        chain: Option<LeasedChain>,
        names: &[String],
    ) -> Result<LoadedImage> {
        let new = NewImage { config, diff_ids: &diff_ids, manifest: None };
        let id = self.store.add_named_image(chain.as_ref(), &new, names)?.record().id;
        Ok(LoadedImage { id, names: names.to_vec() })
    }
}

/// Unpacks layers as they pass.
struct Sink<'a> {
    driver: &'a Driver,
    options: &'a LoadOptions,
    watch: Watch<'a>,
    workers: &'a Workers,
    unpacked: BTreeMap<DiffId, FinishedLayer>,
}

impl LayerSink for Sink<'_> {
    fn layer(&mut self, name: &str, reader: &mut dyn Read) -> Result<LayerSeen> {
        let (limits, workers) = (Some(&self.options.limits), Some(self.workers));
        let expected = Expected { subject: name, limits, workers, ..Expected::default() };
        let Unpacked { finished, applied } = self.driver.unpack(reader, expected, self.watch)?;
        self.unpacked.entry(applied.diff_id).or_insert(finished);
        let (diff_id, digest, size) = (applied.diff_id, applied.digest, applied.read_bytes);
        Ok(LayerSeen { diff_id, digest, size })
    }
}

/// What an image is called: as its archive says, else `fallback`, with the tag that the archive says
/// where that has none.
fn names_of(entry: &ImageEntry, fallback: Option<&str>) -> Result<Vec<String>> {
    let told = entry.names.iter().filter_map(|name| name.of_manifest(entry.manifest.as_ref()));
    let names: Vec<String> = told.map(|name| name.to_string()).collect();
    let Some(fallback) = fallback.filter(|_| names.is_empty()) else { return Ok(names) };
    let name: Reference = fallback.parse()?;
    if name.digest().is_some_and(|digest| entry.manifest != Some(*digest)) {
        let message = format!("{name} names a digest, which is not the image's");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let has_tag = fallback.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    // What the archive says may be no tag, which is no error.
    let tagged = entry.tag.as_ref().filter(|_| !has_tag).and_then(|tag| name.with_tag(tag).ok());
    Ok(vec![tagged.unwrap_or(name).to_string()])
}

/// What an image is called whose archive does not say: its file's name, made a reference.
fn name_of(path: &Path) -> Option<String> {
    let absolute = std::path::absolute(path).ok()?;
    let name = absolute.file_name()?.to_str()?.to_lowercase();
    let known = [".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.zstd", ".gz", ".zst"];
    let stem = known.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    let plain = |letter: char| match letter {
        'a'..='z' | '0'..='9' | '.' | '_' | '-' => letter,
        _ => '-',
    };
    let cleaned: String = stem.chars().map(plain).collect();
    let cleaned = cleaned.trim_matches(['.', '_', '-']).to_owned();
    cleaned.parse::<Reference>().ok().map(|_| cleaned)
}

/// How many layers are in hand at once, each with a few descriptors.
fn batch_size() -> usize {
    (sys::most_descriptors().saturating_sub(32) / 8).clamp(4, 512)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a thread that panicked left behind is still whole: nothing is half done under the lock.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn take<T>(pending: &Mutex<Vec<T>>) -> Option<T> {
    lock(pending).pop()
}

/// Tells an observer what became of a layer.
fn report(subject: &str, phase: Phase, bytes: u64, entries: u64, watch: Watch<'_>) -> Result<()> {
    watch.report(&Progress { subject, phase, bytes, total_bytes: Some(bytes), entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processors_bound_what_is_unpacked_at_once() {
        let at_once = |threads, memory, layers| {
            LoadOptions { threads, memory, ..LoadOptions::default() }.at_once(layers)
        };
        assert_eq!(at_once(100, 0, 50), 8);
        assert_eq!(at_once(100, 1, 50), 1);
        assert_eq!(at_once(100, 200 << 20, 50), 25);
        assert_eq!(at_once(100, u64::MAX, 50), 50);
        assert_eq!(at_once(3, u64::MAX, 50), 3);
        assert!(at_once(0, 0, 50) >= 1);
    }
}
