//! What the layers of a stack hold that nobody sees, since a later layer overwrites or deletes it.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::new_tree::{Handle, Name, NewTree};
use crate::error::{Context, Result};
use crate::format::listing::MergedEntry;
use crate::format::lookup::{Found, FoundFile, MergedDir, Redirects, Stack};
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{Kind, type_of};
use crate::watch::Watch;

/// What one layer holds that later layers hide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shadowed {
    /// Regular files, each once however many names it has.
    pub(crate) files: u64,
    /// The bytes in them.
    pub(crate) bytes: u64,
}

/// What each layer of a stack, topmost first, holds that those above it hide. The layers come in
/// parts: of one that stands below another nothing is seen.
///
/// All layers are walked at once, a directory of the merged tree at a time: what a layer has in it
/// and does not supply is hidden, and of a directory all that is in it. A file of several names
/// counts when all of them are hidden. None of the layers may leave its data to another (`metacopy`),
/// as those that were unpacked never do.
///
/// # Errors
/// Where something may not be read.
pub(crate) fn shadowed(
    parts: &[Vec<Dir>],
    namespace: Namespace,
    watch: &Watch<'_>,
) -> Result<Vec<Shadowed>> {
    let count = parts.iter().map(Vec::len).sum();
    let (layers, names) = (vec![Shadowed::default(); count], HashMap::new());
    let mut shadows = Shadows { layers, names, namespace, watch };
    let (root, mut first) = (LayerPath::root(), 0);
    for (number, layers) in parts.iter().enumerate() {
        let layers: std::io::Result<Vec<_>> = layers.iter().map(Dir::try_clone).collect();
        let layers = layers.during("duplicate", "directory")?;
        let count = layers.len();
        if number == 0 && count > 0 {
            let stack = Stack::new(layers, namespace, Redirects::Follow);
            shadows.walk(&stack, &root, Counts { first, all: false })?;
        } else {
            for (index, layer) in layers.into_iter().enumerate() {
                shadows.hide_tree(layer, &root, first + index)?;
            }
        }
        first += count;
    }
    Ok(shadows.layers)
}

struct Shadows<'w> {
    layers: Vec<Shadowed>,
    /// Files with several names: how many of them are hidden; by layer, device and inode number.
    names: HashMap<(usize, u64, u64), u64>,
    namespace: Namespace,
    watch: &'w Watch<'w>,
}

/// What counts in a tree.
#[derive(Clone, Copy)]
struct Counts {
    /// Which layer the topmost of the tree is.
    first: usize,
    /// Every file, or what its layers hide of each other.
    all: bool,
}

impl Shadows<'_> {
    /// Counts in the merged tree of `stack`, of which the root is what `path` is for the user.
    fn walk(&mut self, stack: &Stack, path: &LayerPath, counts: Counts) -> Result<()> {
        let mut tree = NewTree::of_stack(stack);
        let root = stack.root();
        let stat = root.top().and_then(|top| top.dir.stat_self()).during("read directory", path)?;
        let names = self.directory(stack, &root, path, counts)?;
        let identity = (stat.st_dev, stat.st_ino);
        tree.enter(LayerPath::root(), Handle::Merged(root), identity, names, false);
        while tree.is_inside() {
            self.watch.check()?;
            let Some(name) = tree.next() else {
                tree.leave();
                continue;
            };
            let below = tree.path().join(&name.name);
            let shown = path.join_path(&below);
            let found = tree.hold().and_then(|()| match tree.here()? {
                Handle::Merged(dir) => stack.lookup(dir, &name.name),
                Handle::Upper(_) => Ok(Found::Absent),
            });
            if let Found::Directory(dir, stat) = found.during("look up", &shown)? {
                let names = self.directory(stack, &dir, &shown, counts)?;
                let identity = (stat.st_dev, stat.st_ino);
                tree.enter(below, Handle::Merged(dir), identity, names, false);
            }
        }
        Ok(())
    }

    /// Counts in one directory of it; gives back the directories in that which show.
    fn directory(
        &mut self,
        stack: &Stack,
        dir: &MergedDir,
        path: &LayerPath,
        counts: Counts,
    ) -> Result<Vec<Name>> {
        let mut below = Vec::new();
        for entry in stack.names(dir).during("read directory", path)? {
            let may_be_directory = matches!(entry.kind, Kind::Directory | Kind::Unknown);
            // Of a name that only one layer has nothing is hidden.
            let matters = match counts.all {
                true => matches!(entry.kind, Kind::Regular | Kind::Unknown),
                false => entry.places.count() > 1,
            };
            if matters {
                self.name(stack, dir, &path.join(&entry.name), &entry, counts)?;
            }
            // Whether it shows is seen by whoever goes there.
            if may_be_directory {
                below.push(Name::from_merged(entry));
            }
        }
        Ok(below)
    }

    /// Counts what is hidden of one name, in the layers that have it.
    fn name(
        &mut self,
        stack: &Stack,
        dir: &MergedDir,
        path: &LayerPath,
        entry: &MergedEntry,
        counts: Counts,
    ) -> Result<()> {
        let found = stack.lookup_among(dir, &entry.name, Some(&entry.places));
        let (found, _) = found.during("look up", path)?;
        if counts.all {
            if let Found::File(file) = &found {
                self.count(file, counts.first);
            }
            return Ok(());
        }
        for part in entry.places.parts(dir) {
            if supplies(&found, part.layer) {
                continue;
            }
            let alone = MergedDir { parts: vec![Arc::clone(part)] };
            match stack.lookup(&alone, &entry.name).during("look up", path)? {
                Found::Absent => {}
                Found::File(file) => self.count(&file, counts.first),
                Found::Directory(hidden, _) => {
                    let top = hidden.top().and_then(|top| top.dir.child_as_path(b"."));
                    let top = top.during("open", path)?;
                    self.hide_tree(top, path, counts.first + part.layer)?;
                }
            }
        }
        Ok(())
    }

    /// Counts all files of a directory of one layer.
    fn hide_tree(&mut self, dir: Dir, path: &LayerPath, layer: usize) -> Result<()> {
        let stack = Stack::new(vec![dir], self.namespace, Redirects::Follow);
        self.walk(&stack, path, Counts { first: layer, all: true })
    }

    fn count(&mut self, file: &FoundFile, first: usize) {
        let Stat { st_dev, st_ino, st_nlink, st_size, .. } = file.stat;
        let layer = first + file.layer;
        if type_of(&file.stat) != FileType::RegularFile {
            return;
        }
        if st_nlink > 1 {
            let hidden = self.names.entry((layer, st_dev, st_ino)).or_default();
            *hidden += 1;
            if *hidden < st_nlink {
                return;
            }
        }
        if let Some(shadowed) = self.layers.get_mut(layer) {
            shadowed.files += 1;
            shadowed.bytes += u64::try_from(st_size).unwrap_or(0);
        }
    }
}

/// Whether what was found comes from this layer, or a part of it.
fn supplies(found: &Found, layer: usize) -> bool {
    match found {
        Found::Absent => false,
        Found::File(file) => file.layer == layer,
        Found::Directory(dir, _) => {
            // Topmost first.
            dir.parts.binary_search_by_key(&layer, |part| part.layer).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::make;
    use super::*;

    /// `FILES:BYTES` of each layer, topmost first.
    fn shadows(layers: &[&[&str]], top: usize) -> String {
        let scratch = tempfile::tempdir().unwrap();
        let numbered = layers.iter().enumerate();
        let mut upper: Vec<Dir> =
            numbered.map(|(at, lines)| make(scratch.path(), &at.to_string(), lines)).collect();
        let lower = upper.split_off(top);
        let found = shadowed(&[upper, lower], Namespace::User, &Watch::new()).unwrap();
        let told = found.iter().map(|one| format!("{}:{}", one.files, one.bytes));
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_copy_counts_where_it_is_hidden_and_once() {
        let cases: &[(&str, &[&[&str]], &str)] = &[
            ("nothing", &[&["f=1"], &["g=22"]], "0:0 0:0"),
            ("overwritten", &[&["f=1"], &["f=22"], &["f=333"]], "0:0 1:2 1:3"),
            ("deleted", &[&["f!"], &["f=22", "g=1"]], "0:0 1:2"),
            ("deleted by an attribute", &[&["f?"], &["f=22"]], "0:0 1:2"),
            ("deleted, made again", &[&["f=1"], &["f!"], &["f=333"]], "0:0 0:0 1:3"),
            (
                "a tree deleted",
                &[&["d!"], &["d/", "d/f=22", "d/e/", "d/e/g=4444"], &["d/", "d/f=1", "d/h=1"]],
                "0:0 2:6 2:2",
            ),
            (
                "a tree hidden",
                &[&["d/", "d ^opaque:y", "d/f=1"], &["d/", "d/f=22", "d/e/", "d/e/g=4444"]],
                "0:0 2:6",
            ),
            ("a file for a tree", &[&["d=1"], &["d/", "d/f=22"]], "0:0 1:2"),
            ("a tree for a file", &[&["d/", "d/f=1"], &["d=22"]], "0:0 1:2"),
            (
                "trees hidden above each other",
                &[&["d=1"], &["d/", "d/g=1"], &["d!"], &["d/", "d/f=22"], &["d/", "d/h=1"]],
                "0:0 1:1 0:0 1:2 1:1",
            ),
            (
                "a tree hidden in one that shows",
                &[&["d/", "d/e=1"], &["d/", "d/k=1"], &["d/", "d/e/", "d/e/f=22", "d/e/g!"]],
                "0:0 0:0 1:2",
            ),
            ("one name of two", &[&["f!"], &["f=22", "g~f"]], "0:0 0:0"),
            ("both names", &[&["f!"], &["g=1"], &["f=22", "g~f"]], "0:0 0:0 1:2"),
            ("a link and a pipe weigh nothing", &[&["l!", "p!"], &["l@a", "p|"]], "0:0 0:0"),
        ];
        for (what, layers, expected) in cases {
            assert_eq!(shadows(layers, layers.len()), *expected, "{what}");
        }
    }

    #[test]
    fn nothing_is_seen_below_an_opaque_layer() {
        let layers: &[&[&str]] = &[&["f=1"], &["g=22"], &["g=333", "d/", "d/h=4444"], &["g=5"]];
        assert_eq!(shadows(layers, 2), "0:0 0:0 2:7 1:1");
        assert_eq!(shadows(layers, 4), "0:0 0:0 1:3 1:1");
        assert_eq!(shadows(layers, 1), "0:0 1:2 2:7 1:1");
    }
}
