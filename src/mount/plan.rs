//! [`plan`]: what is to be mounted, decided without a single system call.

use super::options::{MountAccess, MountOptions, of_overlay};
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::Namespace;

/// The most lower layers that overlayfs takes (`OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;

/// What a mount is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// How many lower layers there are.
    pub layers: usize,
    /// Whether there is an UpperDir, with its WorkDir.
    pub upper: bool,
    /// Where the layers' marks are.
    pub namespace: Namespace,
}

/// What is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    pub(super) kind: Kind,
    pub(super) layers: usize,
    pub(super) options: MountOptions,
}

/// The kinds of mount that a tree can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An overlay, with these options.
    Overlay { upper: bool, list: Vec<(&'static str, Option<&'static str>)> },
    /// The one layer itself, read-only: overlayfs wants two.
    Bind,
}

/// Decides how parts are mounted.
///
/// # Errors
/// [`ErrorKind::LimitExceeded`] for more than [`MAX_LAYERS`] layers; [`ErrorKind::InvalidInput`] for
/// none.
pub fn plan(parts: Parts, options: &MountOptions) -> Result<MountPlan> {
    let Parts { layers, upper, namespace } = parts;
    if layers > MAX_LAYERS {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("{layers} layers, and overlayfs mounts {MAX_LAYERS}"),
        )
        .hint(
            "make an image of fewer layers: overlay2 export CONTAINER | overlay2 import - NAME",
        ));
    }
    if layers == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "no layer to mount"));
    }
    let read_only = options.access == MountAccess::ReadOnly;
    if !upper && !read_only {
        return Err(Error::new(ErrorKind::InvalidInput, "no UpperDir to write to")
            .hint("mount read-only, or give an UpperDir and a WorkDir"));
    }
    let kind = if !upper && layers == 1 {
        Kind::Bind
    } else {
        Kind::Overlay { upper, list: of_overlay(namespace, upper, options) }
    };
    Ok(MountPlan { kind, layers, options: *options })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Syncing;

    fn parts(layers: usize, upper: bool) -> Parts {
        Parts { layers, upper, namespace: Namespace::Trusted }
    }

    #[test]
    fn e41_numbers_of_layers() {
        let read_only = MountOptions { access: MountAccess::ReadOnly, ..Default::default() };
        assert_eq!(plan(parts(1, false), &read_only).unwrap().kind, Kind::Bind);
        for (layers, upper) in [(1, true), (2, false), (500, true), (500, false)] {
            let plan = plan(parts(layers, upper), &read_only).unwrap();
            assert!(matches!(plan.kind, Kind::Overlay { .. }), "{layers} {upper}");
        }
        let error = plan(parts(501, true), &MountOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(error.to_string().contains("500"), "{error}");
        assert!(plan(parts(0, true), &MountOptions::default()).is_err());
        assert!(plan(parts(2, false), &MountOptions::default()).is_err());
    }

    #[test]
    fn the_options_are_the_safe_ones() {
        let volatile = MountOptions { syncing: Syncing::Volatile, ..Default::default() };
        let Kind::Overlay { list, .. } = plan(parts(3, true), &volatile).unwrap().kind else {
            panic!("an overlay");
        };
        for option in
            [("redirect_dir", Some("nofollow")), ("index", Some("off")), ("volatile", None)]
        {
            assert!(list.contains(&option), "{option:?}");
        }
        let user = Parts { namespace: Namespace::User, ..parts(3, true) };
        let Kind::Overlay { list, .. } = plan(user, &MountOptions::default()).unwrap().kind else {
            panic!("an overlay");
        };
        assert!(list.contains(&("userxattr", None)) && list.iter().all(|o| o.0 != "redirect_dir"));
    }
}
