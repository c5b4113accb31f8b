//! What the layers of a stack hold that nobody sees, since a later layer overwrites or deletes it.

use std::collections::HashMap;

use rustix::fs::{FileType, Stat};

use super::node::{Depth, Node};
use super::old_tree::OldTree;
use super::walk::{self, At, Deletions, Visitor};
use crate::error::{Context, Result};
use crate::format::lookup::{Found, FoundFile, MergedDir, Redirects, Stack};
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, type_of};
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
/// Each layer is compared with all that lies below it, once; a copy counts where the first layer
/// hides it, so no copy counts twice. A file of several names counts when the last is hidden. None
/// of the layers may leave its data to another (`metacopy`), as those that were unpacked never do.
///
/// # Errors
/// Where something may not be read.
pub(crate) fn shadowed(
    parts: &[Vec<Dir>],
    namespace: Namespace,
    watch: &Watch<'_>,
) -> Result<Vec<Shadowed>> {
    let count = parts.iter().map(Vec::len).sum();
    let mut found = Shadows { layers: vec![Shadowed::default(); count], ..Default::default() };
    for (number, layers) in parts.iter().enumerate() {
        let top = found.first;
        for (index, upper) in layers.iter().enumerate() {
            found.first = top + index + 1;
            let below = stack_of(layers.get(index + 1..).unwrap_or_default(), namespace)?;
            if !below.is_empty() {
                walk::upper(upper, &below, &mut found, watch)?;
            }
        }
        if number > 0 && !layers.is_empty() {
            found.first = top;
            let stack = stack_of(layers, namespace)?;
            let root = stack.root().during("read directory", &LayerPath::root())?;
            found.hide_tree(&stack, root).during("read directory", &LayerPath::root())?;
        }
        found.first = top + layers.len();
    }
    Ok(found.layers)
}

fn stack_of(layers: &[Dir], namespace: Namespace) -> Result<Stack> {
    let layers = layers.iter().map(Dir::try_clone).collect::<std::io::Result<Vec<_>>>();
    let layers = layers.during("duplicate", "directory")?;
    Ok(Stack::new(layers, namespace, Redirects::Follow))
}

#[derive(Default)]
struct Shadows {
    /// Which layer the topmost of those below is.
    first: usize,
    layers: Vec<Shadowed>,
    /// Files with several names: how many of them are hidden; by layer, device and inode number.
    names: HashMap<(usize, u64, u64), u64>,
}

impl Shadows {
    /// Counts what lies below under the name that is visited.
    fn hide(&mut self, old: &mut OldTree<'_>, path: &LayerPath) -> Result<()> {
        let stack = old.stack();
        match old.found().during("look below for", path)? {
            Found::Absent => Ok(()),
            Found::File(file) => {
                self.count(file);
                Ok(())
            }
            Found::Directory(dir, _) => {
                let mut hide = || self.hide_tree(stack, clone_of(dir)?);
                hide().during("read directory", path)
            }
        }
    }

    /// Counts the files of a whole tree.
    fn hide_tree(&mut self, stack: &Stack, dir: MergedDir) -> SysResult<()> {
        let mut pending = vec![dir];
        while let Some(dir) = pending.pop() {
            for entry in stack.entries(&dir)? {
                match stack.lookup(&dir, &entry.name)? {
                    Found::Absent => {}
                    Found::File(file) => self.count(&file),
                    Found::Directory(dir, _) => pending.push(dir),
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, file: &FoundFile) {
        let Stat { st_dev, st_ino, st_nlink, st_size, .. } = file.stat;
        let layer = self.first + file.layer;
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

fn clone_of(dir: &MergedDir) -> SysResult<MergedDir> {
    use crate::format::lookup::Part;
    use std::sync::Arc;
    let part = |part: &Arc<Part>| {
        let dir = part.dir.child_as_path(b".")?;
        Ok(Arc::new(Part { layer: part.layer, dir, opaque: part.opaque, bare: part.bare }))
    };
    Ok(MergedDir { parts: dir.parts.iter().map(part).collect::<SysResult<_>>()? })
}

impl Visitor for Shadows {
    fn depth(&self) -> Depth {
        Depth::Status
    }

    fn deletions(&self) -> Deletions {
        Deletions::All
    }

    fn root(&mut self, _: Node, _: &mut OldTree<'_>) -> Result<()> {
        Ok(())
    }

    fn directory(&mut self, at: At<'_>, _: Node, old: &mut OldTree<'_>) -> Result<()> {
        match old.found().during("look below for", at.path)? {
            // What it hides of the other is told name by name.
            Found::Absent | Found::Directory(..) => Ok(()),
            Found::File(_) => self.hide(old, at.path),
        }
    }

    fn file(&mut self, at: At<'_>, _: Node, old: &mut OldTree<'_>) -> Result<()> {
        self.hide(old, at.path)
    }

    fn gone(&mut self, path: &LayerPath, old: &mut OldTree<'_>) -> Result<()> {
        self.hide(old, path)
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
