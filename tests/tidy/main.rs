//! The project's rules about its own text, each with a test that it catches what it should.
//!
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and reads files by path"
)]

mod documents;
mod floors;
mod sizes;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file: its path in the project and its text.
#[derive(Clone, Debug)]
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_test(&self) -> bool {
        !self.path.starts_with("src/")
            || ["/tests.rs", "_tests.rs", "/fixture.rs", "/fuzz.rs", "/fuzz_bed.rs", "/fuzzing.rs"]
                .iter()
                .any(|end| self.path.ends_with(end))
            || self.path.contains("/tests/")
    }

    /// The lines with their numbers, without comments, and without what is only for tests.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let until = match self.is_test() {
            true => 0,
            false => test_module_start(&self.text),
        };
        code_lines(&self.text).take_while(move |(number, _)| *number < until)
    }

    /// The module at the crate's root that the file belongs to; `None` for lib.rs and binaries.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        match inside.split_once('/') {
            Some(("bin", _)) => None,
            Some((room, _)) => Some(room),
            None => inside.strip_suffix(".rs").filter(|name| *name != "lib"),
        }
    }

    fn is_binary(&self) -> bool {
        self.path.starts_with("src/bin/")
    }
}

fn project() -> PathBuf {
    // At run time where it can be had, so that the compiled test can judge a copy.
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Every text file of the project that git tracks, or would.
fn tracked() -> Vec<Source> {
    let root = project();
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(&root)
        .output();
    let paths: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8(output.stdout).unwrap().split('\0').map(str::to_owned).collect()
        }
        // A copy without its history, such as a package.
        _ => walk(&root, Path::new("")),
    };
    paths
        .into_iter()
        .filter_map(|path| Some(Source { text: fs::read_to_string(root.join(&path)).ok()?, path }))
        .collect()
}

fn walk(root: &Path, below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let name = entry.unwrap().file_name();
        let path = below.join(&name);
        if root.join(&path).is_symlink() || ["target", ".git"].iter().any(|skip| name == *skip) {
            continue;
        } else if root.join(&path).is_dir() {
            found.extend(walk(root, &path));
        } else {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
    found
}

fn rust() -> Vec<Source> {
    let files: Vec<_> = tracked().into_iter().filter(|file| file.path.ends_with(".rs")).collect();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the project's files are found");
    files
}

/// Fails with all that a rule found in the project.
#[track_caller]
fn hold(rule: impl Fn(&Source) -> Vec<String>, files: &[Source]) {
    let found: Vec<_> = files.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Fails unless a rule finds something in the one text and nothing in the other.
#[track_caller]
fn catches(rule: impl Fn(&Source) -> Vec<String>, path: &str, bad: &str, good: &str) {
    assert!(!rule(&Source::new(path, bad)).is_empty(), "not caught in {path}: {bad}");
    assert_eq!(rule(&Source::new(path, good)), [""; 0], "wrongly caught in {path}");
}

/// Lines with their numbers, from one, without those that are comments and without what follows
/// ` // ` on others.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split(" // ").next().unwrap_or(line)))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The number of the first line of the module of unit tests at a file's end.
fn test_module_start(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let starts = |index: &usize| {
        let after = lines.get(index + 1..).unwrap_or_default();
        let next = after.iter().find(|line| !line.starts_with("#[")).copied().unwrap_or("");
        let for_tests =
            ["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|cfg| lines[*index].starts_with(cfg));
        for_tests && next.starts_with("mod ") && next.ends_with('{')
    };
    (0..lines.len()).find(starts).map_or(usize::MAX, |index| index + 1)
}
