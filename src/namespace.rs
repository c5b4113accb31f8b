//! [`Namespace`]: where overlayfs keeps its attributes, and how a container's own are kept apart.

use serde::{Deserialize, Serialize};

/// Where overlayfs keeps its attributes: a mount uses one of the two, never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// `trusted.overlay.`: mounts made by root.
    Trusted,
    /// `user.overlay.`: mounts with the option `userxattr`, as in a user namespace.
    User,
}

impl Namespace {
    /// The prefix of every name, with its last dot.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    /// The full name of one of the kernel's private attributes.
    pub(crate) fn name(self, mark: &str) -> Vec<u8> {
        [self.prefix(), mark].concat().into_bytes()
    }

    /// How an attribute that belongs to the container is stored in a layer: one in this namespace
    /// gets one more `overlay.`, so that overlayfs does not take it for its own.
    pub(crate) fn escape(self, name: &[u8]) -> Vec<u8> {
        match name.strip_prefix(self.prefix().as_bytes()) {
            Some(rest) => [self.prefix().as_bytes(), b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }

    /// The name that a container sees for a stored attribute; `None` for overlayfs's own.
    pub(crate) fn unescape(self, name: &[u8]) -> Option<Vec<u8>> {
        match name.strip_prefix(self.prefix().as_bytes()) {
            None => Some(name.to_vec()),
            Some(rest) => {
                let rest = rest.strip_prefix(b"overlay.")?;
                Some([self.prefix().as_bytes(), rest].concat())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_and_back() {
        for (namespace, plain, stored) in [
            (Namespace::Trusted, "trusted.overlay.opaque", "trusted.overlay.overlay.opaque"),
            (
                Namespace::Trusted,
                "trusted.overlay.overlay.opaque",
                "trusted.overlay.overlay.overlay.opaque",
            ),
            (Namespace::Trusted, "user.overlay.opaque", "user.overlay.opaque"),
            (Namespace::User, "user.overlay.redirect", "user.overlay.overlay.redirect"),
            (Namespace::User, "trusted.overlay.redirect", "trusted.overlay.redirect"),
            (Namespace::Trusted, "user.comment", "user.comment"),
        ] {
            assert_eq!(namespace.escape(plain.as_bytes()), stored.as_bytes());
            assert_eq!(namespace.unescape(stored.as_bytes()).unwrap(), plain.as_bytes());
        }
        assert_eq!(Namespace::Trusted.unescape(b"trusted.overlay.origin"), None);
        assert_eq!(Namespace::User.unescape(b"user.overlay.whiteout"), None);
    }
}
