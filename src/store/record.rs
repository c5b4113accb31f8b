//! The records: what is known of each layer, chain, image and container, as JSON in a file each.

use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layout::{ContainerId, LayerKey};
use super::owners::Owners;
use crate::digest::{ChainId, DiffId, Digest};
use crate::format::Assumptions;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::SysResult;

/// A point in time of a record: nanoseconds since 1970-01-01 00:00:00 UTC, negative before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RecordTime(i64);

impl RecordTime {
    /// The present, by a clock that may stand anywhere.
    pub fn now() -> Self {
        let clamp = |nanos: u128| i64::try_from(nanos).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Self(clamp(since.as_nanos())),
            Err(before) => Self(-clamp(before.duration().as_nanos())),
        }
    }

    /// The same point as a timestamp of a file.
    pub fn timestamp(&self) -> crate::Timestamp {
        let nanos = u32::try_from(self.0.rem_euclid(1_000_000_000)).unwrap_or(0);
        crate::Timestamp { seconds: self.0.div_euclid(1_000_000_000), nanos }
    }
}

/// `overlay2.json`: what makes a directory a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreRecord {
    /// The version of the whole format on disk.
    pub(super) version: u32,
    pub(super) namespace: Namespace,
    /// 32 random hexadecimal digits.
    pub(super) id: String,
}

/// The part of [`StoreRecord`] that every version has.
#[derive(Debug, Deserialize)]
pub(super) struct StoreVersion {
    pub(super) version: u32,
}

/// What is known of a layer directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecord {
    /// The directory's name.
    pub key: LayerKey,
    /// The sha256 of the uncompressed changeset that it was made of.
    pub diff_id: DiffId,
    /// The bytes of the files in it.
    pub diff_size: u64,
    /// The files, directories and other inodes in it, its root included.
    pub inodes: u64,
    /// The bytes of the uncompressed changeset.
    pub changeset_size: u64,
    /// The changeset hides everything below it: overlayfs ignores that mark on a root, so a stack
    /// is cut here when it is composed.
    pub opaque_root: bool,
    /// The changeset has an entry for the root, whose attributes count.
    pub explicit_root: bool,
    /// What it takes for granted of the layers below.
    #[serde(default, skip_serializing_if = "Assumptions::is_empty")]
    pub assumptions: Assumptions,
    /// Whose ids the owners of its files are.
    #[serde(default, skip_serializing_if = "Owners::is_exact")]
    pub owners: Owners,
    /// When it was unpacked.
    pub created: RecordTime,
}

/// One layer of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackEntry {
    /// The changeset's digest.
    pub diff_id: DiffId,
    /// The directory to mount, where it is a variant: see [`layer`](Self::layer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<LayerKey>,
    /// It hides everything below it, as its layer's record says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opaque_root: bool,
    /// It has an entry for the root, as its layer's record says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub explicit_root: bool,
}

impl StackEntry {
    /// The entry of a layer, as its record describes it.
    pub(super) fn new(layer: &LayerRecord) -> Self {
        Self::of_layer(layer.key, layer)
    }

    /// The entry of a layer that stands in the directory `key`: its own, or a variant of it.
    pub fn of_layer(key: LayerKey, layer: &LayerRecord) -> Self {
        let LayerRecord { diff_id, opaque_root, explicit_root, .. } = *layer;
        let variant = (key != LayerKey::Diff(diff_id)).then_some(key);
        Self { diff_id, variant, opaque_root, explicit_root }
    }

    /// The directory that was unpacked from the changeset alone, where another is mounted: it is
    /// kept too, since the changeset can be written again from it.
    pub fn base(&self) -> Option<LayerKey> {
        self.variant.map(|_| LayerKey::Diff(self.diff_id))
    }

    /// The directory to mount.
    pub fn layer(&self) -> LayerKey {
        self.variant.unwrap_or(LayerKey::Diff(self.diff_id))
    }
}

/// What is known of a stack of layers.
///
/// A record holds the topmost layers of its stack, up to [`ChainRecord::RUN`] of them, and names the
/// chain below these: a stack of 500 layers is read from 16 small files, and the records of all its
/// chains together grow linearly with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainRecord {
    /// The identity of the stack.
    pub chain: ChainId,
    /// The stack without its topmost layer.
    pub parent: Option<ChainId>,
    /// The number of layers in the whole stack.
    pub depth: u32,
    /// The topmost layers, topmost first; never empty.
    pub run: Vec<StackEntry>,
    /// The stack below `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<ChainId>,
}

impl ChainRecord {
    /// The most layers that one record names.
    pub const RUN: usize = 32;

    /// The record of `parent` with one more layer on top.
    pub(super) fn on_top_of(parent: Option<&Self>, entry: StackEntry) -> Self {
        let (diff_id, mut run) = (entry.diff_id, vec![entry]);
        let Some(parent) = parent else {
            let chain = ChainId::of_base(&diff_id);
            return Self { chain, parent: None, depth: 1, run, below: None };
        };
        let below = if parent.run.len() < Self::RUN {
            run.extend_from_slice(&parent.run);
            parent.below
        } else {
            Some(parent.chain)
        };
        Self {
            chain: parent.chain.extend(&diff_id),
            parent: Some(parent.chain),
            depth: parent.depth.saturating_add(1),
            run,
            below,
        }
    }

    /// The layer directories that the chain holds for its topmost layer: the one that is mounted,
    /// and the one that it is a variant of.
    pub(super) fn layers(&self) -> impl Iterator<Item = LayerKey> + use<> {
        let top = self.top().cloned();
        let mounted = top.as_ref().map(StackEntry::layer);
        mounted.into_iter().chain(top.and_then(|top| top.base()))
    }

    /// The topmost layer; `None` in a broken record.
    pub fn top(&self) -> Option<&StackEntry> {
        self.run.first()
    }
}

/// What is known of an image, besides its config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The sha256 of the config.
    pub id: Digest,
    /// Its stack; `None` for an image without layers.
    pub chain: Option<ChainId>,
    /// Its changesets, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// When it came into the store.
    pub loaded: RecordTime,
}

/// A name of an image, as it stands in `names/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameRecord {
    pub(super) name: String,
    pub(super) image: Digest,
}

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecord {
    /// Its identity.
    pub id: ContainerId,
    /// Its unique name.
    pub name: String,
    /// The image that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// The image as the caller named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// The stack below it; `None` where there is no layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainId>,
    /// When it was made.
    pub created: RecordTime,
    /// It is mounted `volatile` unless somebody says otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub volatile: bool,
    /// The project, on the file system of the store, that its UpperDir and WorkDir belong to, where
    /// it was made with a quota. The file system knows the limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<u32>,
    /// Where it is mounted, or was when somebody last wrote it down: a file of its own.
    #[serde(skip)]
    pub mount: Option<MountState>,
}

/// Where a container is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountState {
    /// The mount point; `None` for a mount that is only held open.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path_text")]
    pub target: Option<PathBuf>,
    /// The boot that it was mounted in, as the kernel's `random/boot_id` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The mount namespace that sees it, as the inode number of `/proc/PID/ns/mnt` tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<u64>,
    /// The upper was mounted with `volatile`: after a crash it may be torn.
    #[serde(default)]
    pub volatile: bool,
    /// The mount was read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// A path of any bytes as text, in the form of [`crate::LayerPath`] but with its leading `/`.
mod path_text {
    use super::*;
    use crate::percent;

    pub(super) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = path.as_ref().map(|path| path.as_os_str().as_bytes());
        let escaped = bytes.map(|bytes| percent::encode(bytes, percent::is_printable));
        escaped.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let bytes = percent::decode(&text)
            .ok_or_else(|| serde::de::Error::custom("a % without two digits"))?;
        Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(bytes))))
    }
}

/// The bytes of a record, with a newline at the end.
pub(super) fn to_bytes(record: &impl Serialize) -> SysResult<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record).map_err(|_| Errno::INVAL)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Why a record could not be read.
pub(super) enum Unread {
    /// The operating system's reason; [`Errno::NOENT`] where there is none.
    Os(Errno),
    /// It is there, but no record.
    Malformed(serde_json::Error),
}

/// Reads the record `name` in `dir`.
pub(super) fn read<T: DeserializeOwned>(dir: &Dir, name: &[u8]) -> Result<T, Unread> {
    let bytes = read_bytes(dir, name).map_err(Unread::Os)?;
    serde_json::from_slice(&bytes).map_err(Unread::Malformed)
}

/// As many bytes as the record of an image of a hundred layers has.
const READ_AT_ONCE: usize = 8 << 10;

/// Whether a record was not read since something else stands in its place.
pub(super) fn is_something_else(error: Errno) -> bool {
    use Errno as E;
    matches!(error, E::LOOP | E::ISDIR | E::NOTDIR | E::FBIG | E::NXIO | E::INVAL)
}

/// More than any record has: what is longer is something else.
pub(super) const LONGEST: usize = 256 << 20;

/// The content of the file `name` in `dir`, which may be a path of two names. Something else in its
/// place, such as a FIFO, neither holds up the caller nor fills the memory.
pub(super) fn read_bytes(dir: &Dir, name: &[u8]) -> SysResult<Vec<u8>> {
    let file = dir.open(name, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    // Most records fit, so that one call reads them: a short read is the end of a regular file.
    let mut bytes = Vec::with_capacity(READ_AT_ONCE);
    loop {
        let before = bytes.len();
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() < bytes.capacity() => return Ok(bytes),
            Ok(_) if bytes.len() > LONGEST => return Err(Errno::FBIG),
            Ok(_) => bytes.reserve(before.max(READ_AT_ONCE)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Creates the file `name` in `dir`, which must not have it; not yet durable.
pub(super) fn create(dir: &Dir, name: &[u8], bytes: &[u8]) -> SysResult<std::fs::File> {
    let mut file = dir.open(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600)?;
    file.write_all(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_chain_is_split_into_runs() {
        let mut record: Option<ChainRecord> = None;
        let mut diffs = Vec::new();
        for index in 0..100u32 {
            let diff = DiffId::new(Digest::of(&index.to_le_bytes()));
            diffs.push(diff);
            let entry = StackEntry {
                diff_id: diff,
                variant: None,
                opaque_root: false,
                explicit_root: false,
            };
            record = Some(ChainRecord::on_top_of(record.as_ref(), entry));
        }
        let record = record.unwrap();
        assert_eq!((record.depth, record.run.len()), (100, 4));
        assert_eq!(record.chain, ChainId::of(&diffs).unwrap());
        assert_eq!(record.below, ChainId::of(&diffs[..96]));
        assert!(to_bytes(&record).unwrap().len() < 1200);
    }

    #[test]
    fn mount_states_hold_any_path() {
        let target = PathBuf::from(std::ffi::OsString::from_vec(b"/mnt/a%b\xff\n".to_vec()));
        let state = MountState { target: Some(target), volatile: true, ..Default::default() };
        let bytes = to_bytes(&state).unwrap();
        assert_eq!(serde_json::from_slice::<MountState>(&bytes).unwrap(), state);
        let none = to_bytes(&MountState::default()).unwrap();
        assert_eq!(serde_json::from_slice::<MountState>(&none).unwrap(), MountState::default());
    }

    #[test]
    fn times_before_1970_are_told_apart() {
        assert_eq!(
            RecordTime(-1).timestamp(),
            crate::Timestamp { seconds: -1, nanos: 999_999_999 }
        );
        assert_eq!(RecordTime(1_500_000_000).timestamp().nanos, 500_000_000);
    }
}
