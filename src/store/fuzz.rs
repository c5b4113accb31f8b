//! What fuzzing tries here: records on disk, and names.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "compiled for tests and fuzzing alone"
)]

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::container_name::check_container_name;
use super::layout::{self, Object};
use super::record::{self, NameRecord, StoreRecord};
use super::*;
use crate::digest::{ChainId, Digest};
use crate::file_name::encode;
use crate::fuzz_bed::{Input, Scratch};

/// Text as what people call things, and as file names of the store.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let encoded = encode(text);
    assert!(encoded.len() < 255 && !encoded.starts_with('.') && encoded.is_ascii());
    assert!(!encoded.contains('/') && !encoded.contains('\0'));
    if check_container_name(text).is_ok() {
        assert!(text.len() <= 255 && !text.starts_with('.') && !text.contains('/'));
    }
    if let Ok(key) = text.parse::<LayerKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(id) = text.parse::<ContainerId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Some(object) = Object::from_tag(text) {
        assert!(text.starts_with(&object.tag()));
        assert_eq!(Object::from_tag(&object.tag()), Some(object));
    }
}

/// What is read as a record is written as the same record.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<T>(bytes) else { return };
    let written = record::to_bytes(&record).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&written).unwrap(), record);
}

/// Any bytes as each of the store's records, alone and in a store.
pub(crate) fn records(data: &[u8]) {
    let mut input = Input::new(data);
    let (which, bytes) = (input.below(7), input.rest());
    survives::<StoreRecord>(bytes);
    survives::<LayerRecord>(bytes);
    survives::<ChainRecord>(bytes);
    survives::<ImageRecord>(bytes);
    survives::<ContainerRecord>(bytes);
    survives::<NameRecord>(bytes);
    survives::<MountState>(bytes);
    match which {
        0 => store_record(bytes),
        _ => in_a_store(which, bytes),
    }
}

/// A directory with any bytes as the store's own record is opened as what they say, or refused;
/// nothing is written into it where it is refused.
fn store_record(bytes: &[u8]) {
    let scratch = Scratch::new();
    let root = scratch.make("store");
    std::fs::write(root.join(layout::STORE_FILE), bytes).unwrap();
    let options = StoreOptions { durability: Durability::None, ..StoreOptions::default() };
    match Store::open(&root, &options) {
        Ok(store) => assert_eq!(store.id(), store.0.record.id),
        Err(error) => {
            refused(&error);
            assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1, "{error}");
        }
    }
}

/// The name of an object.
const OBJECT: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// An object whose record is any bytes: every call answers, and says what is wrong.
fn in_a_store(which: usize, bytes: &[u8]) {
    let scratch = Scratch::new();
    let options = StoreOptions::new(Namespace::User).durability(Durability::None);
    let store = Store::open(scratch.path().join("store"), &options).unwrap();
    let root = scratch.path().join("store");
    let place = match which {
        1 => format!("layers/{OBJECT}/layer.json"),
        2 => format!("chains/{OBJECT}/chain.json"),
        3 => format!("images/{OBJECT}/image.json"),
        4 => format!("containers/{OBJECT}/container.json"),
        5 => "names/alpine:latest".to_owned(),
        _ => format!("images/{OBJECT}/config"),
    };
    let file = root.join(&place);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let _ = std::fs::remove_file(root.join("container-names/web"));
    let target = format!("../containers/{OBJECT}");
    let _ = std::os::unix::fs::symlink(target, root.join("container-names/web"));
    ask(&store);
    assert_eq!(std::fs::read(&file).ok().as_deref(), Some(bytes), "a record was changed");
}

fn ask(store: &Store) {
    let digest: Digest = format!("sha256:{OBJECT}").parse().unwrap();
    let (diff, chain) = (crate::DiffId::new(digest), ChainId::new(digest));
    let id: ContainerId = OBJECT.parse().unwrap();
    told(store.layer_record(&LayerKey::Diff(diff)));
    told(store.layers());
    told(store.find_layer(&LayerKey::Diff(diff)));
    told(store.chain_record(&chain));
    told(store.chains());
    told(store.stack(&chain));
    told(store.find_chain(&chain));
    told(store.image(&digest));
    told(store.images());
    told(store.find_image("alpine"));
    told(store.find_image("alpine:latest"));
    told(store.image_named("alpine:latest"));
    told(store.image_names());
    told(store.image_config(&digest));
    told(store.container(&id));
    told(store.containers());
    told(store.find_container("web"));
    told(store.find_container(&OBJECT[..12]));
    told(store.lock_container(&id));
}

fn told<T>(result: Result<T>) {
    if let Err(error) = result {
        refused(&error);
    }
}

/// An error that a person can do something with.
fn refused(error: &Error) {
    let expected = [
        ErrorKind::Corrupt,
        ErrorKind::NotFound,
        ErrorKind::Unsupported,
        ErrorKind::InvalidInput,
        ErrorKind::AlreadyExists,
    ];
    assert!(expected.contains(&error.kind()), "{:?}: {error}", error.kind());
}
