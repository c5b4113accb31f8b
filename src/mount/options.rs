//! What can be chosen of a mount.

use crate::namespace::Namespace;

/// How a stack is mounted. The defaults are the safe ones: redirects are neither followed nor
/// written, and everything is synced when it is unmounted.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Whether the tree can be written.
    pub access: MountAccess,
    /// Whether what was written survives a crash.
    pub syncing: Syncing,
    /// What programs in the tree may not do.
    pub restrict: Restrictions,
    /// By which system calls; for tests, and for kernels that promise more than they do.
    pub way: Way,
}

/// Whether a mounted tree can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountAccess {
    /// Yes, into the UpperDir.
    #[default]
    ReadWrite,
    /// No.
    ReadOnly,
}

/// Whether what was written into a mount survives a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Syncing {
    /// As on any file system.
    #[default]
    Normal,
    /// Nothing is ever synced (`volatile`, Linux 5.10): much faster, but after a crash the UpperDir
    /// may be torn, and is refused.
    Volatile,
}

/// What programs in a mounted tree may not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Devices cannot be opened.
    pub nodev: bool,
    /// Set-user-ID and capabilities have no effect.
    pub nosuid: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

/// The system calls by which an overlay is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// The first of the others that the kernel has.
    #[default]
    Best,
    /// `fsopen`, layers handed over as descriptors (Linux 6.13): needs no path at all.
    Descriptors,
    /// `fsopen`, layers named one by one (Linux 6.8).
    Strings,
    /// `mount(2)`: all options in one page, so only as many layers as fit it.
    Classic,
}

/// The options of overlayfs itself for a mount, as key and value; none where it is a flag.
pub(super) fn of_overlay(
    namespace: Namespace,
    has_upper: bool,
    options: &MountOptions,
) -> Vec<(&'static str, Option<&'static str>)> {
    let mut list = match namespace {
        // Redirects and metacopy can show files that the layer below does not mean to show, and
        // are a format that a plain user's kernel refuses.
        Namespace::Trusted => vec![
            ("redirect_dir", Some("nofollow")),
            ("index", Some("off")),
            ("metacopy", Some("off")),
            ("xino", Some("auto")),
        ],
        // These are off by themselves here, and naming some of them is refused.
        Namespace::User => vec![("userxattr", None), ("xino", Some("auto"))],
    };
    if options.syncing == Syncing::Volatile && has_upper {
        list.push(("volatile", None));
    }
    list
}
