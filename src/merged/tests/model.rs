//! What a merged tree comes to where nothing shows that there are layers.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::backend::Op;
use crate::merged::RenameMode;

/// A plain tree: directories, and files with their text, by path.
#[derive(Clone, Debug, Default)]
pub(super) struct Model(pub(super) BTreeMap<String, Option<String>>);

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

impl Model {
    /// The tree that layers come to, topmost first.
    pub(super) fn of(layers: &[Vec<String>]) -> Self {
        let mut model = Self::default();
        for line in layers.iter().rev().flatten() {
            if let Some(path) = line.strip_suffix("/!") {
                model.remove(path);
                model.0.insert(path.to_owned(), None);
            } else if let Some(path) = line.strip_suffix('/') {
                if !model.is_dir(path) {
                    model.remove(path);
                    model.0.insert(path.to_owned(), None);
                }
            } else if let Some(path) = line.strip_suffix('!') {
                model.remove(path);
            } else if let Some((path, text)) = line.split_once('=') {
                model.remove(path);
                model.0.insert(path.to_owned(), Some(text.to_owned()));
            }
        }
        model
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.0.retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn is_dir(&self, path: &str) -> bool {
        self.0.get(path).is_some_and(Option::is_none)
    }

    fn is_empty(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.0.keys().any(|other| other.starts_with(&below))
    }

    /// Fails as the kernel does where a directory on the way is missing or none.
    fn reach(&self, path: &str) -> Result<(), Errno> {
        let Some(parent) = parent(path) else { return Ok(()) };
        self.reach(parent)?;
        match self.0.get(parent) {
            None => Err(Errno::NOENT),
            Some(Some(_)) => Err(Errno::NOTDIR),
            Some(None) => Ok(()),
        }
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Result<(), Errno> {
        self.reach(from)?;
        self.reach(to)?;
        if !self.0.contains_key(from) {
            return Err(Errno::NOENT);
        }
        let target = self.0.contains_key(to);
        match mode {
            RenameMode::NoReplace if target => return Err(Errno::EXIST),
            RenameMode::Exchange if !target => return Err(Errno::NOENT),
            _ => {}
        }
        if to.starts_with(&format!("{from}/")) {
            return Err(Errno::INVAL);
        }
        if from.starts_with(&format!("{to}/")) {
            let exchange = mode == RenameMode::Exchange;
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if from == to {
            return Ok(());
        }
        if target && mode != RenameMode::Exchange {
            match (self.is_dir(from), self.is_dir(to)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.is_empty(to) => return Err(Errno::NOTEMPTY),
                _ => {}
            }
        }
        let (old, new) = (self.cut(from), self.cut(to));
        self.paste(to, old);
        if mode == RenameMode::Exchange {
            self.paste(from, new);
        }
        Ok(())
    }

    fn cut(&mut self, path: &str) -> Vec<(String, Option<String>)> {
        let below = format!("{path}/");
        let taken = self.0.iter().filter(|(other, _)| *other == path || other.starts_with(&below));
        let cut =
            taken.map(|(other, text)| (other[path.len()..].to_owned(), text.clone())).collect();
        self.remove(path);
        cut
    }

    fn paste(&mut self, path: &str, cut: Vec<(String, Option<String>)>) {
        self.0.extend(cut.into_iter().map(|(below, text)| (format!("{path}{below}"), text)));
    }

    pub(super) fn act(&mut self, op: &Op) -> Result<String, Errno> {
        match op {
            Op::Write(path, text) => {
                self.reach(path)?;
                if self.is_dir(path) {
                    return Err(Errno::ISDIR);
                }
                self.0.insert(path.clone(), Some(text.clone()));
            }
            Op::Read(path) => {
                self.reach(path)?;
                let found = self.0.get(path).ok_or(Errno::NOENT)?;
                return found.clone().ok_or(Errno::ISDIR);
            }
            Op::Mkdir(path, _) => {
                self.reach(path)?;
                if self.0.contains_key(path) {
                    return Err(Errno::EXIST);
                }
                self.0.insert(path.clone(), None);
            }
            Op::Unlink(path) => {
                self.reach(path)?;
                match self.0.get(path) {
                    None => return Err(Errno::NOENT),
                    Some(None) => return Err(Errno::ISDIR),
                    Some(_) => self.remove(path),
                }
            }
            Op::Rmdir(path) => {
                self.reach(path)?;
                match self.0.get(path) {
                    None => return Err(Errno::NOENT),
                    Some(Some(_)) => return Err(Errno::NOTDIR),
                    Some(None) if !self.is_empty(path) => return Err(Errno::NOTEMPTY),
                    Some(None) => self.remove(path),
                }
            }
            Op::Rename(from, to, mode) => self.rename(from, to, *mode)?,
            _ => unreachable!(),
        }
        Ok("done".to_owned())
    }
}

/// Whether a line of a layer makes what the model knows: directories, files, whiteouts.
#[expect(clippy::ptr_arg, reason = "as lists of lines ask it")]
pub(super) fn keeps_plain(line: &String) -> bool {
    line.ends_with('/')
        || line.ends_with("/!")
        || line.contains('=') && !line.contains('%')
        || line.ends_with('!') && !line.ends_with("!!")
}
