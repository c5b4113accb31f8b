//! Hard links to files that only the layers below have.

use std::collections::BTreeMap;

use super::super::copy_tree::{Folder, Folders, Keep, copy_file};
use super::Builder;
use super::places::{From, Missing, View, bad_link};
use crate::error::Result;
use crate::format::LowerLink;
use crate::layer_path::LayerPath;

impl Builder<'_> {
    /// Makes the links, each after the one that its target is.
    pub(super) fn links(&mut self, links: &[LowerLink]) -> Result<()> {
        let mut left: BTreeMap<&LayerPath, &LayerPath> =
            links.iter().map(|link| (&link.name, &link.target)).collect();
        for LowerLink { name, .. } in links {
            let mut chain = Vec::new();
            let mut at = name;
            while let Some(target) = left.remove(at) {
                chain.push((at, target));
                at = target;
            }
            for (name, target) in chain.into_iter().rev() {
                self.link(name, target)
                    .map_err(|error| error.within(format!("hard link {name}")))?;
                self.options.watch.check()?;
            }
        }
        Ok(())
    }

    fn link(&mut self, name: &LayerPath, target: &LayerPath) -> Result<()> {
        let (from, from_name) = self.target(name, target)?;
        let Some((parent, last)) = name.split() else { return Ok(()) };
        let walked = self.places.walk(Folders::ROOT, parent.components(), Missing::Imply)?;
        let Some(place) = walked else { return Ok(()) };
        let to = self.places.make(place)?;
        let from = self.places.folders.handle(from)?;
        self.create(place, last, || to.make_link(last, &from, &from_name))?;
        Ok(())
    }

    /// Where the file that is linked to is in the variant, into which it is copied if need be.
    fn target(&mut self, name: &LayerPath, target: &LayerPath) -> Result<(Folder, Vec<u8>)> {
        let missing = || bad_link(name, target, "which is not there");
        let directory = || bad_link(name, target, "which is a directory");
        let Some((parent, last)) = target.split() else { return Err(directory()) };
        let walked = self.places.walk(Folders::ROOT, parent.components(), Missing::Leave)?;
        let place = walked.ok_or_else(missing)?;
        let mut view = self.places.view(place, last)?;
        if let View::Place(known) = view {
            if self.places.get(known).made {
                return Err(directory());
            }
            view = self.places.view_beside_places(place, last)?;
        }
        let found = match view {
            View::Symlink(_, found) | View::File(found) => found,
            View::Place(_) | View::Directory => return Err(directory()),
            View::Deleted => return Err(bad_link(name, target, "which is deleted")),
            View::Absent => return Err(missing()),
        };
        if let From::Below(dir, stat) = found {
            let to = self.places.make(place)?;
            let keep = Keep::Shown(self.namespace);
            self.create(place, last, || copy_file((&dir, last, &stat), (&to, last), keep))?;
        }
        Ok((place, last.to_vec()))
    }
}
