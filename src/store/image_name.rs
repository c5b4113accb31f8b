//! The names of images: which image each means, and how an image is found and removed by one.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Store;
use super::broken::unless_broken;
use super::hold::{Held, touch, wait_exclusive};
use super::image::Image;
use super::layout::{IMAGE_NAMES, IMAGES, NAMES, Object, STAGING};
use super::record::{self, ImageRecord, NameRecord, Unread};
use super::users::is_no_directory;
use crate::digest::{ChainId, Digest};
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::file_name::encode;
use crate::sys::dir::SysResult;

/// The most bytes of a name.
const LONGEST_NAME: usize = 4096;

/// What came of removing an image by what a person called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovedImage {
    /// The image has other names, and stays.
    Untagged {
        /// The name that is gone.
        name: String,
    },
    /// The image is gone, and the layers that only it used.
    Removed {
        /// Its ID.
        id: Digest,
        /// The name that is gone with it.
        names: Vec<String>,
        /// The chain that it stood on; it may still be there, for others.
        chain: Option<ChainId>,
    },
}

impl Store {
    /// Gives an image one more name; takes the name from the image that had it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such image; [`ErrorKind::InvalidInput`] for a name
    /// that is empty, longer than 4096 bytes, or holds control characters.
    pub fn tag(&self, id: &Digest, name: &str) -> Result<()> {
        self.writable()?;
        check_image_name(name)?;
        let object = Object::Image(*id);
        let held = self.lease(object)?.ok_or_else(|| self.no_such(object))?;
        let encoded = encode(name);
        let record = NameRecord { name: name.to_owned(), image: *id };
        let bytes = record::to_bytes(&record).during("write name", name)?;
        // Prepared before the lock is taken: it is held for a look and a rename.
        let (file, staged) = self.stage_file("name-", &bytes)?;
        let moved = self
            .durability()
            .sync_file(&file)
            .during("sync name", name)
            .and_then(|()| self.link_name(&held, &encoded).during("tag image", &object.name()))
            .and_then(|()| self.move_name(&staged, &encoded));
        if moved.is_err() {
            let _ = self.top(STAGING).remove_file(staged.as_bytes());
        }
        let before = moved?;
        self.sync_top(NAMES)?;
        if let Some(before) = before.filter(|before| before.image != *id) {
            self.unlink_name(&before.image, name)?;
        }
        Ok(())
    }

    /// Adds the back link of a name, durably.
    fn link_name(&self, held: &Held, encoded: &str) -> SysResult<()> {
        let names = held.dir().child(IMAGE_NAMES)?;
        touch(&names, encoded.as_bytes())?;
        self.durability().sync_names(&names)
    }

    /// Puts a prepared name in place; gives back what it meant before.
    fn move_name(&self, staged: &str, encoded: &str) -> Result<Option<NameRecord>> {
        let names = self.top(NAMES);
        let _lock = wait_exclusive(names).during("lock", &self.at(&[NAMES]))?;
        // A broken record is replaced like any other.
        let before = unless_broken(self.read_name(encoded.as_bytes()))?;
        self.top(STAGING)
            .rename(staged.as_bytes(), names, encoded.as_bytes(), RenameFlags::empty())
            .during("write", &self.at(&[NAMES, encoded]))?;
        Ok(before)
    }

    /// Takes a name away, whatever image it means; gives back which it was.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where nothing has the name.
    pub fn untag(&self, name: &str) -> Result<Digest> {
        self.writable()?;
        let encoded = encode(name);
        let names = self.top(NAMES);
        let removed = {
            let _lock = wait_exclusive(names).during("lock", &self.at(&[NAMES]))?;
            let record = self.read_name(encoded.as_bytes())?;
            let record = record.ok_or_else(|| no_image(name))?;
            names.remove_file(encoded.as_bytes()).during("remove", &self.at(&[NAMES, &encoded]))?;
            record.image
        };
        self.sync_top(NAMES)?;
        self.unlink_name(&removed, name)?;
        Ok(removed)
    }

    /// Removes the name of an image that is gone; leaves one that means another image, or one that
    /// came back.
    pub(super) fn forget_image_name(&self, encoded: &[u8], id: &Digest) -> Result<()> {
        let names = self.top(NAMES);
        let _lock = wait_exclusive(names).during("lock", &self.at(&[NAMES]))?;
        let means = unless_broken(self.read_name(encoded))?.map(|record| record.image);
        if means != Some(*id) || self.exists(Object::Image(*id))? {
            return Ok(());
        }
        let shown = encoded.shown();
        names.remove_file(encoded).during("remove", &self.at(&[NAMES, &shown]))
    }

    /// Removes the back link of a name.
    pub(super) fn unlink_name(&self, id: &Digest, name: &str) -> Result<()> {
        let encoded = encode(name);
        let path = [id.hex().as_bytes(), b"/", IMAGE_NAMES, b"/", encoded.as_bytes()].concat();
        match self.top(IMAGES).remove_file(&path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).during("remove", &path),
        }
    }

    pub(super) fn read_name(&self, encoded: &[u8]) -> Result<Option<NameRecord>> {
        match record::read(self.top(NAMES), encoded) {
            Ok(record) => Ok(Some(record)),
            Err(Unread::Os(Errno::NOENT)) => Ok(None),
            Err(Unread::Os(error)) if !record::is_something_else(error) => {
                Err(error).during("read", &self.at(&[NAMES, &encoded.shown()]))
            }
            Err(error) => {
                let place = self.at(&[NAMES, &encoded.shown()]).to_string();
                let error: Box<dyn std::error::Error + Send + Sync> = match error {
                    Unread::Os(error) => error.into(),
                    Unread::Malformed(error) => error.into(),
                };
                Err(Error::new(ErrorKind::Corrupt, format!("{place} is malformed"))
                    .because(error)
                    .hint("overlay2 gc removes it; tag the image again"))
            }
        }
    }

    /// The image that exactly this name means.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the name's record is malformed.
    pub fn image_named(&self, name: &str) -> Result<Option<Digest>> {
        let record = self.read_name(encode(name).as_bytes())?;
        Ok(record.filter(|record| record.name == name).map(|record| record.image))
    }

    /// All names with the images that they mean, sorted.
    ///
    /// # Errors
    /// As the operating system has them; a name that vanishes meanwhile is left out, and so is one
    /// whose record is malformed.
    pub fn image_names(&self) -> Result<Vec<(String, Digest)>> {
        let mut names = Vec::new();
        for entry in self.top(NAMES).entries().during("list", &self.at(&[NAMES]))? {
            let record = unless_broken(self.read_name(&entry.name))?;
            names.extend(record.map(|record| (record.name, record.image)));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The names of one image, sorted.
    pub(crate) fn names_of(&self, id: &Digest) -> Result<Vec<String>> {
        self.some_names_of(id, usize::MAX)
    }

    /// Whether an image has more names than one.
    #[cfg(feature = "image")]
    pub(crate) fn has_several_names(&self, id: &Digest) -> Result<bool> {
        Ok(self.some_names_of(id, 2)?.len() > 1)
    }

    /// Names of one image, sorted: all of them, or as many as are asked for.
    pub(super) fn some_names_of(&self, id: &Digest, most: usize) -> Result<Vec<String>> {
        let path = crate::LayerPath::parse(id.hex().as_bytes())?.join(IMAGE_NAMES);
        let listed = self.top(IMAGES).descend(&path).and_then(|dir| dir.entries());
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) if is_no_directory(error) => Vec::new(),
            Err(error) => return Err(error).during("list", &self.at(&[IMAGES, &id.hex()])),
        };
        let mut names = Vec::new();
        for entry in entries {
            let record = unless_broken(self.read_name(&entry.name))?;
            names.extend(record.filter(|record| record.image == *id).map(|record| record.name));
            if names.len() == most {
                break;
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Finds an image by what a person calls it: its full ID, a name, or the start of its ID.
    ///
    /// A name without a tag means `:latest`. Docker leaves `docker.io/library/` and `docker.io/`
    /// out of the names that it writes into archives, and other tools do not: a name is found
    /// either way, the exact one first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where the start of an ID is that of
    /// several images, which the message lists.
    pub fn find_image(&self, text: &str) -> Result<Image> {
        let (record, _) = self.image_called(text)?;
        let names = self.names_of(&record.id)?;
        Ok(Image { record, names })
    }

    /// The record of the image that is meant, and the name by which it was found, where that was a
    /// name; as [`find_image`](Self::find_image) finds it, whose other names are not read.
    pub(crate) fn image_called(&self, text: &str) -> Result<(ImageRecord, Option<String>)> {
        let (id, name) = self.resolve_image(text)?;
        let record = self.image_record(&id)?.ok_or_else(|| no_image(text))?;
        Ok((record, name))
    }

    /// The ID of the image that is meant, as [`find_image`](Self::find_image) finds it, and no more.
    ///
    /// # Errors
    /// As [`find_image`](Self::find_image).
    pub fn image_id(&self, text: &str) -> Result<Digest> {
        self.resolve_image(text).map(|(id, _)| id)
    }

    /// The image that is meant, and the name by which it was found.
    fn resolve_image(&self, text: &str) -> Result<(Digest, Option<String>)> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(id) = Digest::from_hex(digits)
            && self.exists(Object::Image(id))?
        {
            return Ok((id, None));
        }
        for name in spellings(text) {
            if let Some(id) = self.image_named(&name)?
                && self.exists(Object::Image(id))?
            {
                return Ok((id, Some(name)));
            }
        }
        let image = |name: &str| Digest::from_hex(name).ok().map(Object::Image);
        match self.beginning(IMAGES, digits, "image IDs", image)? {
            Some(Object::Image(id)) => Ok((id, None)),
            _ => Err(no_image(text)),
        }
    }

    /// Removes an image by what a person calls it, as [`find_image`](Self::find_image) finds it.
    ///
    /// By one of several names, only that name is removed. Else the image goes, and with it its
    /// chains and layers, as far as nothing else stands on them and they are not pinned. Returns
    /// once it is gone from sight; [`empty_trash`](Self::empty_trash) frees the space.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InUse`] where a container stands on it, or where it is
    /// given by its ID and has several names; the message names them.
    pub fn remove_image(&self, text: &str) -> Result<RemovedImage> {
        self.writable()?;
        let (id, name) = self.resolve_image(text)?;
        let object = Object::Image(id);
        let (held, names) = loop {
            // However many there are, two tell that it has several.
            let names = self.some_names_of(&id, 2)?;
            if names.len() > 1 {
                let Some(name) = name else {
                    return Err(several_names(text, &self.names_of(&id)?));
                };
                self.untag(&name)?;
                return Ok(RemovedImage::Untagged { name });
            }
            let held = self.claim_unused(object)?;
            // One more may have been given until now; none can be any more.
            if self.some_names_of(&id, 2)? == names {
                break (held, names);
            }
        };
        let below = self.uses_of(object, held.dir())?;
        self.discard(object)?;
        self.sync_top(IMAGES)?;
        self.unlink(object, held.dir())?;
        let chain = below.into_iter().find_map(|below| match below {
            Object::Chain(chain) => Some(chain),
            _ => None,
        });
        Ok(RemovedImage::Removed { id, names, chain })
    }
}

/// Whether an image may be called so.
pub(super) fn check_image_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{name:?} cannot be the name of an image"),
        ));
    }
    Ok(())
}

/// The names by which the store may know what a person calls `text`, the likeliest first.
fn spellings(text: &str) -> Vec<String> {
    let tagged = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
    };
    let mut names = vec![text.to_owned(), tagged(text)];
    for prefix in ["docker.io/library/", "index.docker.io/library/", "docker.io/"] {
        names.extend(text.strip_prefix(prefix).map(&tagged));
    }
    // The first part is a registry where it looks like a host.
    let registry = text
        .split_once('/')
        .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    if !registry {
        names.push(tagged(&format!("docker.io/{text}")));
        if !text.contains('/') {
            names.push(tagged(&format!("docker.io/library/{text}")));
        }
    }
    names
}

fn several_names(text: &str, names: &[String]) -> Error {
    let names = names.join(", ");
    Error::new(ErrorKind::InUse, format!("image {text} has several names: {names}"))
        .hint("remove it by each of its names")
}

fn no_image(text: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no image {text:?}"))
        .hint("overlay2 images lists what is there")
}

#[cfg(test)]
mod tests {
    use super::spellings;

    #[test]
    fn short_and_full_names_meet() {
        let finds = |asked: &str, stored: &str| spellings(asked).iter().any(|name| name == stored);
        for (asked, stored) in [
            ("alpine", "alpine"),
            ("alpine", "alpine:latest"),
            ("alpine:3.18", "docker.io/library/alpine:3.18"),
            ("docker.io/library/alpine", "alpine:latest"),
            ("docker.io/bitnami/redis:7", "bitnami/redis:7"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
        ] {
            assert!(finds(asked, stored), "{asked} {stored}");
        }
        assert!(!finds("quay.io/app", "docker.io/quay.io/app:latest"));
        assert!(!finds("app:1", "app:1:latest"));
    }
}
