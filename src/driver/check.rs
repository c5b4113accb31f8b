//! Whether a store is what it was: records, links, and every file of every layer.

use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use serde::Serialize;

use super::Driver;
use crate::changeset::{self, Contents, VerifyOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::FindingKind;
use crate::layer_path::LayerPath;
use crate::store::{Fault, LayerKey, LeasedLayer, Owners};
use crate::sys::parallel;
use crate::watch::Watch;

/// How closely a store is looked at.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckLevel {
    /// Records, links between them, and of each layer the names, types, owners, modes, times,
    /// attributes, lengths and symlinks. No content is read.
    Quick,
    /// All of that, and every byte: each layer's changeset is written again and hashed, so that it
    /// is known to be the one of its diff ID.
    #[default]
    Full,
}

/// How a store is checked.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// How closely.
    pub level: CheckLevel,
    /// How many layers are looked at at once. 0: as many as there are processors.
    pub threads: usize,
}

/// One thing that is wrong.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it concerns: `layer KEY`, `image sha256:…`, `container web`.
    pub object: String,
    /// The layer directory, where it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerKey>,
    /// The file in the layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<LayerPath>,
    /// What is wrong.
    pub kind: FindingKind,
    /// What is there, and what should be; for people.
    pub detail: String,
}

/// What a check found.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// All that is wrong, by object and path.
    pub findings: Vec<Finding>,
    /// The layer directories that were looked at.
    pub layers: u64,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Driver {
    /// Looks whether the store is what it was, and names what is not.
    ///
    /// It may be used meanwhile: readers and mounts do not notice, and a layer that is being looked
    /// at is removed when that is over, at the latest. Nothing is written, so that a store on a
    /// read-only file system can be checked.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`]; [`ErrorKind::WrongState`] where a layer was unpacked in a user
    /// namespace whose ids are others than those of this process, which then sees other owners; what
    /// makes it impossible to look. What is wrong is in the result.
    pub fn check(&self, options: &CheckOptions, watch: Watch<'_>) -> Result<Findings> {
        let mut found = Findings::default();
        found.findings.extend(self.store.audit(&watch)?.into_iter().map(Finding::from));
        let keys = self.store.layers()?;
        found.layers = keys.len() as u64;
        let (pending, results) = (Mutex::new(keys), Mutex::new((Vec::new(), None)));
        let work = || {
            loop {
                let Some(key) = lock(&pending).pop() else { return };
                match self.check_layer(&key, options.level, watch) {
                    Ok(findings) => lock(&results).0.extend(findings),
                    Err(error) => {
                        lock(&pending).clear();
                        lock(&results).1.get_or_insert(error);
                    }
                }
            }
        };
        let threads = parallel::threads(options.threads).min(lock(&pending).len());
        parallel::side_by_side(threads, work);
        let (findings, failed) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.findings.extend(findings);
        found
            .findings
            .sort_by(|a, b| (&a.object, &a.path, a.kind).cmp(&(&b.object, &b.path, b.kind)));
        failed.map_or(Ok(found), Err)
    }

    /// What is wrong in one layer directory; nothing where it is gone.
    pub(super) fn check_layer(
        &self,
        key: &LayerKey,
        level: CheckLevel,
        watch: Watch<'_>,
    ) -> Result<Vec<Finding>> {
        let Some(layer) = self.store.find_layer(key)? else { return Ok(Vec::new()) };
        let found = self.verify(&layer, level, watch)?;
        let object = format!("layer {key}");
        let finding = |difference: changeset::Difference| Finding {
            object: object.clone(),
            layer: Some(*key),
            path: difference.path,
            kind: difference.kind,
            detail: difference.detail,
        };
        Ok(found.into_iter().map(finding).collect())
    }

    fn verify(
        &self,
        layer: &LeasedLayer,
        level: CheckLevel,
        watch: Watch<'_>,
    ) -> Result<Vec<changeset::Difference>> {
        let key = layer.key();
        let dir = match layer.open() {
            // That it is not there, or no directory, is told with the records.
            Err(error) if is_no_directory(&error) => return Ok(Vec::new()),
            opened => opened?,
        };
        let contents = match (level, key) {
            (CheckLevel::Quick, _) => Contents::Skip,
            (CheckLevel::Full, LayerKey::Diff(diff_id)) => Contents::Hash(*diff_id.digest()),
            // Of a variant no changeset is kept: that is kept with the directory it is made from.
            (CheckLevel::Full, LayerKey::Chain(_)) => Contents::Read,
        };
        let subject = format!("layer {key}");
        let record = layer.record().ok();
        if let Some(record) = &record {
            refuse_foreign(&record.owners, &subject)?;
        }
        let total_bytes = record.map(|record| record.changeset_size);
        let total_bytes = total_bytes.filter(|_| contents != Contents::Skip);
        let namespace = self.store.namespace();
        let options = VerifyOptions { namespace, contents, subject: &subject, total_bytes, watch };
        changeset::verify(&dir, layer.side(), &options)
            .map_err(|error| error.within(format_args!("check {subject}")))
    }
}

/// Fails where the owners of a layer's files are not seen as they were given: all of them would look
/// damaged, and a repair would damage them.
fn refuse_foreign(owners: &Owners, subject: &str) -> Result<()> {
    if owners.are_seen_here()? {
        return Ok(());
    }
    let (where_made, hint) = match owners {
        Owners::Mapped { .. } => (
            "in a user namespace, whose ids are others than here",
            "call this from inside: overlay2 unshare overlay2 check",
        ),
        _ => (
            "outside of this user namespace, whose ids are others",
            "call this from outside: not beneath overlay2 unshare",
        ),
    };
    let message = format!("check {subject}: it was unpacked {where_made}");
    Err(Error::new(ErrorKind::WrongState, message).hint(hint))
}

/// Whether a directory was not opened because there is none of its name.
pub(super) fn is_no_directory(error: &Error) -> bool {
    let raw = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(raw, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

impl From<Fault> for Finding {
    fn from(fault: Fault) -> Self {
        let Fault { object, layer, kind, detail } = fault;
        Self { object, layer, path: None, kind, detail }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
