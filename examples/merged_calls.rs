//! The system calls that one operation on the userspace tree makes, counted by `strace`.
//!
//! `cargo run --release --example merged_calls [LAYERS]`: a file that only the lowest of LAYERS (10)
//! layers has, at depth 1 and at depth 10; first in a tree that was just opened, then once more, on
//! a neighbour of that file, when the way there is known. With `-v` before LAYERS it lists the calls.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "an example that cannot go on stops")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use overlay2::merged::{OpenOptions, Options, Tree};
use overlay2::{Dir, Durability, Namespace};

const TRACED: &str = "OVERLAY2_CALLS_IN";
const MARK: &str = "/mark: ";
const OPERATIONS: [&str; 9] = [
    "stat",
    "stat again",
    "stat of nothing",
    "open to read",
    "read_dir",
    "first write",
    "write of a file cut to nothing",
    "chmod",
    "unlink",
];

fn main() {
    if let Some(place) = std::env::var_os(TRACED) {
        return traced(Path::new(&place));
    }
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let verbose = arguments.first().is_some_and(|first| first == "-v");
    if verbose {
        arguments.remove(0);
    }
    let layers = arguments.first().map_or(10, |n| n.parse().expect("a number of layers"));
    let place = tempfile::tempdir().expect("a temporary directory");
    lay_out(place.path(), layers);
    let trace = place.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().expect("this program"))
        .env(TRACED, place.path())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        println!("SKIP: strace does not work here");
        return;
    }
    let text = std::fs::read_to_string(trace).expect("strace wrote");
    println!("| operation, {layers} layers | calls | which |\n|---|---|---|");
    for (label, calls) in between_marks(&text) {
        if verbose {
            println!("\n{label}");
            calls.iter().for_each(|line| println!("    {line}"));
            continue;
        }
        let mut kinds = BTreeMap::new();
        for line in &calls {
            *kinds.entry(line.split('(').next().unwrap_or_default()).or_insert(0) += 1;
        }
        let kinds: Vec<_> = kinds.iter().map(|(name, count)| format!("{count} {name}")).collect();
        println!("| {label} | {} | {} |", calls.len(), kinds.join(", "));
    }
}

/// The calls from each mark to the next.
fn between_marks(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        // The number of the process stands in front.
        let line = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
        let own = ["exit_group", "+++", "mmap", "munmap", "brk", "mremap"];
        if let Some((_, rest)) = line.split_once(MARK) {
            found.push((rest.split('"').next().unwrap_or_default().to_owned(), Vec::new()));
        } else if let Some((_, calls)) = found.last_mut()
            && !own.iter().any(|name| line.starts_with(name))
            && !line.contains("F_GETFD")
        {
            calls.push(line.to_owned());
        }
    }
    found.retain(|(label, _)| label != "end");
    found
}

/// Layers of which only the lowest has anything, and an UpperDir for each operation.
fn lay_out(place: &Path, layers: usize) {
    for number in 0..layers {
        std::fs::create_dir(place.join(format!("lower{number}"))).expect("create");
    }
    let lowest = place.join(format!("lower{}", layers - 1));
    let deep = lowest.join(deep(9));
    std::fs::create_dir_all(&deep).expect("create");
    for dir in [lowest, deep] {
        for name in ["f", "g"] {
            let mut file = std::fs::File::create_new(dir.join(name)).expect("create");
            file.write_all(&[b'x'; 4096]).expect("write");
        }
    }
}

fn deep(levels: usize) -> String {
    (0..levels).map(|level| format!("d{level}/")).collect()
}

fn mark(label: &str) {
    // Nothing has this name; the call stands in the trace.
    drop(std::fs::symlink_metadata(format!("{MARK}{label}")));
}

fn traced(place: &Path) {
    let layers = (0..).take_while(|n| place.join(format!("lower{n}")).exists()).count();
    for depth in [1, 10] {
        for operation in OPERATIONS {
            let tree = open(place, &format!("{depth}{}", operation.replace(' ', "")), layers);
            let parent = deep(depth - 1);
            let labels = ["", ", the way there known"];
            for (name, label) in ["f", "g"].into_iter().zip(labels) {
                let path = format!("{parent}{name}");
                if operation == "stat again" {
                    drop(tree.metadata(&path));
                }
                mark(&format!("{operation} at depth {depth}{label}"));
                act(&tree, operation, &path, &parent);
                mark("end");
            }
        }
    }
}

fn act(tree: &Tree, operation: &str, path: &str, parent: &str) {
    match operation {
        "stat" | "stat again" => drop(tree.metadata(path).expect("stat")),
        "stat of nothing" => drop(tree.metadata(format!("{path}-none"))),
        "open to read" => drop(tree.open(path).expect("open")),
        "read_dir" => drop(tree.read_dir(format!("/{parent}")).expect("read_dir")),
        "first write" => {
            let mut file = tree.open_with(path, OpenOptions::new().write(true)).expect("open");
            file.write_all(b"y").expect("write");
        }
        "write of a file cut to nothing" => {
            let options = OpenOptions::new().write(true).truncate(true).clone();
            let mut file = tree.open_with(path, &options).expect("open");
            file.write_all(b"y").expect("write");
        }
        "chmod" => tree.set_permissions(path, 0o640).expect("chmod"),
        _ => tree.remove_file(path).expect("unlink"),
    }
}

fn open(place: &Path, name: &str, layers: usize) -> Tree {
    let dir = |name: &str| Dir::open_ambient(place.join(name)).expect("open");
    let make = |name: String| {
        std::fs::create_dir(place.join(&name)).expect("create");
        dir(&name)
    };
    let lower = (0..layers).map(|number| dir(&format!("lower{number}"))).collect();
    let (upper, work) = (make(format!("upper{name}")), make(format!("work{name}")));
    let user = rustix::process::geteuid().is_root();
    let namespace = if user { Namespace::Trusted } else { Namespace::User };
    let options = Options::new(namespace).durability(Durability::None);
    Tree::writable(lower, upper, work, &options).expect("a tree")
}
