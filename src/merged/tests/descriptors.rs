//! What is kept open although nobody uses it is a quarter of what the process may open.
//!
//! Each test runs again in a process of its own, which may open few files.

use super::bed::{Bed, Manner};
use crate::merged::Tree;

/// Set where the test runs in a process of its own.
const FEW: &str = "OVERLAY2_TEST_FEW_DESCRIPTORS";

/// Whether this is the process that may open `most` files; runs it where it is not.
fn may_open_few(test: &str, most: usize) -> bool {
    if std::env::var_os(FEW).is_some() {
        return true;
    }
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit -n {most} && exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("merged::tests::descriptors::{test}"), "--test-threads=1"])
        .env(FEW, "1")
        .output()
        .unwrap();
    let told = [&output.stdout[..], &output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    false
}

fn open_now() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Two layers that have the same directories.
fn twice(paths: &[String]) -> Bed {
    let lines: Vec<String> = paths.iter().map(|path| format!("{path}/")).collect();
    Bed::new(&[lines.clone(), lines], Manner::plain())
}

/// The paths `d`, `d/d`, and so on.
fn chain(depth: usize) -> Vec<String> {
    (1..=depth).map(|depth| vec!["d"; depth].join("/")).collect()
}

fn walk_as_far_as_it_goes(tree: &Tree) {
    let walk = tree.walk("/").unwrap();
    walk.take_while(Result::is_ok).for_each(drop);
}

fn opens(tree: &Tree, path: &str) {
    tree.write(format!("{path}/f"), "1").unwrap();
    assert_eq!(tree.read(format!("{path}/f")).unwrap(), b"1");
}

#[test]
fn a_chain_of_directories_is_counted_whole() {
    if !may_open_few("a_chain_of_directories_is_counted_whole", 256) {
        return;
    }
    let bed = twice(&chain(130));
    let tree = bed.tree();
    let before = open_now();
    walk_as_far_as_it_goes(&tree);
    assert!(open_now() <= before + 64, "{} of {before}", open_now());
    opens(&tree, &chain(30)[29]);
    // Each of them has an upper part now.
    assert!(open_now() <= before + 64, "{} of {before}", open_now());
    assert!(open_now() > before + 16, "nothing is kept");
}

#[test]
fn directories_that_move_are_counted_where_they_are() {
    if !may_open_few("directories_that_move_are_counted_where_they_are", 256) {
        return;
    }
    let bed = twice(&["a".to_owned()]);
    let tree = bed.tree();
    let before = open_now();
    for round in 0..40 {
        let deep = format!("new/{}", chain(8)[7]);
        tree.create_dir_all(&deep, 0o755).unwrap();
        tree.create_dir(format!("a/{round}"), 0o755).unwrap();
        tree.rename("new/d", format!("a/{round}/moved")).unwrap();
        opens(&tree, &format!("a/{round}/moved/d/d"));
        if round % 3 == 0 {
            tree.rename(format!("a/{round}/moved/d/d"), format!("a/{round}/d")).unwrap();
            tree.create_dir("b", 0o755).unwrap();
            let exchange = crate::merged::RenameMode::Exchange;
            tree.rename_with("b", format!("a/{round}/moved"), exchange).unwrap();
            tree.remove_dir_all("b").unwrap();
        }
        assert!(open_now() <= before + 64, "{} of {before}", open_now());
    }
    walk_as_far_as_it_goes(&tree);
    assert!(open_now() <= before + 64, "{} of {before}", open_now());
}

#[test]
fn few_are_kept_where_few_may_be_open() {
    if !may_open_few("few_are_kept_where_few_may_be_open", 64) {
        return;
    }
    let paths: Vec<String> = (0..40).map(|number| format!("d{number}")).collect();
    let bed = twice(&paths);
    let tree = bed.tree();
    let before = open_now();
    for path in &paths {
        opens(&tree, path);
    }
    assert!(open_now() <= before + 16, "{} of {before}", open_now());
}

#[test]
fn what_is_kept_is_let_go_before_an_open_fails() {
    if !may_open_few("what_is_kept_is_let_go_before_an_open_fails", 64) {
        return;
    }
    let paths: Vec<String> = (0..6).map(|number| format!("d{number}")).collect();
    let bed = twice(&paths);
    let tree = bed.tree();
    paths.iter().for_each(|path| opens(&tree, path));
    let mut others = Vec::new();
    while let Ok(file) = rustix::io::dup(std::io::stderr()) {
        others.push(file);
    }
    for path in &paths {
        assert_eq!(tree.read(format!("{path}/f")).unwrap(), b"1");
    }
}
