//! Images: a config, a chain, and the names that point there.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::Store;
use super::broken::unless_broken;
use super::chain::LeasedChain;
use super::hold::Held;
use super::layout::{
    CHAINS, CONFIG_FILE, IMAGE_FILE, IMAGE_NAMES, IMAGES, MANIFEST_FILE, Object, USERS,
};
use super::record::{self, ImageRecord, RecordTime};
use super::staging::Published;
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct NewImage<'a> {
    /// The config, byte for byte; its sha256 is the image's ID.
    pub config: &'a [u8],
    /// The image's changesets, lowest first, as the config names them.
    pub diff_ids: &'a [DiffId],
    /// The manifest, where the image came with one, byte for byte.
    pub manifest: Option<&'a [u8]>,
}

/// An image, and its names at the moment when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What is known of it.
    pub record: ImageRecord,
    /// Its names, sorted; none for an image whose names were given to others.
    pub names: Vec<String>,
}

/// An image that cannot be removed while this is held.
#[derive(Debug)]
pub struct LeasedImage {
    record: ImageRecord,
    _held: Held,
}

impl Store {
    /// Adds an image on top of `chain`, or gives back the one that is there.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where `chain` is not the one that `diff_ids` make.
    pub fn add_image(
        &self,
        chain: Option<&LeasedChain>,
        image: &NewImage<'_>,
    ) -> Result<LeasedImage> {
        let (leased, _) = self.publish_image(chain, image)?;
        if let Some(chain) = chain {
            chain.mark_used();
        }
        Ok(leased)
    }

    /// Also tells whether it was not there before; `chain` is not marked as used.
    pub(super) fn publish_image(
        &self,
        chain: Option<&LeasedChain>,
        image: &NewImage<'_>,
    ) -> Result<(LeasedImage, bool)> {
        self.writable()?;
        let chain_id = chain.map(LeasedChain::chain);
        if ChainId::of(image.diff_ids) != chain_id {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "an image's chain must be the chain of its diff IDs",
            ));
        }
        let id = Digest::of(image.config);
        let object = Object::Image(id);
        if let Some(leased) = self.lease_image(&id)? {
            // Where it was damaged, this is what it was.
            if self.image_config(&id).is_err() {
                let written =
                    self.durability().replace_file(leased._held.dir(), CONFIG_FILE, image.config);
                written.during("write", &self.at(&[IMAGES, &id.hex(), "config"]))?;
            }
            return Ok((leased, false));
        }
        let diff_ids = image.diff_ids.to_vec();
        let record = ImageRecord { id, chain: chain_id, diff_ids, loaded: RecordTime::now() };
        let mut staged = self.stage_image(image, &record, chain)?;
        loop {
            match staged.publish(object)? {
                Published::Done(held) => {
                    if let Err(error) = self.sync_top(IMAGES) {
                        drop(held);
                        let _ = self.remove_unnamed(&id);
                        return Err(error);
                    }
                    return Ok((LeasedImage { record, _held: held }, true));
                }
                Published::Exists(ours) => match self.lease_image(&id)? {
                    Some(winner) => return Ok((winner, false)),
                    None => staged = ours,
                },
            }
        }
    }

    fn stage_image(
        &self,
        image: &NewImage<'_>,
        record: &ImageRecord,
        chain: Option<&LeasedChain>,
    ) -> Result<super::staging::Staged> {
        let object = Object::Image(record.id);
        let durability = self.durability();
        let mut staged = self.stage(&object.tag())?;
        let bytes = record::to_bytes(record).during("write", &staged.shown(IMAGE_FILE))?;
        let mut files = vec![(IMAGE_FILE, bytes.as_slice()), (CONFIG_FILE, image.config)];
        files.extend(image.manifest.map(|manifest| (MANIFEST_FILE, manifest)));
        staged.make_dir(USERS, 0o700)?;
        staged.make_dir(IMAGE_NAMES, 0o700)?;
        for (name, bytes) in files {
            let file = staged.create(name, bytes)?;
            durability.sync_file(&file).during("sync", &staged.shown(name))?;
        }
        if let Some(chain) = chain {
            let below = Object::Chain(chain.chain());
            staged.will_be_linked();
            let users = self.link_user(chain.held(), below, object)?;
            durability.sync_names(&users).during("sync", &self.at(&[CHAINS, &below.name()]))?;
        }
        durability.sync_names(staged.dir()).during("sync", &staged.shown(b""))?;
        Ok(staged)
    }

    /// Holds an image so that it does not go; `None` where there is no such image.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where its record is broken.
    pub fn lease_image(&self, id: &Digest) -> Result<Option<LeasedImage>> {
        let object = Object::Image(*id);
        let Some(held) = self.lease(object)? else {
            return Ok(None);
        };
        let record: Option<ImageRecord> = self.read_record_in(held.dir(), object, IMAGE_FILE)?;
        let record = record
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{object} has no record")))?;
        Ok(Some(LeasedImage { record, _held: held }))
    }

    /// An image by its ID; `None` where there is no such image.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where its record is malformed.
    pub fn image(&self, id: &Digest) -> Result<Option<Image>> {
        let Some(record) = self.image_record(id)? else { return Ok(None) };
        Ok(Some(Image { record, names: self.names_of(id)? }))
    }

    /// What is known of an image, its names not read.
    pub(super) fn image_record(&self, id: &Digest) -> Result<Option<ImageRecord>> {
        self.read_record(Object::Image(*id), IMAGE_FILE)
    }

    /// All images, sorted by ID.
    ///
    /// # Errors
    /// As the operating system has them; one that vanishes meanwhile is left out, and so is one whose
    /// record is malformed, which [`find_image`](Self::find_image) tells.
    pub fn images(&self) -> Result<Vec<Image>> {
        let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for (name, id) in self.image_names()? {
            names.entry(id).or_default().push(name);
        }
        let mut images = Vec::new();
        for object in self.list(IMAGES, |name| Digest::from_hex(name).ok().map(Object::Image))? {
            let record: Option<ImageRecord> = unless_broken(self.read_record(object, IMAGE_FILE))?;
            images.extend(record.map(|record| {
                let names = names.remove(&record.id).unwrap_or_default();
                Image { record, names }
            }));
        }
        Ok(images)
    }

    /// The config of an image, byte for byte.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Corrupt`] where the bytes are not those of the ID.
    pub fn image_config(&self, id: &Digest) -> Result<Vec<u8>> {
        let object = Object::Image(*id);
        let bytes = self.image_bytes(id, CONFIG_FILE)?.ok_or_else(|| self.no_such(object))?;
        if Digest::of(&bytes) != *id {
            return Err(Error::new(ErrorKind::Corrupt, format!("the config of {object} changed")));
        }
        Ok(bytes)
    }

    /// The manifest that an image came with, byte for byte; `None` where it came without.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn image_manifest(&self, id: &Digest) -> Result<Option<Vec<u8>>> {
        self.image_bytes(id, MANIFEST_FILE)
    }

    fn image_bytes(&self, id: &Digest, file: &[u8]) -> Result<Option<Vec<u8>>> {
        let name = id.hex();
        let path = [name.as_bytes(), b"/", file].concat();
        match record::read_bytes(self.top(IMAGES), &path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => {
                let file = String::from_utf8_lossy(file);
                Err(error).during("read", &self.at(&[IMAGES, &name, &file]))
            }
        }
    }

    /// The names in one of the store's own directories.
    pub(super) fn sync_top(&self, place: &'static str) -> Result<()> {
        self.durability().sync_names(self.top(place)).during("sync", &self.at(&[place]))
    }
}

impl LeasedImage {
    /// What is known of it.
    pub fn record(&self) -> &ImageRecord {
        &self.record
    }
}
