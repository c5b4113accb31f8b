//! [`Assumptions`]: what a changeset, unpacked alone, takes for granted of the layers below it.

use serde::{Deserialize, Serialize};

use crate::layer_path::LayerPath;

/// What a layer directory, unpacked without its parents, assumes of what will lie below it.
///
/// Most changesets assume nothing. Where an assumption does not hold under a stack, the layer
/// directory is right only after it was resolved against that stack, as a variant of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Assumptions {
    /// Directories that the changeset only implies, by an entry beneath them. They were made with
    /// default attributes, which is right only where nothing of that name lies below.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub implied: Vec<LayerPath>,
    /// Directories that hold whiteouts, opaque ones left out: right only where a directory of that
    /// name lies below, since the kernel shows whiteouts in a directory that merges with nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub whited: Vec<LayerPath>,
    /// Whiteouts that were left out since they stand in, or beneath, a directory that is implied and
    /// opaque. They say something only where that directory is a symlink below, in which an opaque
    /// marker has no meaning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unwritten: Vec<LayerPath>,
    /// Paths that led elsewhere if they were symlinks below, when entries came: directories that the
    /// changeset only implied and replaced by something else later on, with what it had put into them;
    /// those that its symlinks lead out of again by `..`; and what was replaced after a hard link had
    /// led through it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<LayerPath>,
    /// Hard links to files that the changeset does not hold; they were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LowerLink>,
}

/// A hard link to a file that only a lower layer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowerLink {
    /// The new name.
    pub name: LayerPath,
    /// The file that it is to be a name of.
    pub target: LayerPath,
}

impl Assumptions {
    /// Whether the layer is right on any stack.
    pub fn is_empty(&self) -> bool {
        self.implied.is_empty()
            && self.whited.is_empty()
            && self.replaced.is_empty()
            && self.links.is_empty()
    }
}
