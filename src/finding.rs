//! [`FindingKind`]: what can be wrong with a store.

use std::fmt;

use serde::Serialize;

/// What is wrong.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A file or directory of a layer is not there.
    Missing,
    /// A file or directory is there that is not of the layer.
    Extra,
    /// It is of another type: a directory instead of a file, say.
    Type,
    /// The content of a file is not what it was, or cannot be read.
    Contents,
    /// Other permission bits.
    Mode,
    /// Another owner or group.
    Owner,
    /// Another time of its last change.
    Time,
    /// Other extended attributes.
    Xattrs,
    /// A symlink leads elsewhere.
    LinkTarget,
    /// Two names of one file are names of two, or the other way round.
    HardLink,
    /// Another device number.
    Device,
    /// Another digest than its name says, and no file of it to blame.
    Digest,
    /// A record is missing, cannot be read, or does not fit.
    Record,
    /// It stands on something, or names something, that is not there.
    Dangling,
    /// It is used, and does not know of its user: it could be removed beneath it.
    Unlinked,
    /// Nothing uses it; `gc` removes it.
    Orphan,
    /// Half-made, and its maker is dead; `gc` removes it.
    Leftover,
    /// It is nothing that stands in a store.
    Foreign,
}

impl FindingKind {
    /// Whether files of a layer, or what is kept of them, are not what they were: what a repair is
    /// there for.
    pub const fn is_damage(self) -> bool {
        !matches!(
            self,
            Self::Dangling | Self::Unlinked | Self::Orphan | Self::Leftover | Self::Foreign
        )
    }

    /// The kind in one word, as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Contents => "contents",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Time => "time",
            Self::Xattrs => "xattrs",
            Self::LinkTarget => "link-target",
            Self::HardLink => "hard-link",
            Self::Device => "device",
            Self::Digest => "digest",
            Self::Record => "record",
            Self::Dangling => "dangling",
            Self::Unlinked => "unlinked",
            Self::Orphan => "orphan",
            Self::Leftover => "leftover",
            Self::Foreign => "foreign",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
