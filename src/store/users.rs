//! The back links of an object: who uses it, told by its `users/` directory, or, where that is
//! damaged, by the records of all that could.

use rustix::io::Errno;

use super::Store;
use super::layout::{CHAINS, CONTAINERS, IMAGES, Object, USERS};
use crate::digest::{ChainId, Digest};
use crate::error::{Context, ErrorKind, Result};
use crate::sys::Dir;
use crate::sys::dir::SysResult;

/// The back links of an object.
#[derive(Debug)]
pub(super) struct BackLinks {
    /// Their directory; `None` where that is damaged.
    dir: Option<Dir>,
    /// The tag of each user.
    pub(super) tags: Vec<Box<[u8]>>,
}

impl BackLinks {
    /// Removes one of them; one that is not there is none.
    pub(super) fn remove(&self, tag: &[u8]) -> SysResult<()> {
        match self.dir.as_ref().map_or(Ok(()), |dir| dir.remove_file(tag)) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

/// Whether an error says that something is not there, or stands beneath what is no directory.
pub(super) fn is_no_directory(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

impl Store {
    /// The back links of the object whose directory is `dir`.
    pub(super) fn back_links(&self, object: Object, dir: &Dir) -> Result<BackLinks> {
        let listed = || {
            let users = dir.child(USERS)?;
            let tags = users.entries()?.into_iter().map(|entry| entry.name).collect();
            Ok(BackLinks { dir: Some(users), tags })
        };
        match listed() {
            // What lost its links is still used: nothing goes because they are damaged.
            Err(error) if is_no_directory(error) => {
                Ok(BackLinks { dir: None, tags: self.search_users(object)? })
            }
            listed => listed.during("list", &self.shown_users(object)),
        }
    }

    /// The same of an object that nobody holds; none where it is not there.
    pub(super) fn back_links_of(&self, object: Object) -> Result<Vec<Box<[u8]>>> {
        let name = object.name();
        match self.top(object.place()).child(name.as_bytes()) {
            Ok(dir) => Ok(self.back_links(object, &dir)?.tags),
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(error) => Err(error).during("open", &self.at(&[object.place(), &name])),
        }
    }

    /// Those whose record says that they use an object, or cannot be read.
    fn search_users(&self, object: Object) -> Result<Vec<Box<[u8]>>> {
        let uses =
            |used: &Option<Vec<Object>>| used.as_ref().is_none_or(|used| used.contains(&object));
        let users = self.all_uses()?.into_iter().filter(|(_, used)| uses(used));
        Ok(users.map(|(user, _)| user.tag().into_bytes().into_boxed_slice()).collect())
    }

    /// What each chain, image and container uses, by its record; `None` for one that cannot be read.
    pub(super) fn all_uses(&self) -> Result<Vec<(Object, Option<Vec<Object>>)>> {
        let chain =
            |name: &str| Digest::from_hex(name).ok().map(|id| Object::Chain(ChainId::new(id)));
        let mut users = self.list(CHAINS, chain)?;
        users.extend(self.list(IMAGES, |name| Digest::from_hex(name).ok().map(Object::Image))?);
        users.extend(self.list(CONTAINERS, |name| name.parse().ok().map(Object::Container))?);
        let mut found = Vec::with_capacity(users.len());
        for user in users {
            let Ok(dir) = self.top(user.place()).child(user.name().as_bytes()) else { continue };
            match self.read_uses_of(user, &dir) {
                Ok(used) => found.push((user, Some(used))),
                Err(error) if error.kind() == ErrorKind::Corrupt => found.push((user, None)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Makes the back links that are missing, as far as the records tell of them.
    #[cfg(feature = "image")]
    pub(crate) fn relink(&self) -> Result<()> {
        for (user, used) in self.all_uses()? {
            for object in used.into_iter().flatten() {
                if self.has_link(object, user)? {
                    continue;
                }
                let Some(held) = self.lease(object)? else { continue };
                // Where the links' directory is something else, a check tells of it. Who is being removed
                // at this moment leaves a link that says nothing.
                if held.users().is_ok() && self.exists(user)? {
                    self.writable()?;
                    let users = self.link_user(&held, object, user)?;
                    let synced = self.durability().sync_names(&users);
                    synced.during("sync", &self.shown_users(object))?;
                }
            }
        }
        Ok(())
    }
}
