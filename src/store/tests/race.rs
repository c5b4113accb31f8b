//! Many at once. Each thread opens the store for itself, so that it is to the others what a process
//! is: locks are held by open descriptions.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::sys::random;
use crate::watch::Watch;

/// Runs `work` in `count` threads that start together, each with a store of its own.
fn together<T: Send>(
    scratch: &Scratch,
    count: usize,
    work: impl Fn(usize, &Store) -> T + Sync,
) -> Vec<T> {
    let barrier = Barrier::new(count);
    let run = |index| {
        let store = open(scratch.temporary.path());
        barrier.wait();
        work(index, &store)
    };
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|index| scope.spawn(move || run(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn e82_a_layer_that_two_commit_is_there_once() {
    let scratch = scratch();
    for round in 0..8 {
        let text = format!("layer {round}");
        let leased = together(&scratch, 3, |_, store| {
            let finished = finished(store, &text);
            store.commit_layers(vec![finished]).unwrap().pop().unwrap()
        });
        assert!(leased.iter().all(|leased| leased.open().unwrap().entries().unwrap().len() == 1));
        assert_eq!(scratch.layers().unwrap().len(), 1);
        drop(leased);
        scratch.assert_empty(&["layers", "staging"]);
    }
}

#[test]
fn e82_a_reserved_layer_is_unpacked_once() {
    let scratch = scratch();
    let (key, unpacked) = (LayerKey::Diff(diff_id("a")), AtomicU32::new(0));
    let leased =
        together(&scratch, 4, |_, store| match store.reserve(&key, &Watch::new()).unwrap() {
            Reserved::Ready(layer) => layer,
            Reserved::Yours(_reservation) => {
                unpacked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(30));
                store.commit_layers(vec![finished(store, "a")]).unwrap().pop().unwrap()
            }
            Reserved::Busy => panic!("reserve waits"),
        });
    assert_eq!((leased.len(), unpacked.into_inner()), (4, 1));
    assert!(scratch.names("staging").iter().all(|name| !name.ends_with(".lock")));
}

#[test]
fn a_waiter_can_be_cancelled_and_takes_over() {
    let scratch = scratch();
    let key = LayerKey::Diff(diff_id("a"));
    let Reserved::Yours(first) = scratch.try_reserve(&key).unwrap() else {
        panic!("not reserved");
    };
    assert!(matches!(scratch.try_reserve(&key).unwrap(), Reserved::Busy));
    let cancel = AtomicBool::new(true);
    let cancelled = scratch.reserve(&key, &Watch::new().cancel(&cancel));
    refused(cancelled, ErrorKind::Cancelled, &[]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| scratch.reserve(&key, &Watch::new()).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        drop(first);
        assert!(matches!(waiter.join().unwrap(), Reserved::Yours(_)));
    });
}

#[test]
fn a_container_name_has_one_winner() {
    let scratch = scratch();
    for round in 0..20 {
        let name = format!("web-{round}");
        // One that died has left its name.
        let stale = format!("../containers/{}", "0".repeat(64));
        std::os::unix::fs::symlink(stale, scratch.path().join("container-names").join(&name))
            .unwrap();
        let made =
            together(&scratch, 4, |_, store| match store.create_container(&empty(Some(&name))) {
                Ok(lock) => Some(lock.record().id),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
                Err(error) => panic!("{error}"),
            });
        let winners: Vec<_> = made.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(scratch.find_container(&name).unwrap().id, winners[0]);
    }
}

#[test]
fn e82_makers_and_removers_never_break_a_stack() {
    let scratch = scratch();
    let texts: [&[&str]; 4] = [&["a"], &["a", "b"], &["a", "b", "c"], &["a", "d"]];
    let counts = together(&scratch, 4, |thread, store| {
        let mut made = 0;
        for round in 0..60 {
            let [choice, action] = random::bytes::<2>().unwrap();
            let texts = texts[usize::from(choice) % texts.len()];
            let name = format!("app:{}", texts.len() + usize::from(texts.contains(&"d")) * 10);
            match action % 4 {
                0 | 1 => {
                    let id = racing_image(store, texts, &name);
                    let new = on_image(id, None);
                    match store.create_container(&new) {
                        Ok(container) => {
                            made += 1;
                            check_container(store, container.record());
                            container.remove().unwrap();
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                    }
                }
                2 => match store.remove_image(&name) {
                    Ok(_) => {}
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InUse),
                        "{thread} {round}: {error}"
                    ),
                },
                _ => {
                    store.images().unwrap();
                    store.containers().unwrap();
                    store.empty_trash(&Watch::new()).unwrap();
                    open(scratch.temporary.path());
                }
            }
        }
        made
    });
    assert!(counts.iter().sum::<u32>() > 0);
    for image in scratch.images().unwrap() {
        scratch.stack(&image.record.chain.unwrap()).unwrap();
        scratch.remove_image(&image.record.id.hex()).unwrap();
    }
    scratch.assert_empty(&["images", "names", "containers", "container-names", "staging"]);
    // A chain that somebody held in the moment when its last user went stays until it is dropped.
    for chain in scratch.chains().unwrap() {
        scratch.remove_unused_chain(&chain).unwrap();
    }
    for key in scratch.layers().unwrap() {
        scratch.remove_unused_layer(&key).unwrap();
    }
    scratch.assert_empty(&["chains", "layers"]);
}

fn racing_image(store: &Store, texts: &[&str], name: &str) -> Digest {
    let id = image_without_name(store, texts);
    match store.tag(&id, name) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
    }
    id
}

fn image_without_name(store: &Store, texts: &[&str]) -> Digest {
    let chain = chain(store, texts, Retention::WhileUsed);
    let diff_ids: Vec<_> = texts.iter().map(|text| diff_id(text)).collect();
    let config = format!("{texts:?}");
    let new = NewImage { config: config.as_bytes(), diff_ids: &diff_ids, manifest: None };
    store.add_image(Some(&chain), &new).unwrap().record().id
}

/// While a container exists, all that it stands on is there.
fn check_container(store: &Store, record: &ContainerRecord) {
    let stack = store.stack(&record.chain.unwrap()).unwrap();
    for entry in &stack {
        assert_eq!(store.open_layer(&entry.layer()).unwrap().entries().unwrap().len(), 1);
    }
    assert!(!store.image_config(&record.image.unwrap()).unwrap().is_empty());
}
