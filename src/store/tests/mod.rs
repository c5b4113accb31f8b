//! What the store promises, tried through its public calls.
#![expect(clippy::disallowed_methods, reason = "tests break the store from outside")]

mod crash;
mod life;
mod names;
mod opening;
mod race;

use std::io::Write;
use std::path::Path;

use rustix::fs::OFlags;

use super::*;
use crate::digest::{DiffId, Digest};
use crate::quota::Quota;

/// A store in a directory that goes with the value.
struct Scratch {
    store: Store,
    temporary: tempfile::TempDir,
}

impl std::ops::Deref for Scratch {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

fn options() -> StoreOptions {
    StoreOptions::new(Namespace::User).durability(Durability::None)
}

fn open(path: &Path) -> Store {
    Store::open(path.join("store"), &options()).unwrap()
}

fn scratch() -> Scratch {
    let temporary = tempfile::tempdir().unwrap();
    Scratch { store: open(temporary.path()), temporary }
}

impl Scratch {
    /// The names in one of the store's directories, sorted.
    fn names(&self, place: &str) -> Vec<String> {
        names_in(&self.temporary.path().join("store").join(place))
    }

    /// Fails unless each of `places` is empty once the trash is.
    fn assert_empty(&self, places: &[&str]) {
        self.empty_trash(&crate::Watch::new()).unwrap();
        // Two who took back the same at one moment may have left it to each other.
        open(self.temporary.path());
        for place in places {
            assert_eq!(self.names(place), Vec::<String>::new(), "{place}");
        }
    }
}

fn names_in(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn diff_id(text: &str) -> DiffId {
    DiffId::new(Digest::of(text.as_bytes()))
}

/// A layer of one file, whose content is also its changeset.
fn finished(store: &Store, text: &str) -> FinishedLayer {
    let staging = store.stage_layer().unwrap();
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let mut file = staging.dir().open(b"file", flags, 0o644).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    staging
        .side()
        .open(b"changeset", rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE, 0o600)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    staging.finish(&layer_record(text)).unwrap()
}

fn layer_record(text: &str) -> LayerRecord {
    LayerRecord {
        key: LayerKey::Diff(diff_id(text)),
        diff_id: diff_id(text),
        diff_size: text.len() as u64,
        inodes: 2,
        changeset_size: text.len() as u64,
        opaque_root: false,
        explicit_root: false,
        assumptions: crate::Assumptions::default(),
        owners: Owners::Exact,
        created: RecordTime::now(),
    }
}

/// Commits a layer, or leases the one that is there.
fn layer(store: &Store, text: &str) -> LeasedLayer {
    if let Some(layer) = store.find_layer(&LayerKey::Diff(diff_id(text))).unwrap() {
        return layer;
    }
    store.commit_layers(vec![finished(store, text)]).unwrap().pop().unwrap()
}

fn chain(store: &Store, texts: &[&str], retention: Retention) -> LeasedChain {
    let layers: Vec<_> = texts.iter().map(|text| layer(store, text)).collect();
    store.add_chain(None, &layers, retention).unwrap()
}

/// An image of these layers, with a name.
fn image(store: &Store, texts: &[&str], name: &str) -> Digest {
    let chain = chain(store, texts, Retention::WhileUsed);
    let diff_ids: Vec<_> = texts.iter().map(|text| diff_id(text)).collect();
    let config = format!("{{\"layers\":{texts:?},\"of\":{name:?}}}");
    let new = NewImage { config: config.as_bytes(), diff_ids: &diff_ids, manifest: None };
    let leased = store.add_image(Some(&chain), &new).unwrap();
    let id = leased.record().id;
    store.tag(&id, name).unwrap();
    id
}

fn on_image<'a>(id: Digest, name: Option<&'a str>) -> NewContainer<'a> {
    let base = ContainerBase::Image { id, name: "some image".to_owned() };
    NewContainer { name, base, upper_mode: 0o755, volatile: false, quota: Quota::default() }
}

fn empty(name: Option<&str>) -> NewContainer<'_> {
    NewContainer {
        name,
        base: ContainerBase::Empty,
        upper_mode: 0o755,
        volatile: false,
        quota: Quota::default(),
    }
}

/// Fails unless the call was refused for `kind` with all of `words` in its message.
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{error} lacks {word}");
    }
}
