//! A merged tree in lines: path, type, mode, owner, time, content, and its first path.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, Stat};

use crate::format::lookup::{Found, MergedDir, Stack};
use crate::format::override_stat::{self, OverrideStat};
use crate::inode::FileKind;
use crate::sys::Dir;
use crate::sys::inode_io;
use crate::sys::mount::Context;
use crate::sys::xattr::proc_path;

type Links = BTreeMap<(u64, u64), String>;

/// As the merge rule of this crate has it.
pub(super) fn from_stack(stack: &Stack) -> Vec<String> {
    let (mut lines, mut links) = (Vec::new(), Links::new());
    if !stack.is_empty() {
        merged(stack, &stack.root(), "", &mut lines);
    }
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines.into_iter().map(|(path, line, id)| finish(&path, line, id, &mut links)).collect()
}

type Line = (String, String, Option<(u64, u64)>);

fn merged(stack: &Stack, dir: &MergedDir, at: &str, lines: &mut Vec<Line>) {
    for entry in stack.entries(dir).unwrap() {
        let path = format!("{at}/{}", String::from_utf8_lossy(&entry.name));
        match stack.lookup(dir, &entry.name).unwrap() {
            Found::Absent => panic!("{path} is listed and not there"),
            Found::File(file) => {
                lines.push(line(&path, &dir.parts[file.part].dir, &entry.name, &file.stat));
            }
            Found::Directory(below, stat) => {
                lines.push(line(&path, &below.top().unwrap().dir, b".", &stat));
                merged(stack, &below, &path, lines);
            }
        }
    }
}

/// As the kernel has it; `None` where the process may not mount.
pub(super) fn from_kernel(layers: &[PathBuf], scratch: &Path) -> Option<Vec<String>> {
    if !super::is_root() {
        return None;
    }
    let context = Context::overlay().unwrap();
    context.flag("userxattr").unwrap();
    // The kernel wants two layers.
    let empty = scratch.join("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let layers: Vec<_> = layers.iter().rev().chain([&empty]).collect();
    // Before Linux 6.8 all in one, as short as they may be.
    let opened: Vec<_> = layers.iter().map(|layer| Dir::open_ambient(layer).unwrap()).collect();
    let names: Vec<_> = opened.iter().map(|dir| proc_path(dir.as_fd())).collect();
    match Context::overlay_checks_options() {
        true => {
            names.iter().for_each(|name| context.string("lowerdir+", name.as_bytes()).unwrap());
        }
        false => context.string("lowerdir", names.join(":").as_bytes()).unwrap(),
    }
    let mount = context.mount(rustix::mount::MountAttrFlags::empty());
    let mount = Dir::from_fd(mount.unwrap_or_else(|e| panic!("{e}: {:?}", context.messages())));
    let mut lines = Vec::new();
    plain(&mount.child(b".").unwrap(), "", &mut lines);
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    let mut links = Links::new();
    Some(lines.into_iter().map(|(path, line, id)| finish(&path, line, id, &mut links)).collect())
}

fn plain(dir: &Dir, at: &str, lines: &mut Vec<Line>) {
    for entry in dir.sorted_entries().unwrap() {
        let path = format!("{at}/{}", String::from_utf8_lossy(&entry.name));
        let stat = dir.stat(&entry.name).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = line(&path, dir, &entry.name, &stat);
        let is_directory = line.2.is_none();
        lines.push(line);
        if is_directory {
            plain(&dir.child(&entry.name).unwrap(), &path, lines);
        }
    }
}

fn line(path: &str, dir: &Dir, name: &[u8], stat: &Stat) -> Line {
    let mut inode = inode_io::from_stat(dir, name, stat).unwrap();
    if let Some(value) = inode.xattrs.remove(override_stat::NAME) {
        OverrideStat::decode(&value).unwrap().apply(&mut inode);
    }
    let mut content = String::new();
    let kind = match &inode.kind {
        FileKind::Directory => 'd',
        FileKind::Regular { .. } => {
            let mut file = dir.open(name, OFlags::RDONLY, 0).unwrap();
            file.read_to_string(&mut content).unwrap();
            'f'
        }
        FileKind::Symlink { target } => {
            content = String::from_utf8_lossy(target).into_owned();
            // Without privilege a symlink's owner cannot be kept: nothing can be recorded on it.
            if !super::is_root() {
                inode.uid = 0;
            }
            'l'
        }
        FileKind::Fifo => 'p',
        other => panic!("{path}: a {}", other.name()),
    };
    let (mode, uid, mtime) = (inode.mode, inode.uid, inode.mtime);
    let text = format!("{path} {kind} {mode:o} {uid} {}.{:09}", mtime.seconds, mtime.nanos);
    if kind == 'd' {
        return (path.to_owned(), text, None);
    }
    (path.to_owned(), format!("{text} {content:?}"), Some((stat.st_dev, stat.st_ino)))
}

fn finish(path: &str, line: String, id: Option<(u64, u64)>, links: &mut Links) -> String {
    match id {
        None => line,
        Some(id) => format!("{line} ={}", links.entry(id).or_insert(path.to_owned())),
    }
}
