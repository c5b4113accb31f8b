//! [`Below`]: what a stack holds at a path, one directory being kept at hand.

use std::collections::VecDeque;
use std::rc::Rc;

use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::format::lookup::{Found, MergedDir, Stack};
use crate::layer_path::LayerPath;
use crate::sys::Dir;

/// How many names are looked up before the directory that was come to is kept at hand.
const STRIDE: usize = 32;

/// How many directories are kept at hand, and how many descriptors they take at most.
const AT_HAND: usize = 8;
const DESCRIPTORS: usize = 64;

/// Looks names up in a stack; those near the directories that were looked into last are cheap.
#[derive(Debug)]
pub(super) struct Below<'a> {
    stack: &'a Stack,
    /// Directories that were looked into, the last one at the end; `None` where the stack has none
    /// of that path.
    near: VecDeque<(LayerPath, Option<Rc<MergedDir>>)>,
}

impl<'a> Below<'a> {
    pub(super) fn new(stack: &'a Stack) -> Self {
        Self { stack, near: VecDeque::new() }
    }

    pub(super) fn stack(&self) -> &'a Stack {
        self.stack
    }

    /// The directory at `path`, no symlink being followed.
    pub(super) fn directory(&mut self, path: &LayerPath) -> Result<Option<&MergedDir>> {
        let known = |(at, dir): &(LayerPath, Option<Rc<MergedDir>>)| {
            path.below(at).map(|rest| (rest, at.clone(), dir.clone()))
        };
        let nearest = self.near.iter().filter_map(known);
        let (rest, mut at, mut dir) = match nearest.min_by_key(|(rest, ..)| rest.as_bytes().len()) {
            Some(nearest) => nearest,
            None if self.stack.is_empty() => (LayerPath::root(), LayerPath::root(), None),
            None => (path.clone(), LayerPath::root(), Some(Rc::new(self.stack.root()))),
        };
        for (passed, name) in rest.components().enumerate() {
            let Some(parent) = &dir else { break };
            if passed % STRIDE == STRIDE - 1 {
                self.keep(at.clone(), Some(Rc::clone(parent)));
            }
            let found = self.stack.lookup(parent, name).during("look up below", path)?;
            at = at.join(name);
            dir = match found {
                Found::Directory(dir, _) => Some(Rc::new(dir)),
                Found::Absent | Found::File(_) => None,
            };
        }
        self.keep(path.clone(), dir);
        Ok(self.near.back().and_then(|(_, dir)| dir.as_deref()))
    }

    /// Keeps a directory at hand, in place of those that were used the longest ago.
    fn keep(&mut self, path: LayerPath, dir: Option<Rc<MergedDir>>) {
        self.near.retain(|(at, _)| *at != path);
        self.near.push_back((path, dir));
        let descriptors = |near: &VecDeque<(_, Option<Rc<MergedDir>>)>| -> usize {
            near.iter().filter_map(|(_, dir)| Some(dir.as_ref()?.parts.len())).sum()
        };
        while self.near.len() > 1
            && (self.near.len() > AT_HAND || descriptors(&self.near) > DESCRIPTORS)
        {
            self.near.pop_front();
        }
    }

    /// The directory at `path` in the layer that supplies this part of it.
    pub(super) fn part(&mut self, path: &LayerPath, part: usize) -> Result<Dir> {
        let parts = self.directory(path)?.map(|dir| dir.parts.as_slice());
        let part = parts.unwrap_or_default().get(part).ok_or(Errno::NOENT);
        let dir = part.during("look up below", path)?.dir.try_clone();
        dir.during("open directory", path)
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
