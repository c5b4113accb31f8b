//! An image and its names, all of them or none: whoever adds an image with names writes down first what
//! they will be. A maker that fails takes back what it did; where it died after the image appeared,
//! whoever opens the store next gives the rest of the names.

use serde::{Deserialize, Serialize};

use super::Store;
use super::chain::LeasedChain;
use super::hold::{Attempt, patience};
use super::image::{LeasedImage, NewImage};
use super::image_name::check_image_name;
use super::layout::{IMAGES, INTENT_PREFIX, Object, STAGING};
use crate::digest::Digest;
use crate::error::{Context, Result};

/// What such a line of an intent begins with.
const START: &str = "names ";

/// What an image is about to be called.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Naming {
    image: Digest,
    names: Vec<Wanted>,
}

/// A name, and the image that had it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    before: Option<Digest>,
}

impl Store {
    /// Adds an image as [`add_image`](Self::add_image) does, and gives it names, which it takes from
    /// the images that had them. It appears with all of them, or not at all.
    ///
    /// # Errors
    /// As [`add_image`](Self::add_image) and [`tag`](Self::tag); what was there before is there then.
    pub fn add_named_image(
        &self,
        chain: Option<&LeasedChain>,
        image: &NewImage<'_>,
        names: &[String],
    ) -> Result<LeasedImage> {
        let mut naming = Naming { image: Digest::of(image.config), names: Vec::new() };
        for name in names {
            check_image_name(name)?;
            naming.names.push(Wanted { name: name.clone(), before: self.image_named(name)? });
        }
        if names.is_empty() {
            return self.add_image(chain, image);
        }
        let line = serde_json::to_string(&naming).map_err(std::io::Error::from);
        let line = format!("{START}{}\n", line.during("write", "names")?);
        let (intent, staged) = self.stage_file(INTENT_PREFIX, line.as_bytes())?;
        let durability = self.durability();
        let noted = durability.sync_file(&intent).during("sync", &self.at(&[STAGING, &staged]));
        let added = noted.and_then(|()| self.sync_top(STAGING)).and_then(|()| {
            let (leased, made) = self.publish_image(chain, image)?;
            for Wanted { name, .. } in &naming.names {
                if let Err(error) = self.tag(&naming.image, name) {
                    drop(leased);
                    self.take_back(&naming, made);
                    return Err(error);
                }
            }
            if let Some(chain) = chain {
                chain.mark_used();
            }
            Ok(leased)
        });
        let _ = self.top(STAGING).remove_file(staged.as_bytes());
        added
    }

    /// Gives the names back to whom they meant before, and removes the image where it is new, as far
    /// as that can be done.
    fn take_back(&self, naming: &Naming, made: bool) {
        for Wanted { name, before } in naming.names.iter().rev() {
            if matches!(self.image_named(name), Ok(Some(image)) if image == naming.image) {
                let _ = match before {
                    Some(before) if *before == naming.image => Ok(()),
                    Some(before) => self.tag(before, name),
                    None => self.untag(name).map(drop),
                };
            } else {
                let _ = self.unlink_name(&naming.image, name);
            }
        }
        if made {
            let _ = self.remove_unnamed(&naming.image);
        }
    }

    /// Removes an image that came to nothing, where it has no name and nothing uses it. Its maker holds
    /// the chain, so that the link in there goes with the next emptying of the trash.
    pub(super) fn remove_unnamed(&self, id: &Digest) -> Result<()> {
        let object = Object::Image(*id);
        let Attempt::Held(held) = self.claim(object, patience())? else {
            return Ok(());
        };
        if !self.some_names_of(id, 1)?.is_empty() || !self.live_users(object, &held, 1)?.is_empty()
        {
            return Ok(());
        }
        self.discard(object)?;
        self.sync_top(IMAGES)
    }

    /// Goes on with what a line of an intent says whose maker died; other lines mean nothing here.
    pub(super) fn finish_names(&self, line: &str) -> Result<()> {
        let Some(text) = line.strip_prefix(START) else {
            return Ok(());
        };
        // Cut off by a power cut: then the image never appeared.
        let Ok(naming) = serde_json::from_str::<Naming>(text) else {
            return Ok(());
        };
        if !self.exists(Object::Image(naming.image))? {
            return Ok(());
        }
        for Wanted { name, before } in &naming.names {
            let now = self.image_named(name)?;
            let others = before.filter(|before| *before != naming.image);
            if now == Some(naming.image) {
                // The one that had it may still be linked to it.
                others.map_or(Ok(()), |before| self.unlink_name(&before, name))?;
            } else if now == *before {
                self.tag(&naming.image, name)?;
            } else {
                // Somebody has used the name since.
                self.unlink_name(&naming.image, name)?;
            }
        }
        Ok(())
    }
}
