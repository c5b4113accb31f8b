//! Uppers made by hand, and what is told and written of them.

mod between;
mod deep;
mod kernel;
mod laws;
mod table;
mod written;

use std::path::Path;

use rustix::fs::{FileType, OFlags};

use super::*;
use crate::format::lookup::{Redirects, Stack};
use crate::format::whiteout;
use crate::inode::Device;
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::xattr::{self, Target};
use crate::watch::Watch;

/// Makes a directory of what the lines say:
/// `d/`, `f=text`, `l@target`, `h~f` (hard link), `p|` (FIFO), `gone!` (whiteout), `gone?` (xattr
/// whiteout), `d/ATTRIBUTE:VALUE` or `f ATTRIBUTE:VALUE` behind a space (`user.overlay.` is `^`).
pub(super) fn make(root: &Path, name: &str, lines: &[&str]) -> Dir {
    let path = root.join(name);
    std::fs::create_dir(&path).unwrap();
    let dir = Dir::open_ambient(&path).unwrap();
    for line in lines {
        make_line(&dir, line);
    }
    dir
}

fn at(dir: &Dir, path: &str) -> (Dir, Vec<u8>) {
    let path = LayerPath::parse(path.as_bytes()).unwrap();
    let (parent, name) = path.split().unwrap();
    (dir.descend(&parent).unwrap(), name.to_vec())
}

fn make_line(dir: &Dir, line: &str) {
    if let Some((path, attribute)) = line.split_once(' ') {
        let (parent, file) = at(dir, path);
        let (key, value) = attribute.split_once(':').unwrap();
        let key = key.replace('^', "user.overlay.");
        xattr::set(Target::Name(&parent, &file), key.as_bytes(), value.as_bytes()).unwrap();
    } else if let Some(path) = line.strip_suffix('/') {
        let (parent, file) = at(dir, path);
        parent.make_dir(&file, 0o755).unwrap();
    } else if let Some(path) = line.strip_suffix('!') {
        let (parent, file) = at(dir, path);
        whiteout::make(&parent, &file).unwrap();
    } else if let Some(path) = line.strip_suffix('?') {
        let (parent, file) = at(dir, path);
        drop(parent.open(&file, OFlags::CREATE | OFlags::WRONLY, 0o644).unwrap());
        xattr::set(Target::Name(&parent, &file), b"user.overlay.whiteout", b"y").unwrap();
    } else if let Some(path) = line.strip_suffix('|') {
        let (parent, file) = at(dir, path);
        parent.make_node(&file, FileType::Fifo, 0o644, Device::ZERO).unwrap();
    } else if let Some((path, target)) = line.split_once('@') {
        let (parent, file) = at(dir, path);
        parent.make_symlink(&file, target.as_bytes()).unwrap();
    } else if let Some((path, target)) = line.split_once('~') {
        let ((parent, file), (from, source)) = (at(dir, path), at(dir, target));
        parent.make_link(&file, &from, &source).unwrap();
    } else {
        let (path, text) = line.split_once('=').unwrap();
        let (parent, file) = at(dir, path);
        let mut file = parent.open(&file, OFlags::CREATE | OFlags::WRONLY, 0o644).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }
}

/// The layers that the lists of lines describe, topmost first.
pub(super) fn layers(root: &Path, lists: &[&[&str]], redirects: Redirects) -> Stack {
    let dirs = lists.iter().enumerate().map(|(index, lines)| make(root, &index.to_string(), lines));
    Stack::new(dirs.collect(), Namespace::User, redirects)
}

/// The changes in one line.
pub(super) fn changes(upper: &Dir, below: &Stack, view: View) -> String {
    let changes = compare(upper, below, view, "test", &Watch::new()).unwrap();
    changes.iter().map(|c| format!("{}{}", c.kind.letter(), c.path)).collect::<Vec<_>>().join(" ")
}

/// The changeset's bytes.
pub(super) fn packed(upper: &Dir, below: &Stack, options: &DiffOptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    let summary = write_diff(upper, below, &mut bytes, options, "test", &Watch::new()).unwrap();
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert!(summary.bytes.is_multiple_of(512));
    bytes
}

/// The names in a tar in one line, with `=text`, `@target` or `~first name`.
pub(super) fn listing(bytes: &[u8]) -> String {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        match (entry.header().entry_type(), link) {
            (tar::EntryType::Regular, _) => {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
                if text.is_empty() { name } else { format!("{name}={text}") }
            }
            (tar::EntryType::Link, Some(first)) => format!("{name}~{first}"),
            (tar::EntryType::Symlink, Some(target)) => format!("{name}@{target}"),
            (tar::EntryType::Fifo, _) => format!("{name}|"),
            _ => name,
        }
    });
    entries.collect::<Vec<_>>().join(" ")
}

/// Says that a test could not run; an error where all must.
pub(super) fn skip(test: &str, why: &str) {
    eprintln!("SKIP {test}: {why}");
    assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
}
