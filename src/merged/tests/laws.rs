//! What holds whatever the kernel does: a plain tree as the model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustix::io::Errno;

use super::backend::{Backend, Op, Outcome};
use super::bed::{Bed, Manner};
use super::machine::{layers, path, run};
use crate::merged::{Redirects, RenameMode};

/// A plain tree: directories, and files with their text, by path.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<String, Option<String>>);

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

impl Model {
    /// The tree that layers come to, topmost first.
    fn of(layers: &[Vec<String>]) -> Self {
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

    fn act(&mut self, op: &Op) -> Result<String, Errno> {
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

fn plain_op() -> impl Strategy<Value = Op> {
    let modes =
        vec![RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
    prop_oneof![
        (path(), "[x-z]{0,3}").prop_map(|(p, t)| Op::Write(p, t)),
        path().prop_map(Op::Read),
        path().prop_map(|p| Op::Mkdir(p, 0o755)),
        path().prop_map(Op::Unlink),
        path().prop_map(Op::Rmdir),
        (path(), path(), prop::sample::select(modes)).prop_map(|(a, b, m)| Op::Rename(a, b, m)),
    ]
}

/// With redirects, the merged tree is a plain tree: nothing shows that there are layers.
#[test]
fn random_operations_as_in_a_plain_tree() {
    let manner = Manner { redirects: Redirects::Write, ..Manner::plain() };
    let strategy = (layers(), prop::collection::vec(plain_op(), 1..40));
    run("random_operations_as_in_a_plain_tree", &strategy, |(mut layers, ops)| {
        for layer in &mut layers {
            let plain = |line: &String| {
                line.ends_with('/')
                    || line.ends_with("/!")
                    || line.contains('=') && !line.contains('%')
                    || line.ends_with('!') && !line.ends_with("!!")
            };
            layer.retain(plain);
        }
        let bed = Bed::new(&layers, manner);
        let before = bed.lowers();
        let mut model = Model::of(&layers);
        let mut tree = bed.tree();
        for (index, op) in ops.iter().enumerate() {
            let expected: Outcome = model.act(op).map_err(Errno::raw_os_error);
            let got = tree.run(op);
            if got != expected {
                return Err(format!("{op:?}: {got:?}, not {expected:?}"));
            }
            if index % 7 == 6 {
                // What is remembered in memory and what is on disk are the same.
                drop(tree);
                tree = bed.tree();
            }
        }
        let mut found = BTreeMap::new();
        for entry in tree.walk("/").unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().to_str().unwrap().to_owned();
            let text = entry.metadata().is_file().then(|| tree.read(&path).unwrap());
            found.insert(path, text.map(|text| String::from_utf8(text).unwrap()));
        }
        if found != model.0 {
            return Err(format!("{found:?}, not {:?}", model.0));
        }
        (bed.lowers() == before).then_some(()).ok_or("a lower directory changed".to_owned())
    });
}
