//! How much a container may hold.

use serde::{Deserialize, Serialize};

/// How much a container may hold, in its UpperDir and WorkDir together; neither limit by default.
///
/// A mount holds everybody to it. What is written through the userspace tree is counted, but ext4 lets
/// a process with `CAP_SYS_RESOURCE` go beyond, XFS does not: see [`hold_this_thread`](Self::hold_this_thread).
///
/// ```
/// use overlay2::Quota;
///
/// let quota = Quota { bytes: Some(10 << 30), ..Quota::default() };
/// assert!(!quota.is_unlimited());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The bytes of all blocks that its files occupy, directories among them; file systems count in
    /// blocks, so that a limit holds to within 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its files, directories and other inodes. An empty container has three or four: its root, and
    /// the directories that the kernel makes in the WorkDir.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
}

impl Quota {
    /// Whether it allows any amount of both.
    pub const fn is_unlimited(&self) -> bool {
        self.bytes.is_none() && self.inodes.is_none()
    }
}
