//! One changeset at a time: applied on a chain, listed, removed.

use std::io::Read;

use serde::Serialize;

use super::Driver;
use super::compose::Below;
use crate::changeset::{
    self, Applied, ApplyLimits, ApplyOptions, LinksBelow, Ownership, TreeSize, Unkept,
    VariantOptions,
};
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Assumptions;
use crate::percent::shown_path;
use crate::pipe;
use crate::store::{
    FinishedLayer, LayerKey, LayerRecord, LeasedChain, LeasedLayer, Owners, RecordTime, Reserved,
    Retention, StackEntry, Staging,
};
use crate::sys::parallel::Workers;
use crate::watch::Watch;

/// How often a changeset is applied to find the symlinks below that it leads through.
const ROUNDS: u32 = 16;

/// A changeset that was applied.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct AppliedLayer {
    /// The sha256 of the uncompressed changeset.
    pub diff_id: DiffId,
    /// The stack with this layer on top.
    pub chain_id: ChainId,
    /// Bytes in the layer's files.
    pub size: u64,
    /// What the file system or the kernel would not take: `PATH: WHAT`.
    pub unkept: Vec<String>,
}

/// A chain, with its topmost layer.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct LayerSummary {
    /// The stack that has the layer on top.
    pub chain_id: ChainId,
    /// The stack below it.
    pub parent: Option<ChainId>,
    /// The layer's diff ID.
    pub diff_id: DiffId,
    /// How many layers the stack has.
    pub depth: u32,
    /// Bytes in the layer's files.
    pub size: u64,
    /// The directory of the layer.
    #[serde(serialize_with = "shown_path")]
    pub directory: std::path::PathBuf,
}

/// What is expected of a changeset, and what it is called.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected<'a> {
    pub(super) diff_id: Option<DiffId>,
    pub(super) digest: Option<Digest>,
    pub(super) subject: &'a str,
    /// Bytes to read, where that is known.
    pub(super) bytes: Option<u64>,
    pub(super) limits: Option<&'a ApplyLimits>,
    /// How files are given to their owners, where that is another way than the driver's.
    pub(super) ownership: Option<Ownership>,
    /// Threads that make files, where several changesets share them.
    pub(super) workers: Option<&'a Workers>,
}

/// A changeset that was unpacked into staging.
pub(super) struct Unpacked {
    pub(super) finished: FinishedLayer,
    pub(super) applied: Applied,
}

impl Driver {
    /// Applies one changeset on top of `parent`; the layer stays until it is removed by
    /// [`remove_layer`](Self::remove_layer).
    ///
    /// The changeset is plain, or compressed with gzip or zstd.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where `parent` is not in the store; as [`changeset::apply`].
    pub fn apply(
        &self,
        parent: Option<&ChainId>,
        changeset: impl Read,
        watch: Watch<'_>,
    ) -> Result<AppliedLayer> {
        let parent = match parent {
            Some(chain) => Some(self.chain(chain)?),
            None => None,
        };
        let expected = Expected { subject: "changeset", ..Expected::default() };
        let Unpacked { finished, applied } = self.unpack(changeset, expected, watch)?;
        let mut leased = self.store.commit_layers(vec![finished])?;
        let chain = self.stack_up(parent, &mut leased, Retention::Pinned, watch)?;
        let unkept = applied.unkept.iter().map(Unkept::to_string).collect();
        let chain_id = chain.chain();
        Ok(AppliedLayer { diff_id: applied.diff_id, chain_id, size: applied.content_bytes, unkept })
    }

    /// All chains of the store with their topmost layers, sorted by chain ID.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn layers(&self) -> Result<Vec<LayerSummary>> {
        let mut layers = Vec::new();
        for chain_id in self.store.chains()? {
            // One that is gone meanwhile is not listed.
            let Some(record) = self.store.chain_record(&chain_id)? else { continue };
            let Some(top) = record.top() else { continue };
            let key = top.layer();
            let Some(layer) = self.store.layer_record(&key)? else { continue };
            layers.push(LayerSummary {
                chain_id,
                parent: record.parent,
                diff_id: top.diff_id,
                depth: record.depth,
                size: layer.diff_size,
                directory: self.store.layer_path(&key),
            });
        }
        Ok(layers)
    }

    /// Removes a chain that was applied on its own, and its layer where nothing else uses it.
    ///
    /// It is gone in one step, however big it is; [`empty_trash`](Self::empty_trash) frees the space.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where a container, an image or another chain stands on it, which the
    /// message names, or a mount that something else made shows a layer of it.
    pub fn remove_layer(&self, chain: &ChainId, watch: Watch<'_>) -> Result<()> {
        self.refuse_shown(chain, true, &format!("chain {chain}"))?;
        watch.check()?;
        self.store.remove_chain(chain)?;
        // It is gone; what cannot be deleted is told by whoever asks for the room.
        let _ = self.store.empty_trash_briefly();
        Ok(())
    }

    /// The stack that a person calls `text`: its chain ID, or the beginning of it, which no other
    /// has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where it is the beginning of several,
    /// which the message lists.
    pub fn chain_id(&self, text: &str) -> Result<ChainId> {
        self.store.chain_called(text)?.ok_or_else(|| no_chain(text))
    }

    /// A chain, leased.
    pub(super) fn chain(&self, chain: &ChainId) -> Result<LeasedChain> {
        self.store.find_chain(chain)?.ok_or_else(|| no_chain(chain))
    }

    /// Unpacks a changeset into staging.
    pub(super) fn unpack(
        &self,
        changeset: impl Read,
        expected: Expected<'_>,
        watch: Watch<'_>,
    ) -> Result<Unpacked> {
        let staging = self.store.stage_layer()?;
        let mut options = ApplyOptions::new(self.store.namespace());
        options.ownership = expected.ownership.unwrap_or(self.ownership);
        options.expected_diff_id = expected.diff_id;
        options.expected_digest = expected.digest;
        options.subject = expected.subject;
        options.total_bytes = expected.bytes;
        options.side = Some(staging.side());
        options.watch = watch;
        options.workers = expected.workers;
        if let Some(limits) = expected.limits {
            options.limits = limits.clone();
        }
        let applied = changeset::apply(changeset, staging.dir(), &options)
            .map_err(|error| error.within(format_args!("apply {}", expected.subject)))?;
        let owners = Owners::here(options.ownership)?;
        let finished = finish(staging, LayerKey::Diff(applied.diff_id), &applied, owners)?;
        Ok(Unpacked { finished, applied })
    }

    /// Puts layers, lowest first, on top of `parent`. Where what a layer takes for granted does
    /// not hold there, a variant of it is made. All chains are added together, which syncs once.
    pub(super) fn stack_up(
        &self,
        parent: Option<LeasedChain>,
        layers: &mut [LeasedLayer],
        retention: Retention,
        watch: Watch<'_>,
    ) -> Result<LeasedChain> {
        // The layers below the one at hand, lowest first, as their chain would hold them: it does
        // not stand yet.
        let mut chain = parent.as_ref().map(LeasedChain::chain);
        let stack = chain.as_ref().map(|chain| self.store.stack(chain)).transpose()?;
        let mut below = stack.unwrap_or_default();
        below.reverse();
        // A chain on a variant keeps the layer it was made from as well, so that one must not go
        // before the chain stands.
        let mut bases = Vec::new();
        for layer in layers.iter_mut() {
            let record = layer.record()?;
            let next = match &chain {
                Some(chain) => chain.extend(&record.diff_id),
                None => ChainId::of_base(&record.diff_id),
            };
            if !record.assumptions.is_empty()
                && let Some(variant) = self.variant(next, &below, layer, &record, watch)?
            {
                bases.push(std::mem::replace(layer, variant));
            }
            below.push(StackEntry::of_layer(layer.key(), &record));
            chain = Some(next);
        }
        self.store.add_chain(parent.as_ref(), layers, retention)
    }

    /// The layer as it must be as the topmost of `chain`, on top of the layers `below`; `None` where
    /// it is right as it is.
    fn variant(
        &self,
        chain: ChainId,
        below: &[StackEntry],
        layer: &LeasedLayer,
        record: &LayerRecord,
        watch: Watch<'_>,
    ) -> Result<Option<LeasedLayer>> {
        // Below an opaque root nothing shows, and nothing is mounted.
        let shown = if record.opaque_root { &[] } else { below };
        let below = Below::of(self, shown.iter().rev())?;
        let base = layer.open()?;
        let assumptions = &record.assumptions;
        if changeset::assumptions_hold(&base, assumptions, &below.stack)? {
            return Ok(None);
        }
        let key = LayerKey::Chain(chain);
        let reservation = match self.store.reserve(&key, &watch)? {
            Reserved::Ready(layer) => return Ok(Some(layer)),
            Reserved::Yours(reservation) => reservation,
            Reserved::Busy => return Err(Error::new(ErrorKind::InUse, format!("layer {key}"))),
        };
        let (staging, size) = self.build_variant(layer, &below, record, watch)?;
        let finished = staging.finish(&self.variant_record(key, record, size)?)?;
        let mut leased = self.store.commit_layers(vec![finished])?;
        drop(reservation);
        Ok(leased.pop())
    }

    /// The record of a variant of a layer.
    pub(super) fn variant_record(
        &self,
        key: LayerKey,
        record: &LayerRecord,
        size: TreeSize,
    ) -> Result<LayerRecord> {
        let (assumptions, created) = (Default::default(), RecordTime::now());
        let owners = Owners::here(self.ownership)?;
        let TreeSize { bytes: diff_size, inodes } = size;
        let record = record.clone();
        Ok(LayerRecord { key, diff_size, inodes, assumptions, owners, created, ..record })
    }

    /// Builds in staging the directory that a layer has to be on top of `below`; gives what it holds.
    pub(super) fn build_variant(
        &self,
        layer: &LeasedLayer,
        below: &Below,
        record: &LayerRecord,
        watch: Watch<'_>,
    ) -> Result<(Staging, TreeSize)> {
        let subject = format!("layer {}", record.diff_id);
        let within = |error: Error| error.within(format_args!("resolve {subject}"));
        let (ownership, subject) = (self.ownership, subject.as_str());
        let has_replaced = changeset::has_replaced(layer.side())?;
        let mut options = VariantOptions { ownership, has_replaced, subject, watch };
        let mut links = LinksBelow::default();
        let mut again: Option<(Staging, Assumptions)> = None;
        // What it is applied with once more may lead it to other symlinks.
        for _ in 0..ROUNDS {
            let staging = self.store.stage_layer()?;
            let into = staging.dir();
            let resolved = match &again {
                None => layer.open().and_then(|base| {
                    changeset::resolve(&base, &record.assumptions, &below.stack, into, &options)
                }),
                Some((ordered, assumptions)) => {
                    changeset::resolve(ordered.dir(), assumptions, &below.stack, into, &options)
                }
            };
            let Some(more) = resolved.map_err(within)? else {
                let size = changeset::list_tree(into, staging.side(), self.ownership, &watch)?;
                return Ok((staging, size));
            };
            links.append(more);
            options.has_replaced = false;
            again = Some(self.apply_again(layer, record, &links, &options).map_err(within)?);
        }
        Err(within(Error::new(
            ErrorKind::InvalidData,
            "too many symlinks lead to what it replaces",
        )))
    }

    /// Applies the changeset of a layer once more, in staging, with symlinks known that its entries
    /// lead through.
    fn apply_again(
        &self,
        layer: &LeasedLayer,
        record: &LayerRecord,
        links: &LinksBelow,
        resolving: &VariantOptions<'_>,
    ) -> Result<(Staging, Assumptions)> {
        let staging = self.store.stage_layer()?;
        let mut options = ApplyOptions::new(self.store.namespace());
        options.ownership = record.owners.ownership();
        options.limits = ApplyLimits::once_more();
        options.expected_diff_id = Some(record.diff_id);
        options.subject = resolving.subject;
        options.watch = resolving.watch;
        options.links_below = Some(links);
        let (base, subject) = (layer.open()?, resolving.subject);
        let (_, applied) = pipe::between(
            |out| changeset::reassemble(&base, layer.side(), out, subject, Watch::new()),
            |changeset| changeset::apply(changeset, staging.dir(), &options),
        )?;
        Ok((staging, applied.assumptions))
    }
}

fn no_chain(chain: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("chain {chain} is not in the store"))
        .hint("overlay2 layer ls lists what is there")
}

fn finish(
    staging: Staging,
    key: LayerKey,
    applied: &Applied,
    owners: Owners,
) -> Result<FinishedLayer> {
    staging.finish(&LayerRecord {
        key,
        diff_id: applied.diff_id,
        diff_size: applied.content_bytes,
        inodes: applied.inodes,
        changeset_size: applied.changeset_bytes,
        opaque_root: applied.opaque_root,
        explicit_root: applied.explicit_root,
        assumptions: applied.assumptions.clone(),
        owners,
        created: RecordTime::now(),
    })
}
