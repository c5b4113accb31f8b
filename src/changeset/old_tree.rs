//! [`OldTree`]: what lay below before, walked only where somebody asks.

use crate::format::lookup::{Found, MergedDir, Stack};
use crate::sys::{self, dir::SysResult};

/// How many directories one side of a walk holds open before it lets go of the outermost: a part of
/// what the process may have, so that 64 descriptors are enough and more make it faster.
pub(super) fn most_held() -> usize {
    (sys::most_descriptors() / 8).clamp(8, 512)
}

/// A place in the tree of the lower layers that follows a walk over the upper one.
///
/// Most changesets are written without one look below; so a directory is looked up when the first
/// question about a name in it is asked, and then with those that lead to it.
#[derive(Debug)]
pub(super) struct OldTree<'a> {
    stack: &'a Stack,
    levels: Vec<Level>,
    /// The name that is visited, and what was found of it.
    name: Vec<u8>,
    found: Option<Found>,
    /// The outermost level that may be held.
    held_from: usize,
    most_held: usize,
}

#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Unasked,
    /// No directory of that name lies below.
    Absent,
    Held(MergedDir),
}

impl<'a> OldTree<'a> {
    /// The root of `stack`.
    pub(super) fn new(stack: &'a Stack) -> Self {
        let state = if stack.is_empty() { State::Absent } else { State::Unasked };
        let root = Level { name: Vec::new(), state };
        let most_held = most_held();
        Self { stack, levels: vec![root], name: Vec::new(), found: None, held_from: 0, most_held }
    }

    /// The layers.
    pub(super) fn stack(&self) -> &'a Stack {
        self.stack
    }

    /// Turns to `name` in this directory.
    pub(super) fn turn_to(&mut self, name: &[u8]) {
        self.name.clear();
        self.name.extend_from_slice(name);
        self.found = None;
    }

    /// What lies below under the name that is visited.
    pub(super) fn found(&mut self) -> SysResult<&Found> {
        if self.found.is_none() {
            let stack = self.stack;
            let name = std::mem::take(&mut self.name);
            let found = match self.dir()? {
                Some(dir) => stack.lookup(dir, &name)?,
                None => Found::Absent,
            };
            self.name = name;
            self.found = Some(found);
        }
        Ok(self.found.as_ref().unwrap_or(&Found::Absent))
    }

    /// This directory; `None` where no directory of its name lies below.
    pub(super) fn dir(&mut self) -> SysResult<Option<&MergedDir>> {
        self.ask()?;
        Ok(match self.levels.last().map(|level| &level.state) {
            Some(State::Held(dir)) => Some(dir),
            _ => None,
        })
    }

    /// Goes into the directory that is visited.
    pub(super) fn enter(&mut self) {
        let absent = matches!(self.levels.last().map(|level| &level.state), Some(State::Absent));
        let state = match self.found.take() {
            _ if absent => State::Absent,
            Some(Found::Directory(dir, _)) => State::Held(dir),
            Some(Found::Absent | Found::File(_)) => State::Absent,
            None => State::Unasked,
        };
        self.levels.push(Level { name: std::mem::take(&mut self.name), state });
        self.let_go(self.levels.len());
    }

    /// Goes back to the directory around this one.
    pub(super) fn leave(&mut self) {
        self.levels.pop();
        self.found = None;
    }

    /// Looks up this directory, and those around it as far as needed.
    fn ask(&mut self) -> SysResult<()> {
        let asked = |level: &Level| !matches!(level.state, State::Unasked);
        let first = self.levels.iter().rposition(asked).map_or(0, |index| index + 1);
        for index in first..self.levels.len() {
            let (around, here) = self.levels.split_at_mut(index);
            let Some(level) = here.first_mut() else { break };
            level.state = match around.last().map(|level| &level.state) {
                None => State::Held(self.stack.root()),
                Some(State::Held(dir)) => match self.stack.lookup(dir, &level.name)? {
                    Found::Directory(dir, _) => State::Held(dir),
                    Found::Absent | Found::File(_) => State::Absent,
                },
                Some(State::Absent | State::Unasked) => State::Absent,
            };
            self.held_from = self.held_from.min(index);
            self.let_go(index + 1);
        }
        Ok(())
    }

    /// Closes outer directories while there are too many, the innermost of the first `end` kept.
    fn let_go(&mut self, end: usize) {
        let count = |level: &Level| match &level.state {
            State::Held(dir) => dir.parts.len(),
            State::Unasked | State::Absent => 0,
        };
        self.held_from = self.held_from.min(end);
        let mut held: usize = self.levels.iter().skip(self.held_from).map(count).sum();
        while self.held_from + 1 < end {
            let Some(level) = self.levels.get_mut(self.held_from) else { break };
            match &level.state {
                State::Held(_) if held <= self.most_held => break,
                State::Held(dir) => {
                    held -= dir.parts.len();
                    level.state = State::Unasked;
                }
                State::Unasked | State::Absent => {}
            }
            self.held_from += 1;
        }
    }
}
