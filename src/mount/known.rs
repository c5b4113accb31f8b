//! What is known of the mounts that this process has seen.
//!
//! The kernel numbers mounts, and gives no number twice; what one was mounted from stays as it was. So
//! each mount is asked about once, and with a thousand containers that run, one more costs no thousand
//! questions.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::find::{MountEntry, Source, entry};
use crate::sys::dir::SysResult;
use crate::sys::mountinfo::MountInfo;
use crate::sys::statmount::{self, MountId, Shows};

/// What a mount is to those who look for an UpperDir.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// No overlay.
    SomethingElse,
    /// One that this crate mounted.
    Ours { source: Source, volatile: bool },
    /// One that somebody else mounted, by its options; its target may be another by now.
    Others(Arc<MountEntry>),
}

/// So many that are gone are kept before they are forgotten.
const GONE: usize = 256;

static KNOWN: Mutex<Option<HashMap<MountId, Known>>> = Mutex::new(None);

/// The overlays that the process sees, in the order in which they were mounted.
///
/// The error is ENOSYS, or another, where the kernel does not answer.
pub(super) fn overlays() -> SysResult<Vec<(MountId, Known)>> {
    let ids = statmount::mounts()?;
    let mut seen = Vec::with_capacity(ids.len());
    let mut unknown = Vec::new();
    {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if known.len() > 2 * ids.len() + GONE {
            let there: HashSet<_> = ids.iter().collect();
            known.retain(|id, _| there.contains(id));
        }
        for id in ids {
            match known.get(&id) {
                Some(Known::SomethingElse) => {}
                Some(known) => seen.push((id, known.clone())),
                None => unknown.push(id),
            }
        }
    }
    for id in unknown {
        if let Some(found) = ask(id)? {
            let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
            known.get_or_insert_default().insert(id, found.clone());
            if !matches!(found, Known::SomethingElse) {
                seen.push((id, found));
            }
        }
    }
    seen.sort_by_key(|(id, _)| *id);
    Ok(seen)
}

/// Asks about one mount; `None` where it is gone.
fn ask(id: MountId) -> SysResult<Option<Known>> {
    let source = match id.shows()? {
        None => return Ok(None),
        Some(Shows::SomethingElse) => return Ok(Some(Known::SomethingElse)),
        Some(Shows::Overlay { source }) => source,
    };
    if let Some((source, volatile)) = source.as_deref().and_then(Source::parse) {
        return Ok(Some(Known::Ours { source, volatile }));
    }
    let options = id.options()?.ok_or(Errno::OPNOTSUPP)?;
    let entry = entry(MountInfo::of_overlay(PathBuf::new(), options));
    Ok(Some(Known::Others(Arc::new(entry))))
}
