//! Images: listed, their history, removed.

use serde::Serialize;

use super::Driver;
use crate::digest::{ChainId, Digest};
use crate::error::Result;
use crate::image::{history_rows, parse_config};
use crate::store::{Image, RemovedImage};
use crate::watch::Watch;

/// An image, as a list shows it.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct ImageSummary {
    /// The sha256 of its config.
    pub id: Digest,
    /// What it is called, sorted.
    pub names: Vec<String>,
    /// When it was made, as its config says: RFC 3339.
    pub created: Option<String>,
    /// Bytes in the files of all its layers; what two images share counts for both.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
    /// The stack of all its layers.
    pub chain_id: Option<ChainId>,
}

/// One step of an image's making, with what it weighs.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct HistoryStep {
    /// When, as the config says: RFC 3339.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Anything else that the config says of it.
    pub comment: Option<String>,
    /// Bytes in the files of its layer; 0 where it made none.
    pub size: u64,
    /// The layer that it made.
    pub diff_id: Option<crate::digest::DiffId>,
}

impl Driver {
    /// All images, those made last first.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn images(&self) -> Result<Vec<ImageSummary>> {
        let images = self.store.images()?;
        let mut images: Vec<_> =
            images.iter().map(|image| self.summary(image)).collect::<Result<_>>()?;
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.names.cmp(&b.names)));
        Ok(images)
    }

    fn summary(&self, image: &Image) -> Result<ImageSummary> {
        let record = &image.record;
        let config = parse_config(&self.store.image_config(&record.id)?)?;
        Ok(ImageSummary {
            id: record.id,
            names: image.names.clone(),
            created: config.created().clone(),
            size: self.weight_of(record.chain.as_ref())?.0,
            layers: record.diff_ids.len(),
            chain_id: record.chain,
        })
    }

    /// The steps of an image, the last one first, as `docker history` lists them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such image.
    pub fn history(&self, image: &str) -> Result<Vec<HistoryStep>> {
        let record = self.store.find_image(image)?.record;
        let config = parse_config(&self.store.image_config(&record.id)?)?;
        // Topmost first.
        let stack = match &record.chain {
            Some(chain) => self.store.stack(chain)?,
            None => Vec::new(),
        };
        let mut steps = Vec::new();
        for row in history_rows(&config).into_iter().rev() {
            let entry = row.layer.and_then(|index| stack.iter().rev().nth(index));
            let layer = match entry {
                Some(entry) => self.store.layer_record(&entry.layer())?,
                None => None,
            };
            steps.push(HistoryStep {
                created: row.created,
                created_by: row.created_by,
                comment: row.comment,
                size: layer.map_or(0, |layer| layer.diff_size),
                diff_id: entry.map(|entry| entry.diff_id),
            });
        }
        Ok(steps)
    }

    /// Takes a name from an image; with its last name goes the image, and with the image each layer
    /// that nothing else uses.
    ///
    /// It is gone in one step; where the rest is cancelled, opening the store again frees the space.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`](crate::ErrorKind::InUse) where a container uses it, which the message
    /// names.
    pub fn remove_image(&self, image: &str, watch: Watch<'_>) -> Result<RemovedImage> {
        let removed = self.store.remove_image(image)?;
        self.empty_trash(watch)?;
        Ok(removed)
    }
}
