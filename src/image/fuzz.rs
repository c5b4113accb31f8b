//! What fuzzing tries here: names, and archives of images with all their documents.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "compiled for tests and fuzzing alone"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};

use super::{
    Commit, ImageEntry, ImageToWrite, LayerSeen, LayerSink, LayerSource, Opened, Platform,
    ReadOptions, Reference, WriteOptions, commit_config, diff_ids, history_rows, open,
    parse_config, read_stream, write_docker_archive, write_oci_tar,
};
use crate::compression::Compression;
use crate::digest::{DiffId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fuzz_bed::{self, Scratch};

/// The names of images and machines.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<Reference>() {
        let again = |text: String| text.parse::<Reference>();
        assert_eq!(again(name.to_string()).as_ref().ok(), Some(&name), "as it is printed");
        assert_eq!(again(name.canonical()).as_ref().ok(), Some(&name), "in full");
        assert!(name.tag().is_some() || name.digest().is_some());
        if let Ok(tagged) = name.with_tag("x") {
            assert_eq!(tagged.to_string().parse::<Reference>().ok(), Some(tagged));
        }
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().ok().as_ref(), Some(&platform));
        assert!(platform.distance(&platform).is_none_or(|distance| distance == 0));
        let _ = Platform::host().distance(&platform);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(how) = text.parse::<Compression>() {
        assert_eq!(how.to_string(), text);
    }
}

/// Takes layers, and keeps what they are uncompressed.
#[derive(Default)]
struct Layers(BTreeMap<DiffId, Vec<u8>>);

impl LayerSink for Layers {
    fn layer(&mut self, name: &str, reader: &mut dyn Read) -> Result<LayerSeen> {
        let mut stored = Vec::new();
        reader.read_to_end(&mut stored).during("read", name)?;
        let (digest, size) = (Digest::of(&stored), stored.len() as u64);
        let mut plain = Vec::new();
        let decoder = Compression::detect(&stored).decoder(&stored[..])?;
        decoder.take(1 << 22).read_to_end(&mut plain).during("decompress", name)?;
        let diff_id = DiffId::new(Digest::of(&plain));
        self.0.insert(diff_id, plain);
        Ok(LayerSeen { diff_id, digest, size })
    }
}

impl LayerSource for Layers {
    fn size(&self, layer: &DiffId) -> Result<u64> {
        Ok(self.find(layer)?.len() as u64)
    }

    fn write_to(&self, layer: &DiffId, out: &mut dyn Write) -> Result<()> {
        out.write_all(self.find(layer)?).during("write", "layer")
    }
}

impl Layers {
    fn find(&self, layer: &DiffId) -> Result<&Vec<u8>> {
        self.0.get(layer).ok_or_else(|| Error::new(ErrorKind::NotFound, layer.to_string()))
    }
}

/// What is the same however an archive is read.
fn shown(image: &ImageEntry) -> String {
    let layers: Vec<_> = image.layers.iter().map(|layer| (layer.diff_id, layer.digest)).collect();
    let ImageEntry { id, names, tag, manifest, .. } = image;
    format!("{id} {names:?} {tag:?} {manifest:?} {layers:?}")
}

/// Any bytes as an archive that passes once, and as one that lies on disk: both tell the same, what
/// is told is true, and it is written and read again as the same images.
pub(crate) fn archive(data: &[u8]) {
    let archive = fuzz_bed::archive(data);
    let mut layers = Layers::default();
    let streamed = read_stream(&archive[..], &mut layers, &ReadOptions::default());
    on_disk(&archive, &streamed);
    let Ok(images) = streamed else { return };
    for image in &images {
        assert_eq!(Digest::of(&image.config_bytes), image.id);
        let ids = diff_ids(&image.config).unwrap();
        assert!(ids.iter().eq(image.layers.iter().map(|layer| &layer.diff_id)));
        assert!(ids.iter().all(|id| layers.0.contains_key(id)), "a layer that never passed");
        assert_eq!(
            image.platform(),
            image.platform().to_string().parse().unwrap_or(image.platform())
        );
        committed(&image.config_bytes, &ids);
    }
    written(&images, &layers);
}

fn on_disk(archive: &[u8], streamed: &Result<Vec<ImageEntry>>) {
    let scratch = Scratch::new();
    let path = scratch.path().join("archive");
    std::fs::write(&path, archive).unwrap();
    match (open(&path, &ReadOptions::default()), streamed) {
        (Ok(Opened::Stream(_)), _) => {
            assert_ne!(Compression::detect(archive), Compression::None);
        }
        (Ok(Opened::Source(source)), Ok(streamed)) => {
            let [one, other] = [source.images(), streamed.as_slice()]
                .map(|images| images.iter().map(shown).collect::<Vec<_>>());
            assert_eq!(one, other);
            for layer in source.images().iter().flat_map(|image| &image.layers) {
                let mut stored = Vec::new();
                source.open_layer(layer).unwrap().read_to_end(&mut stored).unwrap();
                assert!(layer.digest.is_none_or(|digest| digest == Digest::of(&stored)));
            }
        }
        // Nobody looked at the layers yet.
        (Ok(Opened::Source(_)), Err(error)) => assert!(!error.to_string().is_empty()),
        (Err(error), Ok(_)) => {
            assert!(Compression::None != Compression::detect(archive), "{error}")
        }
        (Err(_), Err(_)) => {}
    }
}

/// One more layer on top, and one more step.
fn committed(config: &[u8], ids: &[DiffId]) {
    let new = DiffId::new(Digest::of(b"new"));
    let bytes = commit_config(Some(config), Some(&new), &Commit::default()).unwrap();
    let parsed = parse_config(&bytes).unwrap();
    let now = diff_ids(&parsed).unwrap();
    assert!(now.strip_prefix(ids).is_some_and(|rest| rest == [new]));
    let rows = history_rows(&parsed);
    let made: Vec<usize> = rows.iter().filter_map(|row| row.layer).collect();
    assert!(made.iter().copied().eq(0..now.len()), "{made:?}");
    assert_eq!(rows.last().and_then(|row| row.layer), Some(ids.len()));
}

/// The images, written in each form, are read as the same images.
fn written(images: &[ImageEntry], layers: &Layers) {
    let list: Vec<_> = images
        .iter()
        .map(|image| ImageToWrite { config: &image.config_bytes, names: &image.names })
        .collect();
    let options = WriteOptions::default();
    let forms = [write_oci_tar, write_docker_archive];
    for write in forms {
        let mut out = Vec::new();
        write(&mut out, &list, layers, &options).unwrap();
        let mut seen = Layers::default();
        let any = |platform: Platform| ReadOptions::default().platform(platform);
        for image in images {
            let read = read_stream(&out[..], &mut seen, &any(image.platform())).unwrap();
            let same = read.iter().find(|other| other.id == image.id);
            let same = same.unwrap_or_else(|| panic!("{} is not there", image.id));
            assert!(
                same.layers.iter().map(|l| l.diff_id).eq(image.layers.iter().map(|l| l.diff_id))
            );
            assert!(
                image.names.iter().all(|name| name.digest().is_some() || same.names.contains(name))
            );
        }
    }
}
