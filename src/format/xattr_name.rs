//! The names of overlayfs's extended attributes, without their namespace.

/// The kernel's private attributes, without their namespace.
pub(crate) mod mark {
    /// On a directory: `y` hides what lies below, `x` says that it may hold xattr whiteouts.
    pub(crate) const OPAQUE: &str = "opaque";
    /// On an empty regular file: the name is gone.
    pub(crate) const WHITEOUT: &str = "whiteout";
    /// The name under which the layers below know this file.
    pub(crate) const REDIRECT: &str = "redirect";
    /// The file's data lies below.
    pub(crate) const METACOPY: &str = "metacopy";
    /// The file was copied up; the value tells from where, or is empty.
    pub(crate) const ORIGIN: &str = "origin";
    /// The directory holds entries with an origin.
    pub(crate) const IMPURE: &str = "impure";
}
