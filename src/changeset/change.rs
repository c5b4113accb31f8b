//! [`Change`]: one difference between an UpperDir and what lies below it.

use std::fmt;

use crate::layer_path::LayerPath;

/// One name that a container added, modified or deleted.
///
/// `Display` prints it as `docker diff` does: `A /path`, `C /path`, `D /path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Change {
    /// The name, from the root of the tree.
    pub path: LayerPath,
    /// What happened to it.
    pub kind: ChangeKind,
    /// The bytes of a regular file's content now; 0 for everything else.
    pub size: u64,
}

/// What happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Nothing of that name lies below.
    Added,
    /// Something of that name lies below, of the same type or of another.
    Modified,
    /// It lies below and shows no more. Of a deleted directory only its own name is told.
    Deleted,
}

impl ChangeKind {
    /// The letter that `docker diff` prints: `A`, `C` or `D`.
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Modified => 'C',
            Self::Deleted => 'D',
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.letter(), self.path)
    }
}
