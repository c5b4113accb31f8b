//! Images made of changesets, written as an OCI layout or as a docker-archive; and both read back
//! as far as a test has to look into them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Layer;

/// An image in the making: steps of a build, lowest first.
#[derive(Clone, Debug, Default)]
pub struct TestImage {
    name: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    says: String,
    layer: Option<Vec<u8>>,
}

/// How an OCI layout holds its layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compression {
    Raw,
    Gzip,
    Zstd,
}

impl TestImage {
    /// `name` is a reference with a tag: `example.test/app:latest`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), steps: Vec::new() }
    }

    /// A step of the build that makes a layer.
    pub fn layer(mut self, says: &str, layer: Layer) -> Self {
        self.steps.push(Step { says: says.to_owned(), layer: Some(layer.finish()) });
        self
    }

    /// A step of the build that changes the configuration alone.
    pub fn config(mut self, says: &str) -> Self {
        self.steps.push(Step { says: says.to_owned(), layer: None });
        self
    }

    /// The same image, named otherwise.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The image with one file in one layer.
    pub fn tiny(name: &str) -> Self {
        let layer = Layer::new().dir("etc", 0o755).file("etc/motd", 0o644, "hello\n");
        Self::new(name).layer("ADD motd", layer)
    }

    /// What the steps of the build are called, with whether each made a layer.
    pub fn steps(&self) -> Vec<(&str, bool)> {
        self.steps.iter().map(|step| (step.says.as_str(), step.layer.is_some())).collect()
    }

    pub fn layers(&self) -> Vec<&[u8]> {
        self.steps.iter().filter_map(|step| step.layer.as_deref()).collect()
    }

    pub fn diff_ids(&self) -> Vec<String> {
        self.layers().into_iter().map(digest).collect()
    }

    /// The image's configuration.
    pub fn config_json(&self) -> Value {
        let history: Vec<_> = self
            .steps
            .iter()
            .map(|step| {
                let mut row = json!({"created": "2026-01-01T00:00:00Z", "created_by": step.says});
                if step.layer.is_none() {
                    row["empty_layer"] = json!(true);
                }
                row
            })
            .collect();
        json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Env": ["PATH=/bin:/usr/bin"],
                "Entrypoint": ["/app/0voiceGateway"],
                "Cmd": ["--serve"],
                "WorkingDir": "/"
            },
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids()},
            "history": history,
        })
    }

    /// Writes an OCI image layout into a new directory and returns the directory.
    pub fn write_oci(&self, directory: &Path, compression: Compression) -> PathBuf {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |data: &[u8], media: &str| {
            fs::write(blobs.join(hex::encode(Sha256::digest(data))), data).unwrap();
            json!({"mediaType": media, "digest": digest(data), "size": data.len()})
        };
        let layers: Vec<_> = self
            .layers()
            .into_iter()
            .map(|layer| put(&compression.of(layer), compression.media_type()))
            .collect();
        let config = put(
            &serde_json::to_vec(&self.config_json()).unwrap(),
            "application/vnd.oci.image.config.v1+json",
        );
        let media = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers});
        let mut entry = put(&serde_json::to_vec(&manifest).unwrap(), media);
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["annotations"] = json!({
            "org.opencontainers.image.ref.name": tag,
            "io.containerd.image.name": self.name,
        });
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        directory.to_owned()
    }

    /// Writes a docker-archive, in the order of `docker save`: layers, config, manifest.
    pub fn write_docker_archive(&self, file: &Path) -> PathBuf {
        self.write_docker_archive_with(file, self.config_json())
    }

    /// The same with a configuration that may lie.
    pub fn write_docker_archive_with(&self, file: &Path, config: Value) -> PathBuf {
        let mut archive = tar::Builder::new(File::create(file).unwrap());
        let mut names = Vec::new();
        for layer in self.layers() {
            let name = format!("{}.tar", hex::encode(Sha256::digest(layer)));
            // One name twice is what `docker save` avoids too.
            if !names.contains(&name) {
                append(&mut archive, &name, layer);
            }
            names.push(name);
        }
        let config = serde_json::to_vec(&config).unwrap();
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        append(&mut archive, &config_name, &config);
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": names}]);
        append(&mut archive, "manifest.json", manifest.to_string().as_bytes());
        archive.into_inner().unwrap().flush().unwrap();
        file.to_owned()
    }
}

impl Compression {
    fn of(self, layer: &[u8]) -> Vec<u8> {
        match self {
            Self::Raw => layer.to_vec(),
            Self::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), <_>::default());
                gzip.write_all(layer).unwrap();
                gzip.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(layer, 3).unwrap(),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Raw => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Where in the tar of an OCI layout the index and the manifests stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Before the blobs: all is known when a layer comes.
    IndexFirst,
    /// Behind the blobs, as a sorted listing has it.
    BlobsFirst,
}

/// Packs an OCI layout directory as a tar.
pub fn tar_of_layout(directory: &Path, file: &Path, order: Order) -> PathBuf {
    let blobs = directory.join("blobs/sha256");
    let mut names: Vec<_> = fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| format!("blobs/sha256/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    // Manifests and configurations are the smallest, and so come first where the index does.
    names.sort_by_key(|name| (fs::metadata(directory.join(name)).unwrap().len(), name.clone()));
    let meta = ["oci-layout".to_owned(), "index.json".to_owned()];
    let names: Vec<_> = match order {
        Order::IndexFirst => meta.into_iter().chain(names).collect(),
        Order::BlobsFirst => names.into_iter().rev().chain(meta).collect(),
    };
    let mut archive = tar::Builder::new(File::create(file).unwrap());
    for name in names {
        archive.append_path_with_name(directory.join(&name), &name).unwrap();
    }
    archive.into_inner().unwrap().flush().unwrap();
    file.to_owned()
}

/// Unpacks the tar of an OCI layout into a new directory.
pub fn layout_of_tar(file: &Path, directory: &Path) -> PathBuf {
    tar::Archive::new(File::open(file).unwrap()).unpack(directory).unwrap();
    directory.to_owned()
}

/// An OCI layout directory with a single image in it, as another program would read it.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    pub manifest: Value,
    pub config: Value,
}

impl Layout {
    pub fn open(directory: &Path) -> Self {
        let index: Value =
            serde_json::from_slice(&fs::read(directory.join("index.json")).unwrap()).unwrap();
        assert!(directory.join("oci-layout").is_file());
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries.len(), 1, "{index}");
        let mut layout =
            Self { directory: directory.to_owned(), manifest: Value::Null, config: Value::Null };
        layout.manifest = serde_json::from_slice(&layout.blob(&entries[0])).unwrap();
        layout.config = serde_json::from_slice(&layout.blob(&layout.manifest["config"])).unwrap();
        layout
    }

    /// The bytes of a descriptor's blob, whose size and digest have to be right.
    pub fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let path = blob_path(&self.directory, descriptor);
        let data = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(descriptor["size"], data.len());
        assert_eq!(descriptor["digest"], digest(&data));
        data
    }

    /// The changesets, uncompressed, lowest first; each has the diff ID that the config says.
    pub fn changesets(&self) -> Vec<Vec<u8>> {
        let layers = self.manifest["layers"].as_array().unwrap();
        let diff_ids = self.config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(layers.len(), diff_ids.len());
        layers
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| {
                let tar = plain(&self.blob(layer));
                assert_eq!(diff_id, digest(&tar).as_str());
                tar
            })
            .collect()
    }
}

/// Where an OCI layout keeps a blob.
pub fn blob_path(directory: &Path, descriptor: &Value) -> PathBuf {
    let (algorithm, hex) = descriptor["digest"].as_str().unwrap().split_once(':').unwrap();
    directory.join("blobs").join(algorithm).join(hex)
}

/// The names in a changeset, in order, those of directories without their slash.
pub fn entry_names(changeset: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(changeset);
    let entries = archive.entries().unwrap();
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('/').to_owned();
    entries.map(|entry| name(&entry.unwrap().path_bytes())).collect()
}

/// A digest as OCI writes it.
pub fn digest(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

fn plain(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match data {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(data).read_to_end(&mut out).unwrap();
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => out = zstd::decode_all(data).unwrap(),
        _ => out = data.to_vec(),
    }
    out
}

fn append(archive: &mut tar::Builder<File>, name: &str, data: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_mtime(0);
    archive.append_data(&mut header, name, data).unwrap();
}
