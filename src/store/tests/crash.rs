//! What is there after a process died in the middle: a child of this test does, at a named point.

use std::process::Command;

use super::*;

const POINT: &str = "OVERLAY2_TEST_DIE_AT";
const PATH: &str = "OVERLAY2_TEST_STORE";

/// Runs [`die`] in a process of its own, in the store at `path`.
fn die_at(point: &str, path: &Path) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::crash::die", "--nocapture", "--test-threads=1"])
        .env(POINT, point)
        .env(PATH, path)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(42), "{point}");
}

/// Does nothing in an ordinary run; in a child, comes to the point that it is given and dies there
/// with everything held.
#[test]
fn die() {
    let (Ok(point), Ok(path)) = (std::env::var(POINT), std::env::var(PATH)) else {
        return;
    };
    let store = open(Path::new(&path));
    let leased = || store.find_image("app:1").unwrap().record;
    let die = || std::process::exit(42);
    match point.as_str() {
        "unpacking" => {
            let _held = (store.stage_layer().unwrap(), finished(&store, "new"));
            die()
        }
        "layer committed" => {
            let _held = layer(&store, "new");
            die()
        }
        "chain committed" => {
            let layers = [layer(&store, "new"), layer(&store, "newer")];
            let base = store.find_chain(&leased().chain.unwrap()).unwrap();
            let _held = store.add_chain(base.as_ref(), &layers, Retention::WhileUsed).unwrap();
            die()
        }
        "container staged" => {
            let _held = store.stage_container(&on_image(leased().id, Some("late"))).unwrap();
            die()
        }
        "container on a new chain" => {
            let base = ContainerBase::Chain(chain(&store, &["new"], Retention::WhileUsed).chain());
            let new = NewContainer {
                name: Some("late"),
                base,
                upper_mode: 0o755,
                volatile: false,
                quota: Quota::default(),
            };
            let _held = store.stage_container(&new);
            die()
        }
        "image in the trash" => {
            store.discard(Object::Image(leased().id)).unwrap();
            die()
        }
        "container in the trash" => {
            let id = store.find_container("web").unwrap().id;
            store.discard(Object::Container(id)).unwrap();
            die()
        }
        "reserved" => {
            let _held = store.try_reserve(&LayerKey::Diff(diff_id("new"))).unwrap();
            die()
        }
        "container locked" => {
            let id = store.find_container("web").unwrap().id;
            let _held = store.lock_container(&id).unwrap().unwrap();
            die()
        }
        other => panic!("no point {other}"),
    }
}

/// All that is in a store, one line each, back links and names included.
fn listing(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![path.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            found.push(entry.path().strip_prefix(path).unwrap().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn e80_who_died_while_making_leaves_nothing() {
    let scratch = scratch();
    let id = image(&scratch, &["a", "b"], "app:1");
    drop(scratch.create_container(&on_image(id, Some("web"))).unwrap());
    let before = listing(scratch.path());
    for point in [
        "unpacking",
        "layer committed",
        "chain committed",
        "container staged",
        "container on a new chain",
        "reserved",
        "container locked",
    ] {
        die_at(point, scratch.temporary.path());
        open(scratch.temporary.path());
        // What the first pass frees may let more go: a chain that a dead container stood on.
        assert_eq!(listing(scratch.path()), before, "{point}");
    }
}

#[test]
fn e80_who_died_while_removing_has_removed() {
    let scratch = scratch();
    image(&scratch, &["a", "b"], "app:1");
    die_at("image in the trash", scratch.temporary.path());
    assert_eq!(scratch.names("names").len(), 1);
    open(scratch.temporary.path());
    scratch.assert_empty(&["layers", "chains", "images", "names", "staging", "trash"]);

    let id = image(&scratch, &["a"], "app:1");
    drop(scratch.create_container(&on_image(id, Some("web"))).unwrap());
    die_at("container in the trash", scratch.temporary.path());
    // Its name is free at once, before anybody cleans up.
    drop(scratch.create_container(&empty(Some("web"))).unwrap());
    open(scratch.temporary.path());
    assert!(scratch.find_container("web").is_ok());
    scratch.remove_image("app:1").unwrap();
    scratch.assert_empty(&["layers", "chains", "images", "trash"]);
}

#[test]
fn what_a_living_process_makes_is_not_swept() {
    let scratch = scratch();
    let staging = scratch.stage_layer().unwrap();
    let finished = finished(&scratch, "a");
    let leased = layer(&scratch, "b");
    let container = scratch.stage_container(&empty(Some("web"))).unwrap();
    let Reserved::Yours(reservation) = scratch.try_reserve(&LayerKey::Diff(diff_id("c"))).unwrap()
    else {
        panic!("not reserved");
    };
    let before = listing(scratch.path());
    open(scratch.temporary.path());
    assert_eq!(listing(scratch.path()), before);
    drop(container.commit().unwrap());
    drop((staging, finished, leased, reservation));
    scratch.assert_empty(&["staging", "layers"]);
}

#[test]
fn stale_links_do_not_keep_anything() {
    let scratch = scratch();
    let id = image(&scratch, &["a"], "app:1");
    let users = scratch.path().join("images").join(id.hex()).join("users");
    std::fs::write(users.join(format!("container-{}", "0".repeat(64))), "").unwrap();
    let chain = scratch.find_image("app:1").unwrap().record.chain.unwrap();
    let users = scratch.path().join("chains").join(chain.digest().hex()).join("users");
    std::fs::write(users.join(format!("chain-{}", "0".repeat(64))), "").unwrap();
    scratch.remove_image("app:1").unwrap();
    scratch.assert_empty(&["layers", "chains", "images"]);
    // What is not understood is not swept.
    let chain = super::chain(&scratch, &["b"], Retention::Pinned).chain();
    let users = scratch.path().join("chains").join(chain.digest().hex()).join("users");
    std::fs::write(users.join("lease-of-a-newer-version"), "").unwrap();
    let removed = scratch.remove_chain(&chain);
    refused(removed, ErrorKind::InUse, &["lease-of-a-newer-version"]);
}

#[test]
fn a_broken_record_is_named() {
    let scratch = scratch();
    let lock = scratch.create_container(&empty(Some("web"))).unwrap();
    let id = lock.record().id;
    let file = scratch.container_path(&id).join("container.json");
    drop(lock);
    std::fs::write(&file, "{").unwrap();
    refused(scratch.container(&id), ErrorKind::Corrupt, &[&file.display().to_string()]);
    // Nobody who asks of all is kept from the others, and it can be removed.
    assert_eq!(scratch.containers().unwrap(), []);
    assert_eq!(scratch.broken_container("web").unwrap(), Some(id));
    scratch.remove_broken_container(&id).unwrap();
    assert_eq!(scratch.container(&id).unwrap(), None);
    scratch.create_container(&empty(Some("web"))).unwrap();
    let chain = super::chain(&scratch, &["a", "b"], Retention::Pinned).chain();
    let file = scratch.path().join("chains").join(chain.digest().hex()).join("chain.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let other = diff_id("other").to_string();
    std::fs::write(&file, text.replace(&diff_id("a").to_string(), &other)).unwrap();
    refused(scratch.stack(&chain), ErrorKind::Corrupt, &[&chain.to_string()]);
}

#[test]
fn a_chain_that_stands_on_itself_is_corrupt_at_once() {
    let scratch = scratch();
    let chain = chain(&scratch, &["a", "b"], Retention::Pinned).chain();
    let file = scratch.path().join("chains").join(chain.digest().hex()).join("chain.json");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for depth in [2, 3, 4, 1_000_000, u32::MAX] {
        let mut circle = record.clone();
        circle["below"] = serde_json::json!(chain);
        circle["depth"] = depth.into();
        std::fs::write(&file, circle.to_string()).unwrap();
        refused(scratch.stack(&chain), ErrorKind::Corrupt, &[&chain.to_string()]);
    }
    std::fs::write(&file, record.to_string()).unwrap();
    assert_eq!(scratch.stack(&chain).unwrap().len(), 2);
}
