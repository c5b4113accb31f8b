//! A process that is killed in the middle leaves the old state or the new.

use std::path::Path;

use super::bed::{Bed, Manner, Who, merged, same};
use super::machine::cases;
use crate::Dir;

const VICTIM: &str = "OVERLAY2_TEST_VICTIM";
const LENGTH: usize = 50_000;

/// Changes a tree until it is killed; does nothing but in the process that the test below starts.
#[test]
fn victim() {
    let Some(root) = std::env::var_os(VICTIM) else { return };
    let dir = |name: &str| Dir::open_ambient(Path::new(&root).join(name)).unwrap();
    let options = Manner::plain().options();
    let tree = super::bed::writable(vec![dir("lower0")], dir("upper"), dir("work"), &options);
    tree.write("new", vec![b'b'; LENGTH]).unwrap();
    for number in 0.. {
        let file = format!("d/e/{}", number % 8);
        drop(tree.set_permissions(&file, 0o600));
        drop(tree.rename("new", &file));
        tree.write("new", vec![b'b'; LENGTH]).unwrap();
        for path in ["g/x", "g/y"] {
            drop(tree.remove_file(path));
        }
        drop(tree.remove_dir("g"));
        drop(tree.create_dir("g", 0o755));
        drop(tree.write("g/z", "z"));
        drop(tree.remove_file("g/z"));
    }
}

#[test]
fn killed_at_any_moment_the_tree_is_old_or_new() {
    let can_mount = super::machine::can_mount("killed_at_any_moment_the_tree_is_old_or_new");
    let mut lines = vec!["d/".to_owned(), "d/e/".to_owned()];
    lines.extend((0..8).map(|number| format!("d/e/{number}={}", "a".repeat(LENGTH))));
    lines.extend(["g/", "g/x=1", "g/y=2"].map(str::to_owned));
    for round in 0..cases() / 4 + 1 {
        let bed = Bed::new(&[lines.clone()], Manner::plain());
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "merged::tests::crash::victim"])
            .env(VICTIM, bed.path(""))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Until it has begun, and then some.
        while !bed.path("upper/new").exists() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 211 % 9000));
        child.kill().unwrap();
        child.wait().unwrap();
        let tree = bed.tree();
        assert_eq!(std::fs::read_dir(bed.path("work/work")).unwrap().count(), 0);
        for number in 0..8 {
            let data = tree.read(format!("d/e/{number}")).unwrap();
            assert_eq!(data.len(), LENGTH);
            assert!(data.iter().all(|&byte| byte == data[0]));
        }
        if let Ok(names) = tree.read_dir("g") {
            let names: Vec<_> = names.iter().map(|entry| entry.name_bytes().to_vec()).collect();
            let allowed: [&[&[u8]]; 4] = [&[b"x", b"y"], &[b"y"], &[], &[b"z"]];
            assert!(allowed.iter().any(|allowed| names == *allowed), "{names:?}");
        }
        if can_mount {
            let shown = merged(&tree);
            drop(tree);
            same("the tree that was left", &shown, &merged(&*bed.open(Who::Kernel))).unwrap();
        }
    }
}
