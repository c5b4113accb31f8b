//! From layers to containers and back, in one thread.

use std::io::Read;

use super::*;

#[test]
fn a_layer_is_absent_until_it_is_committed_and_whole_then() {
    let store = scratch();
    let finished = finished(&store, "a");
    let key = finished.key();
    assert!(store.find_layer(&key).unwrap().is_none());
    let leased = store.commit_layers(vec![finished]).unwrap().pop().unwrap();
    assert_eq!(leased.record().unwrap().diff_id, diff_id("a"));
    assert_eq!(leased.open().unwrap().entries().unwrap().len(), 1);
    assert_eq!(store.open_layer(&key).unwrap().entries().unwrap().len(), 1);
    let mut text = String::new();
    let flags = rustix::fs::OFlags::RDONLY;
    leased.side().open(b"changeset", flags, 0).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "a");
    // No chain came to stand on it.
    drop(leased);
    store.assert_empty(&["layers", "staging", "trash"]);
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let store = scratch();
    drop(store.stage_layer().unwrap());
    drop(finished(&store, "a"));
    drop(store.stage_container(&empty(Some("web"))).unwrap());
    store.assert_empty(&["layers", "staging", "trash", "containers", "container-names"]);
    drop(store.create_container(&empty(Some("web"))).unwrap());
}

#[test]
fn e48_one_diff_twice_in_a_stack_keeps_both() {
    let store = scratch();
    let chain = chain(&store, &["a", "b", "a"], Retention::Pinned).chain();
    let stack = store.stack(&chain).unwrap();
    let diffs: Vec<_> = stack.iter().map(|entry| entry.diff_id).collect();
    assert_eq!(diffs, [diff_id("a"), diff_id("b"), diff_id("a")]);
    assert_eq!(store.layers().unwrap().len(), 2);
    store.remove_chain(&chain).unwrap();
    store.assert_empty(&["layers", "chains"]);
}

#[test]
fn layers_go_with_their_last_image_and_not_before() {
    let store = scratch();
    let first = image(&store, &["a", "b"], "first:1");
    image(&store, &["a", "c"], "second:1");
    assert_eq!((store.layers().unwrap().len(), store.chains().unwrap().len()), (3, 3));
    let removed = store.remove_image("first:1").unwrap();
    assert!(matches!(removed, RemovedImage::Removed { id, .. } if id == first));
    assert_eq!((store.layers().unwrap().len(), store.chains().unwrap().len()), (2, 2));
    assert!(store.stack(&store.find_image("second:1").unwrap().record.chain.unwrap()).is_ok());
    store.remove_image("second:1").unwrap();
    store.assert_empty(&["layers", "chains", "images", "names", "staging", "trash"]);
}

#[test]
fn a_pinned_chain_outlives_its_image() {
    let store = scratch();
    let pinned = chain(&store, &["a"], Retention::Pinned).chain();
    image(&store, &["a", "b"], "app:1");
    store.remove_image("app:1").unwrap();
    assert_eq!(store.chains().unwrap(), [pinned]);
    assert!(store.is_pinned(&pinned).unwrap());
    assert!(!store.remove_unused_chain(&pinned).unwrap());
    // One that an image brought is pinned later as well.
    image(&store, &["c"], "other:1");
    let later = chain(&store, &["c"], Retention::Pinned).chain();
    store.remove_image("other:1").unwrap();
    assert!(store.chain_record(&later).unwrap().is_some());
    store.remove_chain(&later).unwrap();
    store.remove_chain(&pinned).unwrap();
    store.assert_empty(&["layers", "chains"]);
}

#[test]
fn e43_every_refusal_names_the_user() {
    let store = scratch();
    let id = image(&store, &["a", "b"], "app:1");
    let chain = store.find_image("app:1").unwrap().record.chain.unwrap();
    let base = store.chain_record(&chain).unwrap().unwrap().parent.unwrap();
    let container = store.create_container(&on_image(id, Some("web"))).unwrap();
    let container_id = container.record().id;
    refused(store.remove_image("app:1"), ErrorKind::InUse, &["container web"]);
    refused(store.remove_chain(&chain), ErrorKind::InUse, &["image app:1"]);
    refused(store.remove_chain(&base), ErrorKind::InUse, &[&format!("chain {chain}")]);
    refused(store.remove_container(&container_id), ErrorKind::InUse, &["container web"]);
    assert!(!store.remove_unused_layer(&LayerKey::Diff(diff_id("a"))).unwrap());
    assert!(store.lock_container(&container_id).unwrap().is_none());
    drop(container);
    let mut lock = store.lock_container(&container_id).unwrap().unwrap();
    let target = Some("/mnt/web".into());
    lock.set_mount(Some(MountState { target, ..MountState::default() })).unwrap();
    drop(lock);
    let mounted = store.remove_container(&container_id);
    refused(mounted, ErrorKind::InUse, &["container web", "/mnt/web"]);
    let mut lock = store.lock_container(&container_id).unwrap().unwrap();
    lock.set_mount(None).unwrap();
    lock.remove().unwrap();
    refused(store.remove_container(&container_id), ErrorKind::NotFound, &["container"]);
    store.remove_image("app:1").unwrap();
    store.assert_empty(&["layers", "chains", "images", "names", "containers", "container-names"]);
}

#[test]
fn a_container_on_a_chain_keeps_it() {
    let store = scratch();
    let leased = chain(&store, &["a"], Retention::WhileUsed);
    let base = ContainerBase::Chain(leased.chain());
    let new = NewContainer {
        name: Some("web"),
        base,
        upper_mode: 0o1777,
        volatile: false,
        quota: Quota::default(),
    };
    let container = store.create_container(&new).unwrap();
    let chain = leased.chain();
    drop(leased);
    assert_eq!(container.record().chain, Some(chain));
    assert_eq!(container.upper().unwrap().stat_self().unwrap().st_mode & 0o7777, 0o1777);
    refused(store.remove_chain(&chain), ErrorKind::InUse, &["container web"]);
    container.remove().unwrap();
    store.assert_empty(&["layers", "chains", "containers"]);
    let missing = store.create_container(&new);
    refused(missing, ErrorKind::NotFound, &[&chain.to_string()]);
    store.assert_empty(&["containers", "container-names", "staging"]);
}

#[test]
fn a_leased_object_is_not_removed() {
    let store = scratch();
    let held = chain(&store, &["a"], Retention::Pinned);
    refused(store.remove_chain(&held.chain()), ErrorKind::InUse, &["another process"]);
    let id = held.chain();
    drop(held);
    store.remove_chain(&id).unwrap();
    refused(store.remove_chain(&id), ErrorKind::NotFound, &[&id.to_string()]);
}

#[test]
fn an_image_gives_back_its_bytes() {
    let store = scratch();
    let chain = chain(&store, &["a"], Retention::WhileUsed);
    let diff_ids = [diff_id("a")];
    let (config, manifest) = (&b"{ }\n"[..], Some(&b"{\"m\":1}"[..]));
    let new = NewImage { config, diff_ids: &diff_ids, manifest };
    let id = store.add_image(Some(&chain), &new).unwrap().record().id;
    assert_eq!(store.image_config(&id).unwrap(), config);
    assert_eq!(store.image_manifest(&id).unwrap().as_deref(), manifest);
    // The same again is the same image.
    assert_eq!(store.add_image(Some(&chain), &new).unwrap().record().id, id);
    assert_eq!(store.images().unwrap().len(), 1);
    let other = NewImage { diff_ids: &[diff_id("b")], ..new };
    refused(store.add_image(Some(&chain), &other), ErrorKind::InvalidInput, &["diff IDs"]);
    std::fs::write(store.path().join("images").join(id.hex()).join("config"), "{}").unwrap();
    refused(store.image_config(&id), ErrorKind::Corrupt, &[&id.to_string()]);
}

#[test]
fn e41_a_stack_of_400_is_read_from_13_records() {
    let store = scratch();
    let texts: Vec<_> = (0..400).map(|index| format!("layer {index}")).collect();
    let mut top: Option<LeasedChain> = None;
    for part in texts.chunks(16) {
        let finished = part.iter().map(|text| finished(&store, text)).collect();
        let layers = store.commit_layers(finished).unwrap();
        top = Some(store.add_chain(top.as_ref(), &layers, Retention::WhileUsed).unwrap());
    }
    let top = top.unwrap();
    assert_eq!(top.record().depth, 400);
    let stack = store.stack(&top.chain()).unwrap();
    assert_eq!(stack.len(), 400);
    assert_eq!(stack[0].diff_id, diff_id("layer 399"));
    for entry in &stack {
        store.open_layer(&entry.layer()).unwrap();
    }
    // Whoever let the last lease go has no use for any of them.
    drop(top);
    store.assert_empty(&["layers", "chains", "staging"]);
}

#[test]
fn a_variant_stands_beside_the_plain_layer() {
    let store = scratch();
    let base = chain(&store, &["base"], Retention::Pinned);
    let top = base.chain().extend(&diff_id("a"));
    let plain = layer(&store, "a");
    let record = LayerRecord { key: LayerKey::Chain(top), ..layer_record("a") };
    let variant = store.stage_layer().unwrap().finish(&record).unwrap();
    let variant = store.commit_layers(vec![variant]).unwrap();
    let chain = store.add_chain(Some(&base), &variant, Retention::Pinned).unwrap();
    assert_eq!(chain.chain(), top);
    assert_eq!(store.stack(&top).unwrap()[0].layer(), LayerKey::Chain(top));
    drop(plain);
    // The changeset is written again from the plain one, so the chain keeps both.
    assert!(!store.remove_unused_layer(&LayerKey::Diff(diff_id("a"))).unwrap());
    drop((variant, chain));
    store.remove_chain(&top).unwrap();
    assert_eq!(store.layers().unwrap(), [LayerKey::Diff(diff_id("base"))]);
}

#[test]
fn e44_nothing_is_deleted_through_a_mount() {
    let store = scratch();
    let container = store.create_container(&empty(Some("web"))).unwrap();
    let (id, merged) = (container.record().id, container.merged_path());
    drop(container);
    let precious = store.temporary.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("data"), "kept").unwrap();
    if let Err(error) = rustix::mount::mount_bind(&precious, &merged) {
        eprintln!("SKIP e44_nothing_is_deleted_through_a_mount: bind mount: {error}");
        assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
        return;
    }
    let removed = store.remove_container(&id);
    // As if something had been mounted in the moment between looking and moving.
    store.discard(Object::Container(id)).unwrap();
    let emptied = store.empty_trash(&crate::Watch::new());
    let trash = store.path().join("trash").join(&store.names("trash")[0]);
    rustix::mount::unmount(trash.join("merged"), rustix::mount::UnmountFlags::DETACH).unwrap();
    refused(removed, ErrorKind::InUse, &["container web", "merged"]);
    assert!(emptied.is_err());
    assert_eq!(std::fs::read_to_string(precious.join("data")).unwrap(), "kept");
    store.assert_empty(&["trash", "containers", "container-names"]);
}

#[test]
fn a_stack_that_was_read_is_not_remembered_beyond_its_chain() {
    let store = scratch();
    // Two records: the one below is not the chain's own.
    let texts: Vec<_> = (0..40).map(|number| number.to_string()).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let chain = chain(&store, &texts, Retention::Pinned).chain();
    let stack = store.stack(&chain).unwrap();
    assert_eq!(store.stack(&chain).unwrap(), stack);
    assert_eq!(Store::open(store.path(), &options()).unwrap().stack(&chain).unwrap(), stack);
    let below = store.chain_record(&chain).unwrap().unwrap().below.unwrap();
    let file = store.path().join("chains").join(below.digest().hex()).join("chain.json");
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, "{").unwrap();
    refused(store.stack(&chain), ErrorKind::Corrupt, &["chain.json"]);
    std::fs::remove_file(&file).unwrap();
    refused(store.stack(&chain), ErrorKind::Corrupt, &[&below.to_string()]);
    std::fs::write(&file, text).unwrap();
    assert_eq!(store.stack(&chain).unwrap(), stack);
    store.remove_chain(&chain).unwrap();
    refused(store.stack(&chain), ErrorKind::NotFound, &[&chain.to_string()]);
}
