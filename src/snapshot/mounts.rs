//! What is mounted to show a snapshot: decided without a system call.

use std::path::PathBuf;

use super::SnapshotKind;
use super::disk::Disk;

/// A mount, as data for whoever makes it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMount {
    /// `bind`, or `overlay`.
    pub kind: &'static str,
    /// The directory that is bound; of an overlay the word `overlay`.
    pub source: PathBuf,
    /// Options as mount(8) spells them.
    pub options: Vec<String>,
}

/// The mounts of the snapshot `id`, which stands on those `below`, topmost first.
pub(super) fn of(
    kind: SnapshotKind,
    disk: &Disk,
    id: u64,
    below: &[u64],
    more: &[String],
) -> Vec<SnapshotMount> {
    let is_active = kind == SnapshotKind::Active;
    let bind = |id| SnapshotMount {
        kind: "bind",
        source: disk.files_of(id),
        options: vec![if is_active { "rw" } else { "ro" }.to_owned(), "rbind".to_owned()],
    };
    match below {
        [] => return vec![bind(id)],
        // Overlayfs wants two layers.
        [only] if !is_active => return vec![bind(*only)],
        _ => {}
    }
    let mut options = more.to_vec();
    if is_active {
        options.push(format!("workdir={}", escaped(&disk.work_of(id))));
        options.push(format!("upperdir={}", escaped(&disk.files_of(id))));
    }
    let lower: Vec<_> = below.iter().map(|id| escaped(&disk.files_of(*id))).collect();
    options.push(format!("lowerdir={}", lower.join(":")));
    vec![SnapshotMount { kind: "overlay", source: "overlay".into(), options }]
}

/// A path in an option of overlayfs, in which `:`, `,` and `\\` have a meaning.
fn escaped(path: &std::path::Path) -> String {
    let mut text = String::new();
    for letter in path.to_string_lossy().chars() {
        if matches!(letter, ':' | ',' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}
