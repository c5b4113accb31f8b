//! Trees as lines: path, type with content, mode, owner, time, attribute, first name.

use std::collections::BTreeMap;
use std::path::Path;

use overlay2::{Device, Dir};

use crate::tree::{self, Kind};

pub(crate) fn line(
    path: &str,
    kind: &str,
    mode: u32,
    uid: u32,
    (seconds, nanos): (i64, i64),
    attribute: Option<&str>,
    same: &str,
) -> String {
    let attribute = attribute.unwrap_or("-");
    format!("{path} {kind} {mode:o} {uid} {seconds}.{nanos:09} {attribute} ={same}")
}

/// A mounted tree.
pub(crate) fn mounted(root: Dir) -> Vec<String> {
    let print = |(path, node): (&String, &tree::Node)| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let kind = match &node.kind {
            Kind::Directory => "d".to_owned(),
            Kind::File(content) => format!("f {}", text(content)),
            Kind::Symlink(target) => format!("l {}", text(target)),
            Kind::Fifo => "p".to_owned(),
            Kind::Device(letter, major, minor) => format!("{letter} {major} {minor}"),
            other => panic!("{path}: {other:?} shows"),
        };
        let attribute = node.xattrs.get("user.x").map(|value| text(value));
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        let same = node.same_as.as_ref().map(|first| format!("/{first}")).unwrap_or_default();
        line(&path, &kind, node.mode, node.uid, node.mtime, attribute.as_deref(), &same)
    };
    let mut lines: Vec<_> =
        tree::read(root).iter().map(|pair| (key(pair.0), print(pair))).collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn key(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

/// A container's tree as userspace merges it.
pub(crate) fn merged(tree: &overlay2::merged::Tree) -> Vec<String> {
    use overlay2::merged::EntryKind;
    let mut first: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut lines = Vec::new();
    let root = (String::new(), tree.metadata("/").unwrap());
    let beneath = tree.walk("/").unwrap().map(|entry| {
        let entry = entry.unwrap();
        (format!("/{}", entry.path().to_str().unwrap()), *entry.metadata())
    });
    for (path, metadata) in [root].into_iter().chain(beneath) {
        let at = if path.is_empty() { Path::new("/") } else { Path::new(&path) };
        let Device { major, minor } = metadata.device();
        let kind = match metadata.kind() {
            EntryKind::Directory => "d".to_owned(),
            EntryKind::Regular => {
                format!("f {}", String::from_utf8(tree.read(at).unwrap()).unwrap())
            }
            EntryKind::Symlink => format!("l {}", tree.read_link(at).unwrap().to_str().unwrap()),
            EntryKind::Fifo => "p".to_owned(),
            EntryKind::CharDevice => format!("c {major} {minor}"),
            other => panic!("{path}: {other:?} shows"),
        };
        let mut same = String::new();
        if !metadata.is_dir() {
            let id = (metadata.dev(), metadata.ino());
            let name = first.entry(id).or_insert_with(|| path.clone());
            if *name != path {
                same.clone_from(name);
            }
        }
        let attribute = match metadata.is_symlink() {
            true => None,
            false => {
                tree.xattr(at, "user.x").unwrap().map(|value| String::from_utf8(value).unwrap())
            }
        };
        let time = metadata.modified();
        let time = (time.seconds, time.nanos.into());
        let (mode, uid) = (metadata.mode(), metadata.uid());
        lines.push((
            key(&path[usize::from(!path.is_empty())..]),
            line(&path, &kind, mode, uid, time, attribute.as_deref(), &same),
        ));
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}
