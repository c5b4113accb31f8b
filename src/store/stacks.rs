//! Stacks: the layers of a chain, put together from its records, and remembered while these stay as
//! they are.

use std::sync::{Mutex, PoisonError};

use super::Store;
use super::layout::{CHAIN_FILE, CHAINS, Object};
use super::record::StackEntry;
use super::users::is_no_directory;
use crate::digest::ChainId;
use crate::error::{Context, Error, ErrorKind, Result};

/// How many stacks are remembered: more than a machine starts containers of at one time. One of 500
/// layers takes 34 kB.
const REMEMBERED: usize = 16;

/// Stacks that were read, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Stacks(Mutex<Vec<Remembered>>);

/// A stack, and the records that it was read from.
#[derive(Clone, Debug)]
struct Remembered {
    chain: ChainId,
    records: Vec<(ChainId, FileState)>,
    stack: Vec<StackEntry>,
}

/// What tells a file from every other one, and from what it was before it was written to: device,
/// inode, size, and both times in seconds and nanoseconds.
type FileState = (u64, u64, i64, [i64; 2], [u64; 2]);

impl Stacks {
    fn get(&self, chain: &ChainId) -> Option<Remembered> {
        let mut stacks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = stacks.iter().position(|known| known.chain == *chain)?;
        let known = stacks.remove(at);
        stacks.push(known.clone());
        Some(known)
    }

    fn put(&self, new: Remembered) {
        let mut stacks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stacks.retain(|known| known.chain != new.chain);
        if stacks.len() >= REMEMBERED {
            stacks.remove(0);
        }
        stacks.push(new);
    }
}

impl Store {
    /// The layers of a stack, topmost first, with the directory that stands for each.
    ///
    /// Reads one small file for each [`ChainRecord::RUN`](super::ChainRecord::RUN) layers, and checks
    /// that they make up the chain ID; later only looks at whether these files are still the same. A
    /// diff that stands in the stack more than once is given each time.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the chain is not in the store; [`ErrorKind::Corrupt`] where
    /// its records do not fit.
    pub fn stack(&self, chain: &ChainId) -> Result<Vec<StackEntry>> {
        if let Some(known) = self.0.stacks.get(chain)
            && self.is_as_read(&known)?
        {
            return Ok(known.stack);
        }
        let mut records = Vec::new();
        let mut stack = Vec::new();
        let mut next = Some(*chain);
        let mut expected = None;
        while let Some(at) = next {
            // Before it is read: where it changes meanwhile, it is read again the next time.
            records.extend(self.chain_file(&at)?.map(|state| (at, state)));
            let record = match self.chain_record(&at)? {
                Some(record) if !record.run.is_empty() => record,
                None if stack.is_empty() => return Err(self.no_such(Object::Chain(*chain))),
                _ => return Err(broken(&at)),
            };
            // Each is less deep than the one above by what that holds, or they lead in a circle.
            let held = u32::try_from(record.run.len()).unwrap_or(u32::MAX);
            let rest = record.depth.checked_sub(held);
            let fits = expected.is_none_or(|depth| depth == record.depth)
                && rest.is_some_and(|rest| record.below.is_none() == (rest == 0));
            if !fits {
                return Err(broken(&at));
            }
            expected = rest;
            stack.extend(record.run);
            next = record.below;
        }
        let diffs: Vec<_> = stack.iter().rev().map(|entry| entry.diff_id).collect();
        match ChainId::of(&diffs) {
            Some(computed) if computed == *chain => {
                let known = Remembered { chain: *chain, records, stack: stack.clone() };
                self.0.stacks.put(known);
                Ok(stack)
            }
            _ => Err(broken(chain)),
        }
    }

    /// Whether a stack's records are those that it was read from.
    fn is_as_read(&self, known: &Remembered) -> Result<bool> {
        for (chain, state) in &known.records {
            if self.chain_file(chain)? != Some(*state) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The state of a chain's record; `None` where there is none.
    fn chain_file(&self, chain: &ChainId) -> Result<Option<FileState>> {
        let name = Object::Chain(*chain).name();
        let path = [name.as_bytes(), b"/", CHAIN_FILE].concat();
        let found = match self.top(CHAINS).stat_if_exists(&path) {
            Err(error) if is_no_directory(error) => Ok(None),
            found => found,
        };
        let found = found.during("look at", &self.at(&[CHAINS, &name, "chain.json"]))?;
        Ok(found.map(|stat| {
            let seconds = [stat.st_mtime, stat.st_ctime];
            let nanos = [stat.st_mtime_nsec, stat.st_ctime_nsec];
            (stat.st_dev, stat.st_ino, stat.st_size, seconds, nanos)
        }))
    }
}

pub(super) fn broken(chain: &ChainId) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the records of chain {chain} do not fit together"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{DiffId, Digest};

    fn known(number: usize) -> Remembered {
        let chain = ChainId::of_base(&DiffId::new(Digest::of(&number.to_le_bytes())));
        Remembered { chain, records: Vec::new(), stack: Vec::new() }
    }

    #[test]
    fn those_that_were_used_last_are_remembered() {
        let stacks = Stacks::default();
        for number in 0..REMEMBERED {
            stacks.put(known(number));
            stacks.put(known(number));
        }
        assert!(stacks.get(&known(0).chain).is_some(), "each stands there once");
        stacks.put(known(REMEMBERED));
        assert!(stacks.get(&known(0).chain).is_some(), "it was used last but one");
        assert!(stacks.get(&known(1).chain).is_none());
        assert!(stacks.get(&known(REMEMBERED).chain).is_some());
    }
}
