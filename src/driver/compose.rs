//! Stacks composed: which directories stand for a chain, and what its root looks like.

use std::collections::HashSet;

use super::Driver;
use crate::digest::ChainId;
use crate::error::{Context, Result};
use crate::format::Ownership;
use crate::format::lookup::{Redirects, Stack};
use crate::format::override_stat::{self, OverrideStat};
use crate::inode::Inode;
use crate::store::LayerKey;
use crate::sys::{Dir, inode_io};

/// The directories of a chain.
#[derive(Debug, Default)]
pub(super) struct Composed {
    /// Those that are mounted, topmost first, each once.
    pub(super) layers: Vec<LayerKey>,
    /// The topmost whose changeset has an entry for the root.
    pub(super) root: Option<LayerKey>,
}

/// A chain's tree, to be read.
pub(super) struct Below {
    pub(super) stack: Stack,
}

impl Driver {
    /// Finds the directories that stand for a chain.
    ///
    /// A diff that stands in it more than once is mounted once, where it is topmost: what is on top
    /// repeats all that the lower one says, and the kernel refuses one directory twice. Below an
    /// opaque root nothing is mounted: the kernel does not look at that mark.
    pub(super) fn compose(&self, chain: Option<&ChainId>) -> Result<Composed> {
        let mut composed = Composed::default();
        let Some(chain) = chain else { return Ok(composed) };
        let mut seen = HashSet::new();
        let mut hidden = false;
        for entry in self.store.stack(chain)? {
            let key = entry.layer();
            if entry.explicit_root {
                composed.root.get_or_insert(key);
            }
            if !hidden && seen.insert(key) {
                composed.layers.push(key);
            }
            hidden |= entry.opaque_root;
        }
        Ok(composed)
    }

    /// The attributes of a chain's root directory.
    pub(super) fn root_of(&self, composed: &Composed) -> Result<Inode> {
        match &composed.root {
            None => {
                let mut root = Inode::default_directory();
                if self.ownership == Ownership::Recorded {
                    let value = OverrideStat::of(&root).encode();
                    root.xattrs.insert(override_stat::NAME.to_vec(), value);
                }
                Ok(root)
            }
            Some(key) => {
                let dir = self.store.open_layer(key)?;
                inode_io::read_self(&dir).during("read root of", &self.store.layer_path(key))
            }
        }
    }

    /// Opens the directories of a chain, topmost first.
    pub(super) fn open_layers(&self, composed: &Composed) -> Result<Vec<Dir>> {
        composed.layers.iter().map(|key| self.store.open_layer(key)).collect()
    }
}

impl Below {
    /// Opens the tree of a chain; of no chain, an empty one.
    pub(super) fn open(driver: &Driver, chain: Option<ChainId>) -> Result<Self> {
        let composed = driver.compose(chain.as_ref())?;
        let layers = driver.open_layers(&composed)?;
        let stack = Stack::new(layers, driver.store.namespace(), Redirects::Follow);
        Ok(Self { stack })
    }
}
