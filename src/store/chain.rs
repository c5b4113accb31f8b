//! Chains: stacks of layers, each with the directory that stands for its topmost layer.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::hold::{Held, touch};
use super::layer::LeasedLayer;
use super::layout::{CHAIN_FILE, CHAINS, LAYERS, Object, PINNED, STAGING, USERS};
use super::record::{self, ChainRecord, StackEntry};
use super::staging::{Intent, Published, Staged};
use super::{Store, matching, only, stacks};
use crate::digest::ChainId;
use crate::error::{Context, Error, ErrorKind, Result};

/// When a chain goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retention {
    /// With its last user: an image, a container or a chain on top of it.
    WhileUsed,
    /// When it is removed by its own name, and not before.
    Pinned,
}

/// A chain that cannot be removed while this is held.
#[derive(Debug)]
pub struct LeasedChain {
    record: ChainRecord,
    held: Held,
    /// Dropped after `held`, so that it can take back what nobody came to use.
    intent: Option<Arc<Intent>>,
}

/// A chain on its way into the store.
struct NewChain<'a> {
    staged: Staged,
    record: ChainRecord,
    layer: &'a LeasedLayer,
}

impl Store {
    /// Looks for a chain and leases it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where its record is broken; a chain that is not there is no error.
    pub fn find_chain(&self, chain: &ChainId) -> Result<Option<LeasedChain>> {
        let object = Object::Chain(*chain);
        let Some(held) = self.lease(object)? else {
            return Ok(None);
        };
        let record = self.read_record_in(held.dir(), object, CHAIN_FILE)?;
        let record = record.filter(|record: &ChainRecord| record.chain == *chain);
        let record = record.ok_or_else(|| stacks::broken(chain))?;
        Ok(Some(LeasedChain { record, held, intent: None }))
    }

    /// Puts `layers`, lowest first, on top of `parent`, and gives back the chain of all of them.
    ///
    /// Chains that exist already are used as they are, whatever directory they stand on; the
    /// others are made durable by one `syncfs`. With [`Retention::WhileUsed`] the new chains go
    /// again where the lease ends and nothing has come to use them. Each layer holds a file
    /// descriptor until this returns, and one more: a long stack can be added in parts.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where there is no layer.
    pub fn add_chain(
        &self,
        parent: Option<&LeasedChain>,
        layers: &[LeasedLayer],
        retention: Retention,
    ) -> Result<LeasedChain> {
        self.writable()?;
        let mut existing: Option<LeasedChain> = None;
        let mut new: Vec<NewChain<'_>> = Vec::new();
        let mut below = parent.map(|parent| parent.record.clone());
        for layer in layers {
            let entry = StackEntry::new(&layer.record()?);
            let record = ChainRecord::on_top_of(below.as_ref(), entry);
            if let Some(found) = self.find_chain(&record.chain)? {
                // A layer that was lost, and is there again, has lost its links too.
                let (object, user) = (Object::Layer(layer.key()), Object::Chain(record.chain));
                if !self.has_link(object, user)? {
                    let users = self.link_user(layer.held(), object, user)?;
                    self.durability().sync_names(&users).during("sync", &self.at(&[LAYERS]))?;
                    layer.mark_used();
                }
                below = Some(found.record.clone());
                existing = Some(found);
                // It keeps what is below it, which another process has just added.
                new.clear();
                continue;
            }
            let under = match new.last() {
                Some(under) => Some((under.staged.held(), under.record.chain)),
                None => existing.as_ref().or(parent).map(|under| (&under.held, under.record.chain)),
            };
            let staged = self.stage_chain(&record, under, layer)?;
            below = Some(record.clone());
            new.push(NewChain { staged, record, layer });
        }
        let top = if new.is_empty() { existing } else { self.commit_chains(new)? };
        let top = top.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "a chain needs a layer to be added")
        })?;
        if retention == Retention::Pinned {
            self.pin(&top)?;
        }
        Ok(top)
    }

    /// Writes a chain into staging, and the back links to it.
    fn stage_chain(
        &self,
        record: &ChainRecord,
        under: Option<(&Held, ChainId)>,
        layer: &LeasedLayer,
    ) -> Result<Staged> {
        let object = Object::Chain(record.chain);
        let mut staged = self.stage(&object.tag())?;
        let bytes = record::to_bytes(record).during("write", &staged.shown(CHAIN_FILE))?;
        staged.create(CHAIN_FILE, &bytes)?;
        staged.make_dir(USERS, 0o700)?;
        staged.will_be_linked();
        self.link_user(layer.held(), Object::Layer(layer.key()), object)?;
        if let Some(base) = record.top().and_then(StackEntry::base).map(Object::Layer) {
            let held = self.lease(base)?.ok_or_else(|| self.no_such(base))?;
            self.link_user(&held, base, object)?;
        }
        if let Some((held, chain)) = under {
            self.link_user(held, Object::Chain(chain), object)?;
        }
        Ok(staged)
    }

    /// Moves staged chains into place, lowest first; gives back the topmost.
    fn commit_chains(&self, new: Vec<NewChain<'_>>) -> Result<Option<LeasedChain>> {
        let objects: BTreeSet<_> = new.iter().map(NewChain::object).collect();
        let intent = Arc::new(self.intend(objects)?);
        let durability = self.durability();
        durability.sync_file_system(self.top(STAGING)).during("sync", &self.at(&[STAGING]))?;
        let mut below: Option<LeasedChain> = None;
        let mut rest = new.into_iter().peekable();
        while let Some(NewChain { staged, record, layer }) = rest.next() {
            let (mut leased, ours) = self.publish_chain(staged, record)?;
            let object = Object::Chain(leased.chain());
            layer.mark_used();
            if let (false, Some(next)) = (ours, rest.peek()) {
                // Another process was faster with this one: its directory needs our link.
                let users = self.link_user(&leased.held, object, next.object())?;
                durability.sync_names(&users).during("sync", &self.at(&[CHAINS]))?;
            }
            leased.intent = Some(Arc::clone(&intent));
            // The one below has a user now, and needs no lease any more.
            if let Some(below) = below.replace(leased) {
                below.mark_used();
            }
        }
        durability.sync_names(self.top(CHAINS)).during("sync", &self.at(&[CHAINS]))?;
        Ok(below)
    }

    /// Also tells whether it is the directory that was staged.
    fn publish_chain(
        &self,
        mut staged: Staged,
        record: ChainRecord,
    ) -> Result<(LeasedChain, bool)> {
        loop {
            match staged.publish(Object::Chain(record.chain))? {
                Published::Done(held) => {
                    return Ok((LeasedChain { record, held, intent: None }, true));
                }
                Published::Exists(ours) => match self.find_chain(&record.chain)? {
                    Some(winner) => return Ok((winner, false)),
                    // Removed meanwhile.
                    None => staged = ours,
                },
            }
        }
    }

    /// Keeps a chain until it is removed by its own name.
    fn pin(&self, chain: &LeasedChain) -> Result<()> {
        let (object, dir) = (Object::Chain(chain.record.chain), chain.held.dir());
        let pinned = touch(dir, PINNED).and_then(|()| self.durability().sync_names(dir));
        pinned.during("pin chain", &self.at(&[CHAINS, &object.name()]))?;
        chain.mark_used();
        Ok(())
    }

    /// Whether a chain stays without a user.
    ///
    /// # Errors
    /// As the operating system has them; a chain that is not there is not pinned.
    pub fn is_pinned(&self, chain: &ChainId) -> Result<bool> {
        let name = Object::Chain(*chain).name();
        let path = [name.as_bytes(), b"/", PINNED].concat();
        let found = self.top(CHAINS).stat_if_exists(&path);
        Ok(found.during("look at", &self.at(&[CHAINS, &name, "pinned"]))?.is_some())
    }

    /// The record of a chain; `None` where the chain is not in the store.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the record is malformed.
    pub fn chain_record(&self, chain: &ChainId) -> Result<Option<ChainRecord>> {
        self.read_record(Object::Chain(*chain), CHAIN_FILE)
    }

    /// The identities of all chains, sorted.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn chains(&self) -> Result<Vec<ChainId>> {
        let chain = |object: Object| match object {
            Object::Chain(chain) => Some(chain),
            _ => None,
        };
        Ok(self.chain_objects()?.into_iter().filter_map(chain).collect())
    }

    fn chain_objects(&self) -> Result<Vec<Object>> {
        let object = |name: &str| {
            crate::Digest::from_hex(name).ok().map(|digest| Object::Chain(ChainId::new(digest)))
        };
        self.list(CHAINS, object)
    }

    /// The chain that a person calls `text`: its ID, or the beginning of it, which no other has;
    /// `None` where there is no such chain.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it is the beginning of several, which the message lists.
    pub fn chain_called(&self, text: &str) -> Result<Option<ChainId>> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(digest) = crate::Digest::from_hex(digits) {
            let chain = ChainId::new(digest);
            return Ok(self.exists(Object::Chain(chain))?.then_some(chain));
        }
        match only(matching(self.chain_objects()?, digits), "chain IDs", text)? {
            Some(Object::Chain(chain)) => Ok(Some(chain)),
            _ => Ok(None),
        }
    }
}

impl NewChain<'_> {
    fn object(&self) -> Object {
        Object::Chain(self.record.chain)
    }
}

impl LeasedChain {
    /// What is known of it.
    pub fn record(&self) -> &ChainRecord {
        &self.record
    }

    /// Its identity.
    pub fn chain(&self) -> ChainId {
        self.record.chain
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// Something that stays refers to it now.
    pub(super) fn mark_used(&self) {
        if let Some(intent) = &self.intent {
            intent.mark_used(Object::Chain(self.record.chain));
        }
    }
}
