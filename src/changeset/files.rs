//! The regular files of a changeset: made, filled, and accounted for.

use std::fs::File;
use std::io::BufRead;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::attributes::Given;
use super::content::write_content;
use super::entry::{Body, Entry};
use super::reader::TarReader;
use super::unpack::Unpack;
use super::writers::Written;
use crate::error::{Context, Result};
use crate::inode::FileKind;
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::xattr::Target;

impl Unpack<'_> {
    /// Makes a file, and fills it, or has it filled.
    pub(super) fn make_file<R: BufRead>(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: LayerPath,
        entry: Entry,
        tar: &mut TarReader<R>,
    ) -> Result<()> {
        let created_mode = self.attach.manner.creation_mode(&entry);
        let file = self.open_new(dir, name, &path, created_mode)?;
        self.keep(tar)?;
        if let Some(split) = &mut self.split {
            match &entry.body {
                Body::Sparse(runs) => split.runs(&path, runs)?,
                _ if entry.payload > 0 => split.content(&path, entry.payload)?,
                _ => {}
            }
        }
        let size = match entry.inode.kind {
            FileKind::Regular { size } => size,
            _ => 0,
        };
        self.content_bytes = self.content_bytes.saturating_add(size);
        if matches!(entry.body, Body::Inode) && self.writers.wants(&entry) {
            if self.writers.take(file, path, (entry, created_mode), tar)? {
                self.collect();
            }
            return Ok(());
        }
        let whole = [(0, size)];
        let runs = match &entry.body {
            Body::Sparse(runs) => runs.as_slice(),
            _ => whole.as_slice(),
        };
        let checksum = write_content(&file, runs, size, tar, &path)?;
        let given = Given { created_mode: Some(created_mode), checksum, ..Given::of(&entry) };
        self.attach.put(Target::open(&file), &path, &given)
    }

    fn open_new(&mut self, dir: &Dir, name: &[u8], path: &LayerPath, mode: u32) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut made = self.create_sys(dir, name, path, |dir| dir.open(name, flags, mode))?;
        if matches!(made, Err(Errno::MFILE | Errno::NFILE)) {
            // Each file that waits has a descriptor.
            self.settle();
            made = dir.open(name, flags, mode);
        }
        made.during("create", path)
    }

    /// Notes what became of the files that other threads have finished.
    fn collect(&mut self) {
        while let Some(written) = self.writers.collect() {
            self.account(written);
        }
    }

    /// Waits until all files are finished, and notes what became of them.
    pub(super) fn settle(&mut self) {
        while let Some(written) = self.writers.settle() {
            self.account(written);
        }
    }

    fn account(&mut self, written: Result<Vec<Written>>) {
        let mut each = |(path, put): Written| self.attach.account(&path, put?);
        if let Err(error) = written.and_then(|files| files.into_iter().try_for_each(&mut each)) {
            self.failed.get_or_insert(error);
        }
    }

    /// What came of an entry, unless a file of an earlier one has failed.
    ///
    /// # Errors
    /// The first of either.
    pub(super) fn unless_failed<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.settle();
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => result,
        }
    }
}
