//! [`Owners`]: whose ids the owners of a layer's files are.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::format::Ownership;
use crate::id_map::IdMap;
use crate::sys::userns;

/// Whose ids the owners of a layer's files are.
///
/// A file that was given to user 33 in a user namespace belongs to another user outside of it, so
/// a layer can be compared with its list only where ids are what they were when it was unpacked.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Owners {
    /// Those of the changeset, where all ids are themselves.
    #[default]
    Exact,
    /// Those of the changeset, in a user namespace with these maps.
    Mapped {
        /// As `/proc/self/uid_map` has them there.
        uids: String,
        /// As `/proc/self/gid_map` has them there.
        gids: String,
    },
    /// The store's own; those of the changeset are recorded in an attribute.
    Recorded,
}

impl Owners {
    /// What layers have that this process unpacks.
    ///
    /// # Errors
    /// Where `/proc` is not that of Linux.
    pub(crate) fn here(ownership: Ownership) -> Result<Self> {
        if ownership == Ownership::Recorded {
            return Ok(Self::Recorded);
        }
        // Which has all ids, each as itself.
        if userns::in_initial_namespace() {
            return Ok(Self::Exact);
        }
        match userns::current_maps() {
            Ok((uids, gids)) if uids.is_identity() && gids.is_identity() => Ok(Self::Exact),
            Ok((uids, gids)) => Ok(Self::Mapped { uids: shown(&uids), gids: shown(&gids) }),
            // Without /proc nothing is known of namespaces.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Exact),
            Err(error) => Err(error),
        }
    }

    /// Whether this process sees the owners of such a layer's files as they were given.
    ///
    /// # Errors
    /// As [`here`](Self::here).
    pub(crate) fn are_seen_here(&self) -> Result<bool> {
        Ok(*self == Self::Recorded || *self == Self::here(Ownership::Exact)?)
    }

    /// How files of such a layer are given to their owners.
    pub(crate) fn ownership(&self) -> Ownership {
        match self {
            Self::Recorded => Ownership::Recorded,
            Self::Exact | Self::Mapped { .. } => Ownership::Exact,
        }
    }

    pub(super) fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

fn shown(map: &IdMap) -> String {
    map.to_string().trim_end().to_owned()
}
