//! What a container changed, listed or written as a changeset; and its whole tree.

use std::io::Write;

use super::Driver;
use super::compose::{Below, Kept, Opened};
use super::named::Named;
use crate::changeset::{self, Change, DiffOptions, DiffSummary, View};
use crate::error::Result;
use crate::format::lookup::Stack;
use crate::watch::Watch;

impl Driver {
    /// What a container changed, sorted by path.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such container; an
    /// error that names the file where one cannot be read.
    pub fn changes(&self, container: &str, view: View, watch: Watch<'_>) -> Result<Vec<Change>> {
        let record = self.store.find_container(container)?;
        let compare = || {
            let below = Below::open(self, record.chain)?;
            let upper = self.upper(&record)?;
            changeset::compare(&upper, &below.stack, view, &record.name, &watch)
        };
        self.reading(&record, compare)
            .map_err(|error| error.within(format_args!("compare container {container}")))
    }

    /// Writes what a container changed as a changeset: an uncompressed tar.
    ///
    /// The same changes give the same bytes, on every file system.
    ///
    /// # Errors
    /// As [`changes`](Self::changes).
    pub fn diff(
        &self,
        container: &str,
        out: &mut dyn Write,
        options: &DiffOptions,
        watch: Watch<'_>,
    ) -> Result<DiffSummary> {
        let record = self.store.find_container(container)?;
        let write = || {
            let below = Below::open(self, record.chain)?;
            let upper = self.upper(&record)?;
            changeset::write_diff(&upper, &below.stack, out, options, &record.name, &watch)
        };
        self.reading(&record, write)
            .map_err(|error| error.within(format_args!("write changes of container {container}")))
    }

    /// Writes a container's whole tree as a tar, without mounting it.
    ///
    /// # Errors
    /// As [`changes`](Self::changes).
    pub fn export(
        &self,
        container: &str,
        out: &mut dyn Write,
        options: &DiffOptions,
        watch: Watch<'_>,
    ) -> Result<DiffSummary> {
        let record = self.store.find_container(container)?;
        let export = || {
            let composed = self.compose(record.chain.as_ref())?;
            let mut layers = vec![self.upper(&record)?];
            layers.extend(self.open_layers(&composed)?);
            let stack = self.stack_of(layers);
            changeset::export(&stack, out, options, &record.name, &watch)
        };
        self.reading(&record, export)
            .map_err(|error| error.within(format_args!("export container {container}")))
    }

    /// What has to be changed in the tree of `from` to make it that of `to`, sorted by path. Either
    /// is a container or an image, by its name or ID, or a stack of layers by its chain ID.
    ///
    /// What counts as modified is what [`View::Pruned`] says: what both have from the same layers
    /// is not even read, and copies that are equal are not told.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where one of them is missing; an error
    /// that names the file where one cannot be read.
    pub fn changes_between(&self, from: &str, to: &str, watch: Watch<'_>) -> Result<Vec<Change>> {
        let (old, _kept) = self.whole_stack(from)?;
        let (new, _kept_too) = self.whole_stack(to)?;
        let subject = format!("{from}..{to}");
        changeset::compare_stacks(&old, &new, &subject, &watch)
            .map_err(|error| error.within(format_args!("compare {from} with {to}")))
    }

    /// Writes the changeset that, applied on the tree of `from`, gives that of `to`: an uncompressed
    /// tar. `options.view` does not matter: it is always the one that
    /// [`changes_between`](Self::changes_between) tells of.
    ///
    /// The root's time is not among what it sets, nor are sockets, which a tar cannot carry.
    ///
    /// # Errors
    /// As [`changes_between`](Self::changes_between).
    pub fn diff_between(
        &self,
        from: &str,
        to: &str,
        out: &mut dyn Write,
        options: &DiffOptions,
        watch: Watch<'_>,
    ) -> Result<DiffSummary> {
        let (old, _kept) = self.whole_stack(from)?;
        let (new, _kept_too) = self.whole_stack(to)?;
        let subject = format!("{from}..{to}");
        changeset::write_between(&old, &new, out, options, &subject, &watch)
            .map_err(|error| error.within(format_args!("write what makes {to} of {from}")))
    }

    /// The layers of a container, its own directory on top, or of an image.
    fn whole_stack(&self, name: &str) -> Result<(Stack, Kept)> {
        let Opened { layers, kept } = self.open_whole(&self.find(name)?)?;
        Ok((self.stack_of(layers), kept))
    }

    /// The directories of a container, its own on top, or of an image.
    pub(super) fn open_whole(&self, named: &Named) -> Result<Opened> {
        let Named::Container(record) = named else { return self.open_chain(named.chain()) };
        let mut opened = self.open_below(named.chain())?;
        opened.layers.insert(0, self.upper(record)?);
        Ok(opened)
    }
}
