//! How much room everything takes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::Driver;
use crate::digest::ChainId;
use crate::error::{Context, ErrorKind, Result};
use crate::quota::Quota;
use crate::store::{LayerKey, LayerRecord, QuotaUse};
use crate::sys::Dir;
use crate::sys::weigh::weigh;

/// What the store holds, and the room that it takes.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// Layer directories, each once, whoever uses it.
    pub layers: Vec<UsageRow>,
    /// Images; what two share counts for both.
    pub images: Vec<UsageRow>,
    /// Containers: what each of them changed.
    pub containers: Vec<UsageRow>,
}

/// The room that one thing takes.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct UsageRow {
    /// What it is called: a layer's key, an image's or container's name.
    pub name: String,
    /// Bytes in its files.
    pub size: u64,
    /// Files, directories and other inodes.
    pub inodes: u64,
    /// What a container may have at most, where it has a quota. Its size is then that of the blocks
    /// that it occupies, its WorkDir among them, as the file system counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Quota>,
}

/// Bytes and inodes of layers whose records were read, for images that have them in common.
#[derive(Default)]
pub(super) struct Weights(HashMap<LayerKey, (u64, u64)>);

impl Driver {
    /// The room that layers, images and containers take.
    ///
    /// Layers are not walked: what they take was written down when they were unpacked. Of
    /// containers the UpperDir is walked, but for those with a quota, which the file system counts.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut weights = Weights::default();
        for key in self.store.layers()? {
            let Some(record) = self.readable(&key)? else { continue };
            let (size, inodes) = (record.diff_size, record.inodes);
            weights.0.insert(key, (size, inodes));
            usage.layers.push(UsageRow { name: key.to_string(), size, inodes, limits: None });
        }
        for image in self.store.images()? {
            let id = image.record.id.to_string();
            let name = image.names.first().cloned().unwrap_or(id);
            let (size, inodes) = self.weight_of(image.record.chain.as_ref(), &mut weights)?;
            usage.images.push(UsageRow { name, size, inodes, limits: None });
        }
        for record in self.store.containers()? {
            let counted = match self.store.quota_use(&record) {
                // For others than root it is walked like the rest.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
                counted => counted?,
            };
            if let Some(QuotaUse { bytes: size, inodes, limits }) = counted {
                let limits = Some(limits);
                usage.containers.push(UsageRow { name: record.name, size, inodes, limits });
                continue;
            }
            let upper = match Dir::open_ambient(self.upper_path(&record.id)) {
                // Removed meanwhile, or damaged.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let weight = weigh(&upper).during("walk", &self.upper_path(&record.id))?;
            let (size, inodes) = (weight.content, weight.inodes);
            usage.containers.push(UsageRow { name: record.name, size, inodes, limits: None });
        }
        Ok(usage)
    }

    /// What a container holds and may hold, where it was made with a quota and the file system keeps
    /// that; else `None`. Its files are not walked.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::PermissionDenied`] for others than root.
    pub fn quota(&self, container: &str) -> Result<Option<QuotaUse>> {
        self.store.quota_use(&self.store.find_container(container)?)
    }

    /// Changes what a container may hold that was made with a quota; it may be mounted. One that holds
    /// more than that keeps it, and gets nothing more.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Unsupported`] where it was made without a quota, or the
    /// file system keeps none any more; [`ErrorKind::PermissionDenied`] for others than root.
    pub fn set_quota(&self, container: &str, limits: &Quota) -> Result<()> {
        self.store.set_quota(&self.store.find_container(container)?, limits)
    }

    /// What is known of a layer. One damaged record is no reason to list nothing: like one that is
    /// missing it counts as nothing, and [`check`](Self::check) names it.
    pub(super) fn readable(&self, key: &LayerKey) -> Result<Option<LayerRecord>> {
        match self.store.layer_record(key) {
            Err(error) if !error.is_starved() => Ok(None),
            read => read,
        }
    }

    /// Bytes and inodes in the layers of a stack; `known` gets what was read.
    pub(super) fn weight_of(
        &self,
        chain: Option<&ChainId>,
        known: &mut Weights,
    ) -> Result<(u64, u64)> {
        let mut weight = (0, 0);
        let Some(chain) = chain else { return Ok(weight) };
        let mut seen = HashSet::new();
        let stack = match self.store.stack(chain) {
            // As a layer of which nothing can be told.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                return Ok(weight);
            }
            stack => stack?,
        };
        for entry in stack {
            let key = entry.layer();
            if !seen.insert(key) {
                continue;
            }
            let (size, inodes) = match known.0.entry(key) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    let layer = self.readable(&key)?;
                    *unknown.insert(layer.map_or((0, 0), |layer| (layer.diff_size, layer.inodes)))
                }
            };
            weight = (weight.0 + size, weight.1 + inodes);
        }
        Ok(weight)
    }
}
