//! What can be chosen where a changeset is written, and what is told of one that was.

/// How a changeset is written. The default: all that the kernel copied up, times to the
/// nanosecond, owners as they are recorded, the root only where it was changed.
///
/// The same UpperDir over the same layers gives the same bytes for the same options, on every file
/// system.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// Which files count as changed.
    pub view: View,
    /// What becomes of owners and types that are recorded in an attribute.
    pub recorded: Recorded,
    /// How exact times are.
    pub times: Times,
    /// Times after this one, in seconds since 1970, are replaced by it (`SOURCE_DATE_EPOCH`).
    pub source_date_epoch: Option<i64>,
    /// The time of whiteouts and opaque markers, in seconds since 1970. It is one for all, and not
    /// that of the mark on disk, which tells of nothing but the moment of a deletion.
    pub mark_time: i64,
    /// Whether the root directory has an entry.
    pub root: RootEntry,
}

/// Which of the files in an UpperDir count as changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum View {
    /// All of them, as `docker diff` has it: also a directory that was only copied up because
    /// something in it changed.
    #[default]
    Kernel,
    /// Those that differ from what lies below in type, mode, owner, time, attributes or content.
    /// A file with several names, here or below, counts as changed.
    Pruned,
}

/// What becomes of owners, modes and device types that a plain user could not set, and which are
/// recorded in the attribute `user.containers.override_stat`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recorded {
    /// Entries show what is recorded, and the attribute is left out.
    #[default]
    Show,
    /// Entries show what the file on disk is, and the attribute is kept like any other.
    Keep,
}

/// How exact the times in a changeset are.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Times {
    /// To the nanosecond, in an extended header where there is a fraction.
    #[default]
    Nanoseconds,
    /// To the second, rounded down.
    Seconds,
}

/// Whether the root directory has an entry of its own, `./`, before all others.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RootEntry {
    /// Where its mode, owner or attributes differ from the root's below; its time does not count.
    /// Where nothing lies below, a root that differs from mode 0755 and owner 0:0.
    #[default]
    WhenChanged,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What was written.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiffSummary {
    /// Entries of the archive, whiteouts and opaque markers included.
    pub entries: u64,
    /// Whiteouts among them.
    pub whiteouts: u64,
    /// Opaque markers among them.
    pub opaques: u64,
    /// Sockets that were left out: a tar has no type for them.
    pub sockets: u64,
    /// Bytes of content of regular files, a file with several names counted once.
    pub data: u64,
    /// Bytes of the whole archive.
    pub bytes: u64,
}
