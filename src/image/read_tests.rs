//! What is read, and what is refused: each archive by way of a file and as a stream.

use std::io::Read;

use serde_json::{Value, json};

use super::fixture::{
    Bytes, File, HardLink, INDEX, LAYER, Layout, MANIFEST, Sample, Sink, Symlink, read, tar, with,
};
use super::{ImageSource, Opened, ReadOptions, open, read_stream};
use crate::digest::Digest;
use crate::error::ErrorKind;

fn names(image: &super::ImageEntry) -> Vec<String> {
    image.names.iter().map(ToString::to_string).collect()
}

/// The kind and the words of the error with which both ways of reading fail.
fn refused(archive: &[u8]) -> (ErrorKind, String) {
    let error = read(archive, &ReadOptions::default()).map(drop).unwrap_err();
    (error.kind(), error.to_string())
}

fn read_one(archive: &[u8]) -> super::ImageEntry {
    let mut images = read(archive, &ReadOptions::default()).unwrap();
    assert_eq!(images.len(), 1);
    images.remove(0)
}

/// A docker-archive's `manifest.json`.
fn docker_manifest(sample: &Sample, layers: &[&str], tags: Value) -> String {
    let config = format!("{}.json", sample.id().hex());
    json!([{"Config": config, "RepoTags": tags, "Layers": layers}]).to_string()
}

#[test]
fn a_docker_archive_of_the_old_layout_is_read() {
    let sample = Sample::new(&["a", "b", "a"]);
    let config = format!("{}.json", sample.id().hex());
    let layers = ["one/layer.tar", "two/layer.tar", "three/layer.tar"];
    let archive = tar(&[
        ("./one/VERSION", File("1.0".to_owned())),
        ("./one/json", File("{}".to_owned())),
        ("./one/layer.tar", Bytes(sample.layers[0].clone())),
        ("./two/layer.tar", HardLink("real.tar")),
        ("./three/layer.tar", Symlink("../one/layer.tar")),
        (&config, Bytes(sample.config.clone())),
        ("manifest.json", File(docker_manifest(&sample, &layers, json!(["x/y:1", "z"])))),
        ("real.tar", Bytes(sample.layers[1].clone())),
    ]);
    let image = read_one(&archive);
    assert_eq!(image.id, sample.id());
    assert_eq!(image.config_bytes, sample.config);
    assert_eq!(names(&image), ["x/y:1", "z:latest"]);
    assert_eq!((image.layers.len(), image.layers[0].digest), (3, None));
}

#[test]
fn a_layout_with_a_docker_manifest_beside_it_has_the_names_of_both() {
    let sample = Sample::new(&["a"]);
    let mut layout = Layout::of(&sample);
    let annotations = json!({
        "io.containerd.image.name": "docker.io/library/x:1",
        "org.opencontainers.image.ref.name": "1",
    });
    let one = with(layout.manifests[0].clone(), "annotations", annotations);
    let two = json!({"org.opencontainers.image.ref.name": "host/y:2"});
    let two = with(layout.manifests[0].clone(), "annotations", two);
    layout.manifests = vec![one, two];
    let config = format!("blobs/sha256/{}", sample.id().hex());
    let manifest = json!([{"Config": config, "RepoTags": ["x:1", "w:3"], "Layers": null}]);
    layout.files.insert("manifest.json".to_owned(), manifest.to_string().into_bytes());
    layout.files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    let image = read_one(&layout.tar());
    assert_eq!(names(&image), ["x:1", "host/y:2", "w:3"]);
    assert_eq!(image.tag.as_deref(), Some("1"));
    layout.files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec());
    assert_eq!(refused(&layout.tar()).0, ErrorKind::Unsupported);
}

#[test]
fn an_image_for_the_platform_is_chosen_among_nested_indexes() {
    let (amd, arm) = (Sample::new(&["a"]), Sample::on("arm64", &["b"]));
    let mut layout = Layout::default();
    let platform = |arch: &str| json!({"os": "linux", "architecture": arch});
    let amd_manifest = with(layout.image(&amd), "platform", platform("amd64"));
    // The index does not say for what this one is; its config does.
    let arm_manifest = layout.image(&arm);
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    let attestation = with(layout.blob(MANIFEST, b"{}"), "platform", unknown);
    let listed = [amd_manifest, arm_manifest, attestation];
    let docker_list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let inner = json!({"schemaVersion": 2, "manifests": listed}).to_string();
    let inner = layout.blob(docker_list, inner.as_bytes());
    let outer = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}).to_string();
    let outer = layout.blob(INDEX, outer.as_bytes());
    layout.manifests.push(outer);
    let archive = layout.tar();
    for (platform, id) in [("linux/amd64", amd.id()), ("linux/arm64/v8", arm.id())] {
        let options = ReadOptions::default().platform(platform.parse().unwrap());
        let images = read(&archive, &options).unwrap();
        assert_eq!((images.len(), images[0].id), (1, id), "{platform}");
    }
    let options = ReadOptions::default().platform("linux/s390x".parse().unwrap());
    let error = read(&archive, &options).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().ends_with("for linux/amd64, linux/arm64"), "{error}");
}

#[test]
fn two_images_and_an_artifact_are_two_images() {
    let (one, two) = (Sample::new(&["a"]), Sample::new(&["b"]));
    let mut layout = Layout::of(&one);
    let second = layout.image(&two);
    layout.manifests.push(second);
    let empty = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = json!({"schemaVersion": 2, "config": empty, "layers": []}).to_string();
    let artifact = layout.blob(MANIFEST, artifact.as_bytes());
    layout.manifests.push(artifact.clone());
    let images = read(&layout.tar(), &ReadOptions::default()).unwrap();
    assert_eq!(images.iter().map(|image| image.id).collect::<Vec<_>>(), [one.id(), two.id()]);
    // What is of no known type may have a digest of any kind.
    let other = json!({"mediaType": "application/x", "digest": "sha512:00", "size": 1});
    layout.manifests.push(other.clone());
    assert_eq!(read(&layout.tar(), &ReadOptions::default()).unwrap().len(), 2);
    layout.manifests = vec![artifact, other];
    let (kind, text) = refused(&layout.tar());
    assert_eq!(kind, ErrorKind::InvalidData);
    let told = "only: 1 application/vnd.oci.empty.v1+json, 1 application/x";
    assert!(text.ends_with(told), "{text}");
}

#[test]
fn embedded_data_and_an_image_without_layers() {
    let sample = Sample::new(&[]);
    let mut layout = Layout::default();
    let mut manifest = layout.manifest(&sample);
    layout.files.clear();
    // {"a":1} and the like would do; this is the config, by hand.
    manifest["config"]["data"] = json!(base64(&sample.config));
    manifest.as_object_mut().unwrap().remove("layers");
    let text = manifest.to_string();
    let mut descriptor = layout.blob(MANIFEST, text.as_bytes());
    layout.files.clear();
    descriptor["data"] = json!(base64(text.as_bytes()));
    layout.manifests.push(descriptor.clone());
    assert_eq!(read_one(&layout.tar()).id, sample.id());
    layout.manifests[0]["data"] = json!(base64(text.replace('{', "[").as_bytes()));
    assert_eq!(refused(&layout.tar()).0, ErrorKind::DigestMismatch);
    layout.manifests[0]["data"] = json!("?");
    assert_eq!(refused(&layout.tar()).0, ErrorKind::InvalidData);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |part: &[u8]| -> String {
        let bits = part.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte));
        let bits = bits << (8 * (3 - part.len()));
        let digit = |at: usize| char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]);
        (0..4).map(|at| if at <= part.len() { digit(at) } else { '=' }).collect()
    };
    bytes.chunks(3).map(digits).collect()
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let sample = Sample::new(&["a", "b"]);
    let layer = Digest::of(&sample.layers[1]);
    let damage = |change: &dyn Fn(&mut Layout)| {
        let mut layout = Layout::of(&sample);
        change(&mut layout);
        refused(&layout.tar())
    };
    let blob = |digest: Digest| format!("blobs/sha256/{}", digest.hex());

    let (kind, text) = damage(&|layout| drop(layout.files.remove(&blob(layer))));
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains(&format!("layer {layer} is missing")), "{text}");
    assert!(text.contains("to which manifest sha256:"), "{text}");

    let (kind, text) = damage(&|layout| drop(layout.files.remove(&blob(sample.id()))));
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains(&format!("config {}", sample.id())), "{text}");

    let spoil = |layout: &mut Layout| layout.files.get_mut(&blob(sample.id())).unwrap()[0] = b' ';
    assert_eq!(damage(&spoil).0, ErrorKind::DigestMismatch);
    let grow = |layout: &mut Layout| layout.files.get_mut(&blob(sample.id())).unwrap().push(b' ');
    assert_eq!(damage(&grow).0, ErrorKind::InvalidData);
    let cut = |layout: &mut Layout| layout.files.get_mut(&blob(layer)).unwrap().truncate(512);
    assert_eq!(damage(&cut).0, ErrorKind::InvalidData);

    let sha512 = json!(format!("sha512:{}", "0".repeat(128)));
    assert_eq!(damage(&|it| it.manifests[0]["digest"] = sha512.clone()).0, ErrorKind::Unsupported);
    for digest in ["sha256:../../etc/passwd", "sha256:00", "", "x"] {
        let (kind, text) = damage(&|it| it.manifests[0]["digest"] = json!(digest));
        assert_eq!(kind, ErrorKind::InvalidData, "{text}");
    }
    let huge = |layout: &mut Layout| layout.manifests[0]["size"] = json!(1u64 << 40);
    assert_eq!(damage(&huge).0, ErrorKind::LimitExceeded);
    assert_eq!(damage(&|layout| layout.manifests.clear()).0, ErrorKind::InvalidData);
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_found_when_it_passes() {
    let sample = Sample::new(&["a"]);
    let config = format!("{}.json", sample.id().hex());
    let archive = |layer: &[u8]| {
        tar(&[
            ("l.tar", Bytes(layer.to_vec())),
            (&config, Bytes(sample.config.clone())),
            ("manifest.json", File(docker_manifest(&sample, &["l.tar"], Value::Null))),
        ])
    };
    assert!(names(&read_one(&archive(&sample.layers[0]))).is_empty());
    let other = Sample::new(&["b"]);
    let stream = |bytes: &[u8]| {
        let archive = archive(bytes);
        read_stream(&archive[..], &mut Sink::default(), &ReadOptions::default())
            .map(drop)
            .unwrap_err()
            .kind()
    };
    assert_eq!(stream(&other.layers[0]), ErrorKind::DigestMismatch);
    assert_eq!(stream(&[b'x'; 100_000]), ErrorKind::InvalidData);
    assert_eq!(stream(b"small, and handed over all the same"), ErrorKind::DigestMismatch);
    let broken =
        if cfg!(feature = "gzip") { ErrorKind::InvalidData } else { ErrorKind::Unsupported };
    assert_eq!(stream(b"\x1f\x8b\x08broken"), broken);
    assert_eq!(stream(b""), ErrorKind::DigestMismatch);
}

#[test]
fn what_no_image_refers_to_may_be_anything() {
    let mut layout = Layout::of(&Sample::new(&["a"]));
    layout.files.insert("blobs/sha256/x".to_owned(), b"\x1f\x8b\x08broken".to_vec());
    layout.files.insert("blobs/sha256/y".to_owned(), b"{broken".to_vec());
    layout.files.insert("blobs/sha256/z".to_owned(), vec![0; 2048]);
    read_one(&layout.tar());
}

#[test]
fn documents_that_could_be_two_things_are_refused() {
    let sample = Sample::new(&["a"]);
    let mut layout = Layout::default();
    let manifest = with(layout.manifest(&sample), "manifests", json!([])).to_string();
    for media_type in [MANIFEST, INDEX] {
        layout.manifests = vec![layout.blob(media_type, manifest.as_bytes())];
        assert_eq!(refused(&layout.tar()).0, ErrorKind::InvalidData);
    }
}

#[test]
fn as_many_layers_as_diff_ids() {
    let sample = Sample::new(&["a", "b"]);
    let mut layout = Layout::default();
    let mut manifest = layout.manifest(&sample);
    manifest["layers"].as_array_mut().unwrap().pop();
    layout.manifests = vec![layout.blob(MANIFEST, manifest.to_string().as_bytes())];
    let (kind, text) = refused(&layout.tar());
    assert_eq!(kind, ErrorKind::InvalidData);
    assert!(text.contains("1 layers, but config sha256:"), "{text}");
    let config = format!("{}.json", sample.id().hex());
    let docker = tar(&[
        ("l.tar", Bytes(sample.layers[0].clone())),
        (&config, Bytes(sample.config.clone())),
        ("manifest.json", File(docker_manifest(&sample, &["l.tar"], Value::Null))),
    ]);
    assert_eq!(refused(&docker).0, ErrorKind::InvalidData);
}

#[test]
fn docker_media_types_and_foreign_layers() {
    let sample = Sample::new(&["a"]);
    let mut layout = Layout::default();
    let mut manifest = layout.manifest(&sample);
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    manifest["layers"][0]["mediaType"] =
        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    manifest["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    layout.manifests = vec![layout.blob(docker, manifest.to_string().as_bytes())];
    assert_eq!(read_one(&layout.tar()).id, sample.id());
    layout.files.remove(&format!("blobs/sha256/{}", Digest::of(&sample.layers[0]).hex()));
    let error = read(&layout.tar(), &ReadOptions::default()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.help().unwrap().contains("https://example.com/layer"));
    let encrypted = format!("{LAYER}+encrypted");
    manifest["layers"][0]["mediaType"] = json!(encrypted);
    layout.manifests = vec![layout.blob(MANIFEST, manifest.to_string().as_bytes())];
    assert_eq!(refused(&layout.tar()).0, ErrorKind::Unsupported);
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    layout.manifests = vec![layout.blob(schema1, b"{}")];
    assert_eq!(refused(&layout.tar()).0, ErrorKind::Unsupported);
}

#[test]
fn hostile_names_and_links_lead_nowhere() {
    let sample = Sample::new(&["a"]);
    let config = format!("{}.json", sample.id().hex());
    for (name, link) in [
        ("l.tar", Symlink("/etc/passwd")),
        ("l.tar", Symlink("../../../../etc/passwd")),
        ("l.tar", HardLink("/etc/passwd")),
        ("l.tar", Symlink("l.tar")),
        ("l.tar", Symlink("loop")),
        ("../l.tar", Bytes(sample.layers[0].clone())),
        ("x/../../l.tar", Bytes(sample.layers[0].clone())),
    ] {
        let archive = tar(&[
            (name, link),
            ("loop", Symlink("l.tar")),
            (&config, Bytes(sample.config.clone())),
            ("manifest.json", File(docker_manifest(&sample, &["l.tar"], Value::Null))),
        ]);
        assert_eq!(refused(&archive).0, ErrorKind::NotFound, "{name}");
    }
    let outside = docker_manifest(&sample, &["../../etc/passwd"], Value::Null);
    let archive = tar(&[(&config, Bytes(sample.config.clone())), ("manifest.json", File(outside))]);
    assert_eq!(refused(&archive).0, ErrorKind::InvalidData);
}

#[test]
fn a_directory_is_read_and_nothing_outside_it() {
    let sample = Sample::new(&["a"]);
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("image");
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(
            &mut std::fs::OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .open(path)
                .unwrap(),
            bytes,
        )
        .unwrap();
    };
    put("l.tar", &sample.layers[0]);
    put(&format!("{}.json", sample.id().hex()), &sample.config);
    put("../secret", &sample.layers[0]);
    put("x/y", b"");
    put("manifest.json", docker_manifest(&sample, &["x/layer.tar"], Value::Null).as_bytes());
    let link = |target: &str| {
        let _ = std::fs::remove_file(dir.join("x/layer.tar"));
        std::os::unix::fs::symlink(target, dir.join("x/layer.tar")).unwrap();
        ImageSource::open(&dir, &ReadOptions::default())
    };
    let source = link("../l.tar").unwrap();
    let layer = &source.images()[0].layers[0];
    let mut bytes = Vec::new();
    source.open_layer(layer).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, sample.layers[0]);
    assert_eq!(link("../../secret").unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(link("layer.tar").unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(link("/secret").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn several_threads_read_one_source() {
    let sample = Sample::new(&["a", "b", "c"]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &Layout::of(&sample).tar()).unwrap();
    let source = ImageSource::open(file.path(), &ReadOptions::default()).unwrap();
    let layers = &source.images()[0].layers;
    std::thread::scope(|scope| {
        for (layer, expected) in layers.iter().zip(&sample.layers).cycle().take(12) {
            let source = &source;
            scope.spawn(move || {
                let mut reader = source.open_layer(layer).unwrap();
                let mut bytes = Vec::new();
                while reader.by_ref().take(100).read_to_end(&mut bytes).unwrap() > 0 {
                    std::thread::yield_now();
                }
                assert_eq!(bytes, *expected);
            });
        }
    });
}

#[test]
fn an_archive_that_is_cut_short_is_an_error_wherever_it_is_cut() {
    let archive = Layout::of(&Sample::new(&["a"])).tar();
    let end = archive.len() - 1024;
    for length in (0..end).step_by(128) {
        let (kind, _) = refused(&archive[..length]);
        let expected = [ErrorKind::InvalidData, ErrorKind::NotFound];
        assert!(expected.contains(&kind), "{length}: {kind:?}");
    }
    for length in [end, end + 512] {
        read_one(&archive[..length]);
    }
}

#[cfg(all(feature = "gzip", feature = "zstd"))]
#[test]
fn an_archive_that_is_compressed_as_a_whole_is_a_stream() {
    use std::io::Write;

    use crate::compression::Compression;
    let archive = Layout::of(&Sample::new(&["a", "b"])).tar();
    for how in [Compression::Gzip, Compression::Zstd] {
        let mut encoder = how.encoder(tempfile::NamedTempFile::new().unwrap()).unwrap();
        encoder.write_all(&archive).unwrap();
        let file = encoder.finish().unwrap();
        let options = ReadOptions::default();
        let Opened::Stream(stream) = open(file.path(), &options).unwrap() else {
            panic!("{how} cannot be read at any place");
        };
        let mut sink = Sink::default();
        assert_eq!(read_stream(stream, &mut sink, &options).unwrap().len(), 1);
        assert_eq!(sink.names.len(), 2);
        assert!(sink.names.iter().all(|name| name.starts_with("sha256:")));
        let error = ImageSource::open(file.path(), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        // The very end is checked too, though the archive inside is whole by then.
        let bytes = std::fs::read(file.path()).unwrap();
        let cut = &bytes[..bytes.len() - 1];
        assert!(read_stream(cut, &mut Sink::default(), &options).is_err(), "{how}");
    }
}

#[test]
fn what_is_no_image_says_what_was_expected() {
    let error = |bytes: &[u8]| refused(bytes);
    assert_eq!(error(b"").0, ErrorKind::InvalidData);
    assert_eq!(error(&[b'x'; 5000]).0, ErrorKind::InvalidData);
    assert_eq!(error(&tar(&[("etc/passwd", File("root".to_owned()))])).0, ErrorKind::InvalidData);
    assert_eq!(error(&tar(&[("repositories", File("{}".to_owned()))])).0, ErrorKind::Unsupported);
    assert_eq!(error(&tar(&[("index.json", File("{".to_owned()))])).0, ErrorKind::InvalidData);
    assert_eq!(error(&tar(&[("manifest.json", File("[]".to_owned()))])).0, ErrorKind::InvalidData);
    let (kind, message) = error(&tar(&[("manifest.json", File("{}".to_owned()))]));
    assert!(kind == ErrorKind::Unsupported && message.contains("skopeo"), "{message}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever is done to an archive, reading it ends, with images or with an error.
    #[test]
    fn a_damaged_archive_never_panics(
        changes in proptest::collection::vec((0.0..1.0f64, 0..=255u8), 0..6),
        end in 0.0..1.3f64,
        docker: bool,
    ) {
        let sample = Sample::new(&["a"]);
        let at = |share: f64, length: usize| ((share * length as f64) as usize).min(length);
        let mut archive = if docker { docker_archive(&sample) } else { Layout::of(&sample).tar() };
        for (place, byte) in changes {
            let place = at(place, archive.len() - 1);
            archive[place] = byte;
        }
        archive.truncate(at(end, archive.len()));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &archive).unwrap();
        let options = ReadOptions::default();
        let streamed = read_stream(&archive[..], &mut Sink::default(), &options);
        let opened = open(file.path(), &options);
        if let (Ok(images), Ok(Opened::Source(source))) = (streamed, opened) {
            proptest::prop_assert_eq!(format!("{images:?}"), format!("{:?}", source.images()));
        }
    }
}

fn docker_archive(sample: &Sample) -> Vec<u8> {
    let config = format!("{}.json", sample.id().hex());
    tar(&[
        ("l.tar", Bytes(sample.layers[0].clone())),
        ("one/layer.tar", Symlink("../l.tar")),
        (&config, Bytes(sample.config.clone())),
        ("manifest.json", File(docker_manifest(sample, &["one/layer.tar"], json!(["x"])))),
    ])
}
