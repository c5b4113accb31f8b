//! Names of images and containers.

use super::*;

#[test]
fn images_are_found_by_name_and_id() {
    let store = scratch();
    let id = image(&store, &["a"], "docker.io/library/alpine:latest");
    image(&store, &["b"], "app:1");
    let digits = id.hex();
    for text in [
        "alpine",
        "alpine:latest",
        "docker.io/library/alpine",
        &digits,
        &format!("sha256:{digits}"),
        &digits[..12],
    ] {
        assert_eq!(store.find_image(text).unwrap().record.id, id, "{text}");
    }
    for text in ["alpine:3", "app", "sha256:", "", "zz", &digits[..1]] {
        refused(store.find_image(text), ErrorKind::NotFound, &[text]);
    }
}

#[test]
fn the_start_of_several_ids_lists_them() {
    let store = scratch();
    let mut ids = Vec::new();
    for index in 0.. {
        let config = index.to_string();
        let id = Digest::of(config.as_bytes());
        if id.hex().starts_with("ab") {
            let new = NewImage { config: config.as_bytes(), diff_ids: &[], manifest: None };
            store.add_image(None, &new).unwrap();
            ids.push(id.hex());
        }
        if ids.len() == 2 {
            break;
        }
    }
    refused(store.find_image("ab"), ErrorKind::InvalidInput, &[&ids[0], &ids[1]]);
    // A name comes before the start of an ID.
    store.tag(&Digest::from_hex(&ids[1]).unwrap(), "ab:latest").unwrap();
    assert_eq!(store.find_image("ab").unwrap().record.id.hex(), ids[1]);
}

#[test]
fn a_name_moves_to_the_image_that_took_it_last() {
    let store = scratch();
    let old = image(&store, &["a"], "app:1");
    let new = image(&store, &["b"], "other:1");
    store.tag(&new, "app:1").unwrap();
    assert_eq!(store.find_image("app:1").unwrap().record.id, new);
    assert_eq!(store.image(&new).unwrap().unwrap().names, ["app:1", "other:1"]);
    assert!(store.image(&old).unwrap().unwrap().names.is_empty());
    let removed = store.remove_image(&new.hex());
    refused(removed, ErrorKind::InUse, &["app:1", "other:1"]);
    let removed = store.remove_image("app:1").unwrap();
    assert_eq!(removed, RemovedImage::Untagged { name: "app:1".to_owned() });
    assert!(matches!(store.remove_image("other:1").unwrap(), RemovedImage::Removed { .. }));
    assert!(matches!(store.remove_image(&old.hex()).unwrap(), RemovedImage::Removed { .. }));
    store.assert_empty(&["layers", "chains", "images", "names"]);
}

#[test]
fn one_of_two_names_goes_while_a_container_runs() {
    let store = scratch();
    let id = image(&store, &["a"], "app:1");
    store.tag(&id, "app:2").unwrap();
    drop(store.create_container(&on_image(id, Some("web"))).unwrap());
    assert!(matches!(store.remove_image("app:1").unwrap(), RemovedImage::Untagged { .. }));
    refused(store.remove_image("app:2"), ErrorKind::InUse, &["container web"]);
}

#[test]
fn e40_odd_and_long_names_work() {
    let store = scratch();
    let long = format!("registry.example.org/{}:tag", "path/".repeat(100));
    let odd = ["../../etc/passwd", ".hidden", "%41", "ü/ö:ä", "a,b c\\d", &long];
    let id = image(&store, &["a"], "first:1");
    for name in odd {
        store.tag(&id, name).unwrap();
        assert_eq!(store.find_image(name).unwrap().record.id, id, "{name}");
    }
    let names = store.image(&id).unwrap().unwrap().names;
    assert_eq!(names.len(), odd.len() + 1);
    assert!(odd.iter().all(|name| names.iter().any(|found| found == name)));
    for bad in ["", "a\nb", "\0"] {
        refused(store.tag(&id, bad), ErrorKind::InvalidInput, &["cannot be the name"]);
    }
    for name in odd {
        store.remove_image(name).unwrap();
    }
    store.remove_image("first:1").unwrap();
    store.assert_empty(&["names", "images"]);
}

#[test]
fn a_container_name_is_unique_until_it_is_free_again() {
    let store = scratch();
    let first = store.create_container(&empty(Some("web"))).unwrap();
    let id = first.record().id;
    let taken = store.create_container(&empty(Some("web")));
    refused(taken, ErrorKind::AlreadyExists, &["web", &id.to_string()]);
    assert_eq!(store.find_container("web").unwrap().id, id);
    assert_eq!(store.find_container(&id.to_string()).unwrap().id, id);
    assert_eq!(store.find_container(&id.short()).unwrap().id, id);
    refused(store.find_container("we"), ErrorKind::NotFound, &["we"]);
    first.remove().unwrap();
    refused(store.find_container("web"), ErrorKind::NotFound, &["web"]);
    drop(store.create_container(&empty(Some("web"))).unwrap());
    assert_eq!(store.containers().unwrap().len(), 1);
    let malformed = store.create_container(&empty(Some("../x")));
    refused(malformed, ErrorKind::InvalidInput, &["../x"]);
}

#[test]
fn names_are_made_up() {
    let store = scratch();
    let names: std::collections::BTreeSet<_> = (0..50)
        .map(|_| store.create_container(&empty(None)).unwrap().record().name.clone())
        .collect();
    assert_eq!(names.len(), 50);
}
