//! What is written: read back, the same each time, and checked on the way.

use std::io::Write;
use std::path::Path;

use super::fixture::{Sample, read};
use super::write::{ImageToWrite, LayerSource, WriteOptions};
use super::{
    ImageSource, ReadOptions, Reference, write_docker_archive, write_oci_dir, write_oci_tar,
};
use crate::compression::Compression;
use crate::digest::DiffId;
use crate::error::{Error, ErrorKind, Result};

type WriteArchive =
    fn(&mut dyn Write, &[ImageToWrite<'_>], &dyn LayerSource, &WriteOptions<'_>) -> Result<()>;

const ARCHIVES: [WriteArchive; 2] = [write_oci_tar, write_docker_archive];

const COMPRESSIONS: &[Compression] = &[
    Compression::None,
    #[cfg(feature = "gzip")]
    Compression::Gzip,
    #[cfg(feature = "zstd")]
    Compression::Zstd,
];

fn names(texts: &[&str]) -> Vec<Reference> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn entries(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read_back_and_is_the_same_each_time() {
    let sample = Sample::new(&["a", "b", "a"]);
    let called = names(&["x:1", "localhost/y:2"]);
    let images = [ImageToWrite { config: &sample.config, names: &called }];
    for write in ARCHIVES {
        for compression in COMPRESSIONS {
            let options = WriteOptions::default().compression(*compression).mtime(1_000_000_000);
            let (mut archive, mut again) = (Vec::new(), Vec::new());
            write(&mut archive, &images, &sample, &options).unwrap();
            write(&mut again, &images, &sample, &options).unwrap();
            assert!(archive == again, "{compression}");
            let found = read(&archive, &ReadOptions::default()).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].id, sample.id());
            assert_eq!(found[0].config_bytes, sample.config);
            assert_eq!(found[0].names, called);
            assert_eq!(found[0].layers.len(), 3);
            let mut plain = ::tar::Archive::new(&archive[..]);
            for entry in plain.entries().unwrap() {
                assert_eq!(entry.unwrap().header().mtime().unwrap(), 1_000_000_000);
            }
        }
    }
}

#[test]
fn images_that_share_layers_are_written_together() {
    let (one, two) = (Sample::new(&["a"]), Sample::new(&["a", "b"]));
    let called = names(&["one"]);
    let images = [
        ImageToWrite { config: &one.config, names: &called },
        ImageToWrite { config: &two.config, names: &[] },
    ];
    for write in ARCHIVES {
        let mut archive = Vec::new();
        write(&mut archive, &images, &two, &WriteOptions::default()).unwrap();
        // A layer's content is a run of its name.
        let marker = "a".repeat(700);
        let copies = archive.windows(700).filter(|part| *part == marker.as_bytes()).count();
        assert_eq!(copies, 1);
        let ids: Vec<_> = read(&archive, &ReadOptions::default()).unwrap();
        assert_eq!(ids.iter().map(|it| it.id).collect::<Vec<_>>(), [one.id(), two.id()]);
        assert_eq!(
            write(&mut archive, &[], &two, &WriteOptions::default()).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}

type Lie = fn(&[u8]) -> Result<Vec<u8>>;

/// A source that does not give what it was asked for.
struct Liar<'a>(&'a Sample, Lie);

impl LayerSource for Liar<'_> {
    fn size(&self, layer: &DiffId) -> Result<u64> {
        self.0.size(layer)
    }

    fn write_to(&self, layer: &DiffId, out: &mut dyn Write) -> Result<()> {
        let mut bytes = Vec::new();
        self.0.write_to(layer, &mut bytes)?;
        out.write_all(&(self.1)(&bytes)?).map_err(|error| match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => panic!("{error}"),
        })
    }
}

#[test]
fn a_layer_that_is_not_what_its_diff_id_says_is_refused_and_nothing_is_left() {
    let sample = Sample::new(&["a"]);
    let images = [ImageToWrite { config: &sample.config, names: &[] }];
    let lies: [(Lie, ErrorKind); 4] = [
        (|bytes| Ok(bytes.iter().map(|byte| byte ^ 1).collect()), ErrorKind::DigestMismatch),
        (|bytes| Ok(bytes[1..].to_vec()), ErrorKind::DigestMismatch),
        (|bytes| Ok([bytes, b"x"].concat()), ErrorKind::InvalidData),
        (|_| Err(Error::new(ErrorKind::NoSpace, "full")), ErrorKind::NoSpace),
    ];
    for (lie, kind) in lies {
        let source = Liar(&sample, lie);
        for compression in COMPRESSIONS {
            let options = WriteOptions::default().compression(*compression);
            for write in ARCHIVES {
                let error = write(&mut Vec::new(), &images, &source, &options).unwrap_err();
                assert_eq!(error.kind(), kind, "{error}");
            }
            let outer = tempfile::tempdir().unwrap();
            let path = outer.path().join("layout");
            let error = write_oci_dir(&path, &images, &source, &options).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(entries(outer.path()).is_empty());
        }
    }
}

#[test]
fn a_layout_grows_and_names_move() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("layout");
    std::fs::create_dir(&path).unwrap();
    let options = WriteOptions::default();
    let write = |sample: &Sample, texts: &[&str]| {
        let called = names(texts);
        let images = [ImageToWrite { config: &sample.config, names: &called }];
        write_oci_dir(&path, &images, sample, &options).unwrap();
        let source = ImageSource::open(&path, &ReadOptions::default()).unwrap();
        let found = source.images().iter().map(|image| (image.id, image.names.clone()));
        found.collect::<Vec<_>>()
    };
    let (one, two) = (Sample::new(&["a"]), Sample::new(&["a", "b"]));
    let first = (one.id(), names(&["x:1", "x:2"]));
    assert_eq!(write(&one, &["x:1", "x:2"]), [first]);
    let expected = [(one.id(), names(&["x:1"])), (two.id(), names(&["x:2"]))];
    assert_eq!(write(&two, &["x:2"]), expected);
    assert_eq!(write(&two, &["x:2"]), expected);
    assert_eq!(write(&two, &[]).len(), 2);
    assert_eq!(entries(&path), ["blobs", "index.json", "oci-layout"]);
    assert_eq!(entries(&path.join("blobs/sha256")).len(), 2 + 2 * 2);
    assert_eq!(entries(outer.path()), ["layout"]);
}

#[test]
fn what_is_no_layout_is_not_touched() {
    let outer = tempfile::tempdir().unwrap();
    let sample = Sample::new(&["a"]);
    let images = [ImageToWrite { config: &sample.config, names: &[] }];
    let options = WriteOptions::default();
    std::fs::create_dir_all(outer.path().join("home/data")).unwrap();
    let error = write_oci_dir(outer.path().join("home"), &images, &sample, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(entries(&outer.path().join("home")), ["data"]);
    for nowhere in ["none/layout", "home/.."] {
        assert!(write_oci_dir(outer.path().join(nowhere), &images, &sample, &options).is_err());
    }
    assert_eq!(entries(outer.path()), ["home"]);
}

#[test]
fn work_is_observed_and_stopped() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use crate::watch::{Progress, Watch};
    let sample = Sample::new(&["a"]);
    let images = [ImageToWrite { config: &sample.config, names: &[] }];
    let (most, cancel) = (AtomicU64::new(0), AtomicBool::new(false));
    let observer = |progress: &Progress<'_>| {
        assert_eq!(progress.total_bytes, Some(sample.layers[0].len() as u64));
        most.fetch_max(progress.bytes, Relaxed);
        cancel.store(true, Relaxed);
    };
    let watched = WriteOptions::default().watch(Watch::new().observer(&observer));
    write_oci_tar(&mut Vec::new(), &images, &sample, &watched).unwrap();
    assert_eq!(most.load(Relaxed), sample.layers[0].len() as u64);
    let stopped = WriteOptions::default().watch(Watch::new().observer(&observer).cancel(&cancel));
    let error = write_oci_tar(&mut Vec::new(), &images, &sample, &stopped).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
