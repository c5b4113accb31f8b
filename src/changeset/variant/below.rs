//! [`Below`]: what a stack holds at a path, one directory being kept at hand.

use crate::error::{Context, Result};
use crate::format::lookup::{Found, MergedDir, Stack};
use crate::layer_path::LayerPath;

/// Looks names up in a stack; those of one directory, or each in the last one's child, are cheap.
#[derive(Debug)]
pub(super) struct Below<'a> {
    stack: &'a Stack,
    /// The directory that was looked into last; `None` where the stack has none of that path.
    at: Option<(LayerPath, Option<MergedDir>)>,
}

impl<'a> Below<'a> {
    pub(super) fn new(stack: &'a Stack) -> Self {
        Self { stack, at: None }
    }

    pub(super) fn stack(&self) -> &'a Stack {
        self.stack
    }

    /// The directory at `path`, no symlink being followed.
    pub(super) fn directory(&mut self, path: &LayerPath) -> Result<Option<&MergedDir>> {
        let near = self.at.take();
        let near = near.and_then(|(at, dir)| path.below(&at).map(|rest| (dir, rest)));
        let (mut dir, rest) = match near {
            Some(near) => near,
            None if self.stack.is_empty() => (None, LayerPath::root()),
            None => (Some(self.stack.root().during("open", "layers below")?), path.clone()),
        };
        for name in rest.components() {
            let Some(parent) = &dir else { break };
            dir = match self.stack.lookup(parent, name).during("look up below", path)? {
                Found::Directory(dir, _) => Some(dir),
                Found::Absent | Found::File(_) => None,
            };
        }
        let (_, dir) = self.at.insert((path.clone(), dir));
        Ok(dir.as_ref())
    }

    /// What `name` is in the directory at `parent`.
    pub(super) fn look(&mut self, parent: &LayerPath, name: &[u8]) -> Result<Found> {
        let stack = self.stack;
        match self.directory(parent)? {
            None => Ok(Found::Absent),
            Some(dir) => stack.lookup(dir, name).during("look up below", &parent.join(name)),
        }
    }
}
