//! Images: listed, their history, removed.

use std::collections::HashMap;

use serde::Serialize;

use super::Driver;
use super::usage::Weights;
use crate::changeset::{self, Shadowed};
use crate::digest::{ChainId, Digest};
use crate::error::{ErrorKind, Result};
use crate::image::{history_rows, parse_config};
use crate::store::{Image, ImageRecord, LayerKey, RemovedImage};
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

/// One step of an image's making, with what is lost of it.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct WastedStep {
    /// The step.
    #[serde(flatten)]
    pub step: HistoryStep,
    /// Bytes in the files of its layer that later layers overwrite or delete. A layer that stands
    /// in the image twice is stored once, and counts where it is topmost.
    pub wasted_bytes: u64,
    /// How many files that are.
    pub wasted_files: u64,
}

impl Driver {
    /// All images, those made last first.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn images(&self) -> Result<Vec<ImageSummary>> {
        let images = self.store.images()?;
        let mut weights = Weights::default();
        let mut images: Vec<_> =
            images.iter().map(|image| self.summary(image, &mut weights)).collect::<Result<_>>()?;
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.names.cmp(&b.names)));
        Ok(images)
    }

    fn summary(&self, image: &Image, weights: &mut Weights) -> Result<ImageSummary> {
        let record = &image.record;
        // Without its config it is listed all the same, and a check names it.
        let config = self.store.image_config(&record.id).and_then(|bytes| parse_config(&bytes));
        let created = config.ok().and_then(|config| config.created);
        Ok(ImageSummary {
            id: record.id,
            names: image.names.clone(),
            created,
            size: self.weight_of(record.chain.as_ref(), weights)?.0,
            layers: record.diff_ids.len(),
            chain_id: record.chain,
        })
    }

    /// The steps of an image, the last one first, as `docker history` lists them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such image.
    pub fn history(&self, image: &str) -> Result<Vec<HistoryStep>> {
        let (record, _) = self.store.image_called(image)?;
        Ok(self.steps(&record)?.into_iter().map(|(_, step)| step).collect())
    }

    /// The steps of an image, the last one first, each with the bytes of its layer that later
    /// layers overwrite or delete: every user of the image stores and loads them, and nobody sees
    /// them.
    ///
    /// All layers are walked at once, each directory of a layer once.
    ///
    /// # Errors
    /// As [`history`](Self::history); an error that names the file where one cannot be read.
    pub fn history_wasted(&self, image: &str, watch: Watch<'_>) -> Result<Vec<WastedStep>> {
        let (record, _) = self.store.image_called(image)?;
        let _lease = self.keep(record.chain.as_ref())?;
        let composed = self.compose(record.chain.as_ref())?;
        let parts = composed.segments().map(|keys| self.open_keys(keys));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let told = changeset::shadowed(&parts, self.store.namespace(), &watch)
            .map_err(|error| error.within(format_args!("compare the layers of {image}")))?;
        let mut told: HashMap<LayerKey, Shadowed> =
            composed.segments().flatten().copied().zip(told).collect();
        let stack = match &record.chain {
            Some(chain) => self.store.stack(chain)?,
            None => Vec::new(),
        };
        // A directory that stands there twice is there once, and counts where it is topmost.
        let wasted: Vec<_> =
            stack.iter().map(|entry| told.remove(&entry.layer()).unwrap_or_default()).collect();
        let steps = self.steps(&record)?.into_iter().map(|(position, step)| {
            let wasted = position.and_then(|position| wasted.iter().rev().nth(position));
            let Shadowed { files, bytes } = wasted.copied().unwrap_or_default();
            WastedStep { step, wasted_bytes: bytes, wasted_files: files }
        });
        Ok(steps.collect())
    }

    /// The steps of an image, the last one first, each with the place of its layer: 0 for the
    /// lowest.
    fn steps(&self, record: &ImageRecord) -> Result<Vec<(Option<usize>, HistoryStep)>> {
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
                Some(entry) => self.readable(&entry.layer())?,
                None => None,
            };
            let step = HistoryStep {
                created: row.created,
                created_by: row.created_by,
                comment: row.comment,
                size: layer.map_or(0, |layer| layer.diff_size),
                diff_id: entry.map(|entry| entry.diff_id),
            };
            steps.push((row.layer, step));
        }
        Ok(steps)
    }

    /// Takes a name from an image; with its last name goes the image, and with the image each layer
    /// that nothing else uses.
    ///
    /// It is gone in one step, however big it is; [`empty_trash`](Self::empty_trash) frees the space.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`](crate::ErrorKind::InUse) where a container uses it, or a mount that
    /// something else made shows a layer that only it uses; the message names them.
    pub fn remove_image(&self, image: &str, watch: Watch<'_>) -> Result<RemovedImage> {
        match self.store.image_called(image) {
            Ok((found, _)) => {
                if let Some(chain) = &found.chain
                    && !self.store.has_several_names(&found.id)?
                {
                    self.refuse_shown(chain, false, &format!("image {image}"))?;
                }
            }
            // One without a sound record goes; what it stood on is looked at by whoever removes that.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
        watch.check()?;
        let removed = self.store.remove_image(image)?;
        // It is gone; what cannot be deleted is told by whoever asks for the room.
        let _ = self.store.empty_trash_briefly();
        Ok(removed)
    }
}
