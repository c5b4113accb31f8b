//! Paths at which symlinks below would have led entries elsewhere when those came: directories that
//! the changeset only implied and replaced later on, and the like.

use rustix::fs::FileType;

use super::super::copy_tree::{Folder, Folders};
use super::Builder;
use super::places::{From, Missing, Place, View};
use crate::error::{Context, Result};
use crate::format::lookup::Found;
use crate::layer_path::LayerPath;
use crate::sys::dir::type_of;

impl Builder<'_> {
    /// Finds out which of them are symlinks below, through which entries went to where they lead.
    pub(super) fn replaced(&mut self, replaced: &[LayerPath]) -> Result<()> {
        for path in replaced {
            let Some((above, rest)) = self.as_far_as_there(path)? else { continue };
            if !self.places.shows_below(above) {
                continue;
            }
            let above = self.places.folders.path(above);
            let at = rest.components().fold(above, |at, name| at.join(name));
            let Some((parent, name)) = at.split() else { continue };
            if let Found::File(file) = self.places.below.look(&parent, name)?
                && type_of(&file.stat) == FileType::Symlink
            {
                let dir = self.places.below.part(&parent, file.part)?;
                let target = dir.read_link(name).during("read link", &at)?;
                self.places.links_below.insert(at, target);
                self.places.in_order = true;
            }
        }
        Ok(())
    }

    /// The last directory on the way to `path`, and what is left of the path: from there on the
    /// layer has something else, and what it had before lay over the layers below alone. `None`
    /// where the layer deletes that.
    fn as_far_as_there(&mut self, path: &LayerPath) -> Result<Option<(Folder, LayerPath)>> {
        let (mut at, mut passed) = (Folders::ROOT, LayerPath::root());
        for name in path.components() {
            let next = match self.places.view(at, name)? {
                View::Place(place) => Some(place),
                View::Directory => Some(self.places.add(at, name, Place::default())),
                View::Symlink(_, From::Below(..)) if passed.join(name) != *path => {
                    self.places.walk(at, [name].into_iter(), Missing::Leave)?
                }
                View::Deleted => return Ok(None),
                View::Symlink(..) | View::File(_) | View::Absent => None,
            };
            let Some(next) = next else { break };
            at = next;
            passed = passed.join(name);
        }
        Ok(path.below(&passed).map(|rest| (at, rest)))
    }
}
