//! Random changesets against a slow and obvious reading of the specification: entries in their
//! order, on a map from paths to files, with marks that only hit what lies below.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::run::{Scratch, Way, is_root};
use crate::tar::{Entry, dir, file, link, mark, symlink, tar};
use crate::tree::shown;

/// One entry, over a few names only, so that entries meet.
#[derive(Clone, Debug)]
enum Op {
    Dir(String),
    File(String, u8),
    Symlink(String, String),
    Link(String, String),
    Whiteout(String),
    Opaque(String),
}

impl Op {
    fn entry(&self) -> Entry {
        match self {
            Self::Dir(path) => dir(path),
            Self::File(path, content) => file(path, [*content]),
            Self::Symlink(path, target) => symlink(path, target),
            Self::Link(path, target) => link(path, target),
            Self::Whiteout(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                mark(format!("{parent}/.wh.{name}"))
            }
            Self::Opaque(path) => mark(format!("{path}/.wh..wh..opq")),
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let target = prop_oneof![
        path(),
        path().prop_map(|path| format!("/{path}")),
        path().prop_map(|path| format!("../{path}")),
        Just(".".to_owned()),
    ];
    prop_oneof![
        3 => path().prop_map(Op::Dir),
        4 => (path(), b'0'..=b'9').prop_map(|(path, content)| Op::File(path, content)),
        2 => (path(), target).prop_map(|(path, target)| Op::Symlink(path, target)),
        3 => (path(), path()).prop_map(|(path, target)| Op::Link(path, target)),
        3 => path().prop_map(Op::Whiteout),
        1 => prop_oneof![path(), Just(String::new())].prop_map(Op::Opaque),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum File {
    /// Whether it is opaque, and whether anything but a whiteout asks for it.
    Directory {
        opaque: bool,
        explicit: bool,
    },
    /// A number by which names of one file are known.
    Regular(usize, u8),
    Symlink(usize, String),
    /// A hard link that waits for its target.
    Waiting(String),
}

/// Why a changeset is refused.
#[derive(Debug)]
struct Refused;

type Outcome<T> = Result<T, Refused>;

#[derive(Default)]
struct Model {
    files: BTreeMap<String, File>,
    whiteouts: BTreeSet<String>,
    opaque_root: bool,
    inodes: usize,
}

/// Where symlinks lead.
enum Walked {
    To(String),
    /// Past what is there so far.
    Out(String),
    Nowhere,
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| top.is_empty() || rest.starts_with('/'))
}

impl Model {
    /// Follows symlinks to a directory; `None` where it is not there and not to be made.
    fn directory(&mut self, path: &str, make: bool) -> Outcome<Option<String>> {
        Ok(match self.walk(path, make)? {
            Walked::To(path) => Some(path),
            Walked::Out(_) | Walked::Nowhere => None,
        })
    }

    fn walk(&mut self, path: &str, make: bool) -> Outcome<Walked> {
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let (mut at, mut hops) = (String::new(), 0);
        while let Some(name) = todo.pop() {
            if name.is_empty() || name == "." {
                continue;
            }
            if name == ".." {
                at = split(&at).0.to_owned();
                continue;
            }
            let next = join(&at, &name);
            match self.files.get(&next) {
                Some(File::Directory { .. }) => at = next,
                Some(File::Symlink(_, target)) => {
                    hops += 1;
                    if hops > 40 {
                        return Err(Refused);
                    }
                    if target.starts_with('/') {
                        at = String::new();
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                Some(_) if make => return Err(Refused),
                Some(_) => return Ok(Walked::Nowhere),
                None if make => {
                    let new = File::Directory { opaque: false, explicit: false };
                    self.files.insert(next.clone(), new);
                    at = next;
                }
                None if todo.iter().any(|name| name == "..") => return Ok(Walked::Nowhere),
                None => {
                    let rest = todo.iter().rev().filter(|name| !matches!(name.as_str(), "" | "."));
                    return Ok(Walked::Out(rest.fold(next, |at, name| join(&at, name))));
                }
            }
        }
        Ok(Walked::To(at))
    }

    /// Where a new entry goes; its parents are there afterwards.
    fn place(&mut self, path: &str) -> Outcome<String> {
        let (parent, name) = split(path);
        let parent = self.directory(parent, true)?.unwrap();
        Ok(join(&parent, name))
    }

    /// Where a path leads that need not be there.
    fn physical(&mut self, path: &str) -> Outcome<String> {
        let (parent, name) = split(path);
        Ok(match self.walk(parent, false)? {
            Walked::To(parent) | Walked::Out(parent) => join(&parent, name),
            Walked::Nowhere => path.to_owned(),
        })
    }

    /// Removes what earlier entries made; `true` where there was something.
    fn remove(&mut self, path: &str) -> bool {
        self.files.retain(|other, _| !is_below(other, path));
        self.whiteouts.retain(|other| !is_below(other, path));
        self.files.remove(path).is_some()
    }

    fn apply(&mut self, op: &Op) -> Outcome<()> {
        self.inodes += 1;
        match op {
            Op::Dir(path) => {
                let path = self.place(path)?;
                if let Some(File::Directory { explicit, .. }) = self.files.get_mut(&path) {
                    *explicit = true;
                } else {
                    let opaque = self.remove(&path);
                    self.files.insert(path, File::Directory { opaque, explicit: true });
                }
            }
            Op::File(path, content) => {
                let path = self.place(path)?;
                self.remove(&path);
                self.files.insert(path, File::Regular(self.inodes, *content));
            }
            Op::Symlink(path, target) => {
                let path = self.place(path)?;
                self.remove(&path);
                self.files.insert(path, File::Symlink(self.inodes, target.clone()));
            }
            Op::Link(path, target) => {
                let path = self.place(path)?;
                let target = self.physical(target)?;
                if target == path || is_below(&target, &path) {
                    return Err(Refused);
                }
                let new = match self.files.get(&target) {
                    Some(File::Directory { explicit: true, .. }) => return Err(Refused),
                    // What is only implied to be a directory may be a symlink below.
                    Some(File::Directory { .. } | File::Waiting(_)) | None => File::Waiting(target),
                    Some(there) => there.clone(),
                };
                self.remove(&path);
                self.files.insert(path, new);
            }
            Op::Whiteout(path) => {
                let (parent, name) = split(path);
                let parent = self.directory(parent, true)?.unwrap();
                self.whiteouts.insert(join(&parent, name));
            }
            Op::Opaque(path) => {
                let named = self.physical(path)?;
                if matches!(self.files.get(&named), Some(File::Symlink(..))) {
                    return Ok(());
                }
                let path = self.directory(path, true)?.unwrap();
                match self.files.get_mut(&path) {
                    Some(File::Directory { opaque, .. }) => *opaque = true,
                    _ => self.opaque_root = true,
                }
            }
        }
        Ok(())
    }

    /// Links whose targets came later; what is nowhere is left out, and must be below.
    fn late_links(&mut self) -> Outcome<()> {
        loop {
            let waiting: Vec<(String, String)> = self
                .files
                .iter()
                .filter_map(|(path, file)| match file {
                    File::Waiting(target) => Some((path.clone(), target.clone())),
                    _ => None,
                })
                .collect();
            let mut progress = false;
            for (path, target) in &waiting {
                let target = self.physical(target)?;
                match self.files.get(&target).cloned() {
                    Some(File::Directory { explicit: true, .. }) => return Err(Refused),
                    Some(File::Directory { .. } | File::Waiting(_)) | None => {}
                    Some(there) => {
                        self.files.insert(path.clone(), there);
                        progress = true;
                    }
                }
            }
            if !progress {
                return waiting.iter().try_for_each(|(path, _)| self.must_be_below(path));
            }
        }
    }

    fn must_be_below(&mut self, path: &str) -> Outcome<()> {
        let mut seen = BTreeSet::from([path.to_owned()]);
        let mut at = path.to_owned();
        while let Some(File::Waiting(target)) = self.files.get(&at).cloned() {
            at = self.physical(&target)?;
            if !seen.insert(at.clone()) {
                return Err(Refused);
            }
        }
        let mut prefix = at.as_str();
        while !prefix.is_empty() {
            let in_the_way = !matches!(self.files.get(prefix), None | Some(File::Directory { .. }));
            let parent = split(prefix).0;
            if in_the_way || self.whiteouts.contains(prefix) || self.is_opaque(parent) {
                return Err(Refused);
            }
            prefix = parent;
        }
        Ok(())
    }

    fn is_opaque(&self, path: &str) -> bool {
        match self.files.get(path) {
            Some(File::Directory { opaque, .. }) => *opaque,
            _ => path.is_empty() && self.opaque_root,
        }
    }

    /// Whether nothing below shows in the directory. An opaque marker may lie in what is a symlink
    /// below, where it says nothing; only an entry of the directory's own, or a whiteout that
    /// removes what is below, makes that sure.
    fn hides_all(&self, path: &str) -> bool {
        let sure = match self.files.get(path) {
            Some(File::Directory { explicit, .. }) => *explicit || self.whiteouts.contains(path),
            _ => true,
        };
        self.is_opaque(path) && sure || (!path.is_empty() && self.hides_all(split(path).0))
    }

    /// Whether a directory is opaque, or is below one, so that its whiteouts are not needed.
    fn may_hide_all(&self, path: &str) -> bool {
        self.is_opaque(path) || (!path.is_empty() && self.may_hide_all(split(path).0))
    }

    /// Whether nothing but marks asks for a directory.
    fn is_hollow(&self, path: &str) -> bool {
        let is_mark = |file: &File| matches!(file, File::Directory { explicit: false, .. });
        is_mark(&self.files[path])
            && self.files.iter().all(|(other, file)| !is_below(other, path) || is_mark(file))
    }

    /// What is on disk in the end.
    fn finish(mut self) -> Outcome<String> {
        self.late_links()?;
        let mut hollow = Vec::new();
        // Parents come first, since they sort before what is beneath them.
        for path in self.files.keys().cloned().collect::<Vec<_>>() {
            let Some(File::Directory { explicit, .. }) = self.files.get(&path) else { continue };
            let deleted = self.whiteouts.contains(&path);
            let explicit = *explicit;
            if deleted {
                self.files.insert(path.clone(), File::Directory { opaque: true, explicit });
            }
            if (deleted || self.hides_all(split(&path).0)) && self.is_hollow(&path) {
                hollow.push(path);
            }
        }
        for path in hollow {
            self.remove(&path);
        }
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut in_order: Vec<_> = self.files.iter().collect();
        // As a walk of the directories meets them.
        in_order.sort_by_key(|(path, _)| path.split('/').map(str::to_owned).collect::<Vec<_>>());
        for (path, file) in in_order {
            let mut named = |inode: &usize, text: String| {
                let first = names.entry(*inode).or_insert_with(|| path.clone());
                if first == path { text } else { format!("{path}=>{first}") }
            };
            let line = match file {
                File::Directory { opaque: true, .. } => format!("{path}/!"),
                File::Directory { .. } => format!("{path}/"),
                File::Regular(inode, content) => {
                    named(inode, format!("{path}={}", char::from(*content)))
                }
                File::Symlink(inode, target) => named(inode, format!("{path}->{target}")),
                File::Waiting(_) => continue,
            };
            lines.insert(path.clone(), line);
        }
        for path in &self.whiteouts {
            if !self.files.contains_key(path) && !self.may_hide_all(split(path).0) {
                lines.insert(path.clone(), format!("{path}-"));
            }
        }
        Ok(lines.into_values().collect::<Vec<_>>().join(" "))
    }
}

/// How many changesets are tried: `OVERLAY2_CASES`, else few.
fn cases() -> u32 {
    std::env::var("OVERLAY2_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: cases(),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_changeset_means_what_its_entries_say_in_their_order(ops in vec(op(), 0..12)) {
        let mut model = Model::default();
        let expected = ops.iter().try_for_each(|op| model.apply(op)).and_then(|()| model.finish());
        let bytes = tar(&ops.iter().map(Op::entry).collect::<Vec<_>>());
        let scratch = Scratch::new(if is_root() { Way::RootWithSide } else { Way::PlainUser });
        match (scratch.apply(&bytes), expected) {
            (Ok(_), Ok(expected)) => {
                prop_assert_eq!(shown(&scratch.tree()), expected);
                prop_assert!(scratch.reassembled() == bytes);
            }
            (Err(_), Err(Refused)) => {}
            (Ok(_), Err(Refused)) => {
                prop_assert!(false, "applied as {}", shown(&scratch.tree()));
            }
            (Err(error), Ok(expected)) => prop_assert!(false, "{error}, and not {expected}"),
        }
    }
}
