//! Hard links: made at once where their target is there, else at the end of the changeset.

use std::collections::{BTreeMap, HashSet};

use super::header::invalid;
use super::tree::Node;
use super::unpack::{HOPS, Missing, Unpack, as_data};
use crate::error::{Context, Result};
use crate::format::LowerLink;
use crate::format::whiteout::PREFIX;
use crate::layer_path::LayerPath;

/// Where a walk led.
pub(super) enum Walked {
    To(Node),
    /// Past what this changeset has so far, to this path.
    Out(LayerPath),
    /// To what is no directory, or to a path that only what is not there tells.
    Nowhere,
}

impl Walked {
    pub(super) fn node(self) -> Option<Node> {
        match self {
            Self::To(node) => Some(node),
            Self::Out(_) | Self::Nowhere => None,
        }
    }
}

impl Unpack<'_> {
    /// Makes one more name of a file; where that is not there yet, notes that it is to be made.
    pub(super) fn hard_link(
        &mut self,
        parent: &LayerPath,
        name: &[u8],
        target: &[u8],
    ) -> Result<()> {
        let target = LayerPath::parse(target).map_err(as_data)?;
        if target.components().any(|name| name.starts_with(PREFIX)) {
            return Err(invalid(format!("a hard link to the whiteout {target}")));
        }
        if target.is_root() {
            return Err(invalid("a hard link to a directory".to_owned()));
        }
        let node = self.directory(parent)?;
        let path = self.tree.get(node).path.join(name);
        let target = self.physical(&target)?;
        if target == path {
            return Err(invalid("a hard link to itself".to_owned()));
        }
        if target.starts_with(&path) {
            return Err(invalid("a hard link to a file beneath itself".to_owned()));
        }
        self.links.remove(&path);
        if !self.link_now(node, name, &path, &target)? {
            // What was there is replaced all the same.
            let dir = self.handle(node)?;
            if dir.stat_if_exists(name).during("stat", &path)?.is_some() {
                self.clear(&dir, name, &path)?;
            }
            self.tree.count_mark(&path)?;
            self.tree.count_mark(&target)?;
            self.contested.waits_for(&target);
            self.links.insert(path, target);
        }
        Ok(())
    }

    /// Where a path leads, when symlinks on the way that were made so far are followed.
    fn physical(&mut self, path: &LayerPath) -> Result<LayerPath> {
        let Some((parent, name)) = path.split() else { return Ok(LayerPath::root()) };
        Ok(match self.walk(&parent, Missing::Leave)? {
            Walked::To(node) => self.tree.get(node).path.join(name),
            Walked::Out(parent) => parent.join(name),
            Walked::Nowhere => path.clone(),
        })
    }

    /// Links to a file that is there; `false` where it is not.
    fn link_now(
        &mut self,
        node: Node,
        name: &[u8],
        path: &LayerPath,
        target: &LayerPath,
    ) -> Result<bool> {
        let Some((target_parent, target_name)) = target.split() else { return Ok(false) };
        let Some(target_node) = self.existing_directory(&target_parent)? else {
            return Ok(false);
        };
        if let Some(directory) = self.tree.find(target) {
            // One that is only implied may be a symlink below.
            return match self.tree.get(directory).is_explicit() {
                true => Err(invalid(format!("a hard link to the directory {target}"))),
                false => Ok(false),
            };
        }
        let (dir, from) = (self.handle(node)?, self.handle(target_node)?);
        if from.stat_if_exists(target_name).during("stat", target)?.is_none() {
            return Ok(false);
        }
        self.create(&dir, name, path, |dir| dir.make_link(name, &from, target_name))?;
        // What is written down of the target stands before its other names.
        self.settle();
        if let Some(entries) = &mut self.attach.entries {
            entries.link(path, target)?;
        }
        Ok(true)
    }

    /// Makes the links whose targets came later, and gives those whose target is not there at all,
    /// sorted by name; they are left to the stack.
    pub(super) fn late_links(&mut self) -> Result<Vec<LowerLink>> {
        let mut below = BTreeMap::new();
        // A target may be beneath a link to a symlink, which has just been made; each round is one
        // more symlink on the way.
        for _ in 0..=HOPS {
            let names: Vec<LayerPath> = self.links.keys().cloned().collect();
            for name in names {
                self.late_chain(name, &mut below)?;
            }
            for (name, target) in &below {
                let leads_to = self.physical(target)?;
                if leads_to != *target {
                    self.links.insert(name.clone(), leads_to);
                }
            }
            if self.links.is_empty() {
                break;
            }
            below.retain(|name, _| !self.links.contains_key(name));
        }
        for (name, target) in &below {
            if self.is_hidden(target, &below)? {
                return Err(invalid(format!(
                    "{name} is a hard link to {target}, which the same changeset deletes"
                )));
            }
        }
        for name in below.keys() {
            // The link will hide what lies below its name; no whiteout has to.
            if let Some((parent, name)) = name.split()
                && let Some(node) = self.tree.find(&parent)
            {
                self.tree.get_mut(node).whiteouts.remove(name);
            }
        }
        Ok(below.into_iter().map(|(name, target)| LowerLink { name, target }).collect())
    }

    /// Makes a link, after the link that it leads to, and so on; what leads to a file of a lower
    /// layer is put into `below`.
    fn late_chain(
        &mut self,
        name: LayerPath,
        below: &mut BTreeMap<LayerPath, LayerPath>,
    ) -> Result<()> {
        let (mut chain, mut on_the_way) = (Vec::new(), HashSet::new());
        let mut at = name;
        while let Some(target) = self.links.remove(&at) {
            let target = self.physical(&target)?;
            on_the_way.insert(at.clone());
            if on_the_way.contains(&target) {
                return Err(invalid(format!("{at} is one of some hard links in a circle")));
            }
            chain.push((at, target.clone()));
            at = target;
        }
        while let Some((name, target)) = chain.pop() {
            let Some((parent, last)) = name.split() else { continue };
            let Some(node) = self.existing_directory(&parent)? else { continue };
            let made = self.link_now(node, last, &name, &target);
            if !made.map_err(|error| error.within(format!("hard link {name}")))? {
                let target = below.get(&target).cloned().unwrap_or(target);
                below.insert(name, target);
            }
        }
        Ok(())
    }

    /// Whether this changeset, with the links that are left out, hides whatever the layers below
    /// have at `path`.
    fn is_hidden(
        &mut self,
        path: &LayerPath,
        links: &BTreeMap<LayerPath, LayerPath>,
    ) -> Result<bool> {
        let mut at = path.clone();
        while let Some((parent, name)) = at.split() {
            if links.contains_key(&at) {
                return Ok(true);
            }
            if let Some(node) = self.tree.find(&parent) {
                let directory = self.tree.get(node);
                if directory.opaque || directory.whiteouts.contains(name) {
                    return Ok(true);
                }
                // A file of this changeset is in the way.
                if self.tree.find(&at).is_none()
                    && self.handle(node)?.stat_if_exists(name).during("stat", &at)?.is_some()
                {
                    return Ok(true);
                }
            }
            at = parent;
        }
        Ok(false)
    }
}
