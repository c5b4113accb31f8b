//! What a container changed, listed or written as a changeset; and its whole tree.

use std::io::Write;

use super::Driver;
use super::compose::Below;
use crate::changeset::{self, Change, DiffOptions, DiffSummary, View};
use crate::error::Result;
use crate::format::lookup::{Redirects, Stack};
use crate::watch::Watch;

impl Driver {
    /// What a container changed, sorted by path.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such container; an
    /// error that names the file where one cannot be read.
    pub fn changes(&self, container: &str, view: View, watch: Watch<'_>) -> Result<Vec<Change>> {
        let record = self.store.find_container(container)?;
        let below = Below::open(self, record.chain)?;
        let upper = self.upper(&record)?;
        changeset::compare(&upper, &below.stack, view, &record.name, &watch)
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
        let below = Below::open(self, record.chain)?;
        let upper = self.upper(&record)?;
        changeset::write_diff(&upper, &below.stack, out, options, &record.name, &watch)
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
        let composed = self.compose(record.chain.as_ref())?;
        let mut layers = vec![self.upper(&record)?];
        layers.extend(self.open_layers(&composed)?);
        let stack = Stack::new(layers, self.store.namespace(), Redirects::Follow);
        changeset::export(&stack, out, options, &record.name, &watch)
            .map_err(|error| error.within(format_args!("export container {container}")))
    }
}
