//! Images and containers as `docker inspect` shows them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::Driver;
use super::compose::Composed;
use super::named::{Named, nothing};
use super::usage::Weights;
use crate::digest::DiffId;
use crate::error::Result;
use crate::image::parse_config;
use crate::percent::{escape_bytes, shown_path_if_any};
use crate::store::{ContainerRecord, ImageRecord};

/// All that is known of an image or a container; its JSON form is that of `docker inspect`.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspection {
    /// The ID: of an image with `sha256:`, of a container without.
    pub id: String,
    /// A container's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An image's names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo_tags: Option<Vec<String>>,
    /// When it was made: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The ID of a container's image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where a container is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// An image's processor architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// An image's operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Bytes in an image's layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What an image's config says of how to run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// The directories.
    pub graph_driver: GraphDriver,
    /// The changesets.
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
}

/// Whether a container is mounted.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    /// `mounted` or `created`.
    pub status: &'static str,
    /// The directory.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_path_if_any")]
    pub mounted: Option<PathBuf>,
}

/// The directories that stand for an image or a container.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GraphDriver {
    /// Always `overlay2`.
    pub name: &'static str,
    /// The directories.
    pub data: GraphDriverData,
}

/// Directories, named as overlayfs names them.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GraphDriverData {
    /// The layers, topmost first, a colon between each two; of an image, those below its topmost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_dir: Option<String>,
    /// What is written into; of an image its topmost layer, which nobody writes.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_path_if_any")]
    pub upper_dir: Option<PathBuf>,
    /// The kernel's own; an image has none before a container is made of it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_path_if_any")]
    pub work_dir: Option<PathBuf>,
    /// Where it is mounted; the place for it where it is not.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_path_if_any")]
    pub merged_dir: Option<PathBuf>,
}

/// The changesets of an image.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// Diff IDs, lowest first.
    pub layers: Vec<DiffId>,
}

impl Driver {
    /// All that is known of a container or an image, found by its name or ID.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is neither.
    pub fn inspect(&self, text: &str) -> Result<Inspection> {
        match self.find(text)? {
            Named::Container(record) => self.inspect_container(&record),
            Named::Image(image) => self.inspect_image(&image),
            Named::Chain(_) => Err(nothing(text)),
        }
    }

    fn inspect_container(&self, record: &ContainerRecord) -> Result<Inspection> {
        let own = self.store.container_path(&record.id);
        let mounted = self.mounts_of(record)?.pop().map(|entry| entry.target);
        let composed = self.compose(record.chain.as_ref())?;
        let layers = match &record.chain {
            Some(chain) => self.store.stack(chain)?.iter().rev().map(|e| e.diff_id).collect(),
            None => Vec::new(),
        };
        let status = if mounted.is_some() { "mounted" } else { "created" };
        let merged_dir = mounted.clone().unwrap_or_else(|| own.join("merged"));
        Ok(Inspection {
            id: record.id.to_string(),
            name: Some(record.name.clone()),
            repo_tags: None,
            created: Some(record.created.timestamp().rfc3339()),
            image: record.image.map(|image| image.to_string()),
            state: Some(State { status, mounted }),
            architecture: None,
            os: None,
            size: None,
            config: None,
            graph_driver: GraphDriver {
                name: "overlay2",
                data: GraphDriverData {
                    lower_dir: self.lower_dir(&composed, 0),
                    upper_dir: Some(own.join("upper")),
                    work_dir: Some(own.join("work")),
                    merged_dir: Some(merged_dir),
                },
            },
            root_fs: RootFs { kind: "layers", layers },
        })
    }

    fn inspect_image(&self, record: &ImageRecord) -> Result<Inspection> {
        let bytes = self.store.image_config(&record.id)?;
        let config = parse_config(&bytes)?;
        let run: Option<Value> = serde_json::from_slice(&bytes)
            .ok()
            .and_then(|value: Value| value.get("config").cloned());
        let composed = self.compose(record.chain.as_ref())?;
        let upper = composed.layers.first().map(|key| self.store.layer_path(key));
        let beside = |name: &str| upper.as_deref().and_then(Path::parent).map(|dir| dir.join(name));
        Ok(Inspection {
            id: record.id.to_string(),
            name: None,
            repo_tags: Some(self.store.names_of(&record.id)?),
            created: config.created,
            image: None,
            state: None,
            architecture: Some(config.architecture),
            os: Some(config.os),
            size: Some(self.weight_of(record.chain.as_ref(), &mut Weights::default())?.0),
            config: run,
            graph_driver: GraphDriver {
                name: "overlay2",
                data: GraphDriverData {
                    lower_dir: self.lower_dir(&composed, 1),
                    work_dir: beside("work"),
                    merged_dir: beside("merged"),
                    upper_dir: upper,
                },
            },
            root_fs: RootFs { kind: "layers", layers: record.diff_ids.clone() },
        })
    }

    fn lower_dir(&self, composed: &Composed, skip: usize) -> Option<String> {
        let path = |key| {
            let path = self.store.layer_path(key);
            escape_bytes(path.as_os_str().as_bytes())
        };
        let paths: Vec<String> = composed.layers.iter().skip(skip).map(path).collect();
        (!paths.is_empty()).then(|| paths.join(":"))
    }
}
