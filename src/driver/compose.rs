//! Stacks composed: which directories stand for a chain, and what its root looks like.

use std::collections::HashSet;
use std::sync::Arc;

use super::Driver;
use crate::digest::ChainId;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::Ownership;
use crate::format::lookup::{Redirects, Stack};
use crate::format::override_stat::{self, OverrideStat};
use crate::id_map::Ids;
use crate::inode::Inode;
use crate::mount::{self, Showing};
use crate::namespace::Namespace;
use crate::store::{LayerKey, LeasedChain, StackEntry, Staging};
use crate::sys::userns::UserNamespace;
use crate::sys::{Dir, inode_io};

/// The directories of a chain.
#[derive(Debug, Default)]
pub(super) struct Composed {
    /// Those that are mounted, topmost first, each once.
    pub(super) layers: Vec<LayerKey>,
    /// Those that nothing is seen of, each part of the stack topmost first: an opaque root stands
    /// above each.
    pub(super) hidden: Vec<Vec<LayerKey>>,
    /// The topmost whose changeset has an entry for the root.
    pub(super) root: Option<LayerKey>,
}

impl Composed {
    /// The directories that are mounted, then those of each part of the stack that is not seen.
    pub(super) fn segments(&self) -> impl Iterator<Item = &[LayerKey]> {
        std::iter::once(&self.layers).chain(&self.hidden).map(Vec::as_slice)
    }
}

/// Layers to be read, topmost first, and what keeps them in the store.
pub(super) struct Opened {
    pub(super) layers: Vec<Dir>,
    pub(super) kept: Kept,
}

/// A chain's tree, to be read.
pub(super) struct Below {
    pub(super) stack: Stack,
    _kept: Kept,
}

/// What has to be there while layers are read.
#[derive(Debug)]
pub(super) struct Kept {
    /// What the root looks like where no layer on top says so.
    _root: Option<Staging>,
    _lease: Option<LeasedChain>,
}

/// Finds the directories that stand for a stack, given topmost first.
///
/// A diff that stands in it more than once is mounted once, where it is topmost: what is on top
/// repeats all that the lower one says, and the kernel refuses one directory twice. Below an opaque
/// root nothing is mounted: the kernel does not look at that mark.
pub(super) fn composed<'a>(stack: impl IntoIterator<Item = &'a StackEntry>) -> Composed {
    let mut composed = Composed::default();
    let mut seen = HashSet::new();
    for entry in stack {
        let key = entry.layer();
        if entry.explicit_root {
            composed.root.get_or_insert(key);
        }
        if seen.insert(key) {
            composed.hidden.last_mut().unwrap_or(&mut composed.layers).push(key);
        }
        if entry.opaque_root {
            composed.hidden.push(Vec::new());
        }
    }
    composed
}

fn seen_by(shown: &Showing) -> String {
    match (shown.process, shown.namespace) {
        (Some(process), _) => format!(" for process {process}"),
        (None, Some(namespace)) => format!(" in the mount namespace mnt:[{namespace}]"),
        (None, None) => String::new(),
    }
}

impl Driver {
    /// Finds the directories that stand for a chain.
    pub(super) fn compose(&self, chain: Option<&ChainId>) -> Result<Composed> {
        let Some(chain) = chain else { return Ok(Composed::default()) };
        Ok(composed(&self.store.stack(chain)?))
    }

    /// Fails where a mount shows a layer that would go with `chain`, which is to be removed as `what`:
    /// the pin of the chain, or else a user of it. Mounts of containers keep their chain by themselves;
    /// this is for those of others.
    pub(super) fn refuse_shown(&self, chain: &ChainId, is_pin: bool, what: &str) -> Result<()> {
        let keys = |chain: &ChainId| -> Result<HashSet<String>> {
            Ok(self.store.stack(chain)?.iter().map(|entry| entry.layer().to_string()).collect())
        };
        let layers = self.store.layers_path();
        let own = self.store.containers_path();
        // One that is broken or not there is for the removal itself to judge.
        let Ok(mut names) = keys(chain) else { return Ok(()) };
        if mount::showing(&layers, &names, &own).is_none() {
            return Ok(());
        }
        // Those that stay are no matter.
        for other in self.store.chains()? {
            let goes = (is_pin && other == *chain) || self.goes_with(&other, chain)?;
            if !goes {
                let kept = keys(&other)?;
                names.retain(|name| !kept.contains(name));
            }
        }
        let Some(shown) = mount::showing(&layers, &names, &own) else { return Ok(()) };
        let (Showing { target, name, .. }, seen_by) = (&shown, seen_by(&shown));
        let target = target.display();
        let message =
            format!("{what} is in use: layer {name} is shown by the mount at {target}{seen_by}");
        Err(Error::new(ErrorKind::InUse, message).hint("unmount that first"))
    }

    /// Whether `other` is a part of `chain` from its bottom up that nothing keeps but what is above.
    fn goes_with(&self, other: &ChainId, chain: &ChainId) -> Result<bool> {
        let (part, whole) = (self.store.stack(other)?, self.store.stack(chain)?);
        Ok(whole.ends_with(&part) && !self.store.is_pinned(other)?)
    }

    /// The attributes of a chain's root directory.
    pub(super) fn root_of(&self, composed: &Composed) -> Result<Inode> {
        self.root_as(composed.root)
    }

    /// The same without finding all of its directories.
    pub(super) fn root_of_chain(&self, chain: Option<&ChainId>) -> Result<Inode> {
        let stack = chain.map(|chain| self.store.stack(chain)).transpose()?.unwrap_or_default();
        let root = stack.iter().find(|entry| entry.explicit_root);
        self.root_as(root.map(StackEntry::layer))
    }

    fn root_as(&self, layer: Option<LayerKey>) -> Result<Inode> {
        match layer {
            None => {
                let mut root = Inode::default_directory();
                if self.ownership == Ownership::Recorded {
                    let value = OverrideStat::of(&root).encode();
                    root.xattrs.insert(override_stat::NAME.to_vec(), value);
                }
                Ok(root)
            }
            Some(key) => {
                let dir = self.store.open_layer(&key)?;
                inode_io::read_self(&dir).during("read root of", &self.store.layer_path(&key))
            }
        }
    }

    /// Opens the directories of a chain, topmost first.
    pub(super) fn open_layers(&self, composed: &Composed) -> Result<Vec<Dir>> {
        self.open_keys(&composed.layers)
    }

    pub(super) fn open_keys(&self, keys: &[LayerKey]) -> Result<Vec<Dir>> {
        keys.iter().map(|key| self.store.open_layer(key)).collect()
    }

    /// Opens the layers of a chain, topmost first, below a directory that looks as their root does,
    /// where the topmost layer does not.
    pub(super) fn open_chain(&self, chain: Option<&ChainId>) -> Result<Opened> {
        let lease = self.keep(chain)?;
        self.open_composed(&self.compose(chain)?, lease)
    }

    /// Directories as one tree, whose owners are seen as mounts of this store show them.
    pub(super) fn stack_of(&self, layers: Vec<Dir>) -> Stack {
        let stack = Stack::new(layers, self.store.namespace(), Redirects::Follow);
        stack.with_ids(self.ids())
    }

    /// How owners are seen that are not recorded: where a plain user keeps owners in records, as in a
    /// user namespace of his, in which mounts of his store are made.
    pub(super) fn ids(&self) -> Option<Arc<Ids>> {
        let outside = self.ownership == Ownership::Recorded
            && self.store.namespace() == Namespace::User
            && !rustix::process::geteuid().is_root();
        let planned = outside.then(UserNamespace::plan)?.ok()?;
        Some(Arc::new(Ids { uids: planned.uids().clone(), gids: planned.gids().clone() }))
    }

    fn open_composed(&self, composed: &Composed, lease: Option<LeasedChain>) -> Result<Opened> {
        let mut layers = self.open_layers(composed)?;
        let root = match self.root_on_top(composed) {
            // Nothing can be made in a store that is only read.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
            other => other?,
        };
        if let Some(root) = &root {
            layers.insert(0, root.dir().try_clone().during("duplicate", "directory")?);
        }
        Ok(Opened { layers, kept: Kept { _root: root, _lease: lease } })
    }

    /// Opens the layers that lie below a container's own directory, topmost first.
    pub(super) fn open_below(&self, chain: Option<&ChainId>) -> Result<Opened> {
        let kept = Kept { _root: None, _lease: self.keep(chain)? };
        let layers = self.open_layers(&self.compose(chain)?)?;
        Ok(Opened { layers, kept })
    }

    /// Keeps a chain in the store while it is looked at.
    pub(super) fn keep(&self, chain: Option<&ChainId>) -> Result<Option<LeasedChain>> {
        chain.map(|chain| self.chain(chain)).transpose()
    }

    /// An empty layer that looks as a chain's root does, where its topmost layer does not.
    pub(super) fn root_on_top(&self, composed: &Composed) -> Result<Option<Staging>> {
        let top_is_root =
            composed.root.is_none() || composed.layers.first() == composed.root.as_ref();
        if top_is_root && !composed.layers.is_empty() {
            return Ok(None);
        }
        let staging = self.store.stage_layer()?;
        super::container::give_root(staging.dir(), &self.root_of(composed)?)?;
        Ok(Some(staging))
    }
}

impl Below {
    /// Opens the tree of a chain; of no chain, an empty one.
    pub(super) fn open(driver: &Driver, chain: Option<ChainId>) -> Result<Self> {
        let Opened { layers, kept } = match &chain {
            Some(chain) => driver.open_chain(Some(chain))?,
            None => driver.open_below(None)?,
        };
        Ok(Self::from(driver, layers, kept))
    }

    /// Opens the tree of layers, given topmost first, that the caller keeps.
    pub(super) fn of<'a>(
        driver: &Driver,
        stack: impl ExactSizeIterator<Item = &'a StackEntry>,
    ) -> Result<Self> {
        let Opened { layers, kept } = match stack.len() {
            0 => driver.open_below(None)?,
            _ => driver.open_composed(&composed(stack), None)?,
        };
        Ok(Self::from(driver, layers, kept))
    }

    fn from(driver: &Driver, layers: Vec<Dir>, kept: Kept) -> Self {
        Self { stack: driver.stack_of(layers), _kept: kept }
    }
}
