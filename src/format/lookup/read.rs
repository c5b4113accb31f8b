//! What the merge rule reads of one name in one layer's directory, and [`Memory`] of it.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::fs::Stat;
use rustix::io::Errno;

use super::{Opaque, Part, Stack};
use crate::format::xattr_name::mark;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::xattr::{self, Target};

/// What directories of layers have under one name: read once, although the merge rule may ask for
/// it with each layer of a stack as the topmost.
#[derive(Debug)]
pub(crate) struct Memory {
    name: Box<[u8]>,
    /// By where the part lies, which it does as long as it is held here.
    known: HashMap<*const Part, Known>,
}

#[derive(Debug)]
struct Known {
    stat: Option<Stat>,
    child: Option<Child>,
    _held: Arc<Part>,
}

/// A directory of one layer that has the name, and what its mark says of where it goes on below.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) part: Arc<Part>,
    pub(super) redirect: Option<Vec<u8>>,
}

impl Memory {
    /// Of nothing yet. What a redirect leads to has another name, and is not remembered.
    pub(crate) fn of(name: &[u8]) -> Self {
        Self { name: name.into(), known: HashMap::new() }
    }

    fn known(&mut self, parent: &Arc<Part>, name: &[u8]) -> Option<&mut Known> {
        if *self.name != *name {
            return None;
        }
        self.known.get_mut(&Arc::as_ptr(parent))
    }
}

/// The status of `name` in a layer's directory; `None` where it is not there.
pub(super) fn stat(
    parent: &Arc<Part>,
    name: &[u8],
    memory: Option<&mut Memory>,
) -> SysResult<Option<Stat>> {
    let Some(memory) = memory.filter(|memory| *memory.name == *name) else {
        return stat_now(parent, name);
    };
    if let Some(known) = memory.known(parent, name) {
        return Ok(known.stat);
    }
    let stat = stat_now(parent, name)?;
    let known = Known { stat, child: None, _held: Arc::clone(parent) };
    memory.known.insert(Arc::as_ptr(parent), known);
    Ok(stat)
}

fn stat_now(parent: &Part, name: &[u8]) -> SysResult<Option<Stat>> {
    match parent.dir.stat(name) {
        Ok(stat) => Ok(Some(stat)),
        // A name that is too long for a layer's file system cannot be in it.
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directory `name` in a layer's directory, of which the status was read.
pub(super) fn child(
    stack: &Stack,
    parent: &Arc<Part>,
    name: &[u8],
    memory: Option<&mut Memory>,
) -> SysResult<Child> {
    let known = memory.and_then(|memory| memory.known(parent, name));
    if let Some(child) = known.as_ref().and_then(|known| known.child.as_ref()) {
        return Ok(child.clone());
    }
    let dir = parent.dir.child_as_path(name)?;
    let is_lowest = parent.layer + 1 == stack.depth();
    let Marks { opaque, redirect, bare } = marks(stack.namespace(), &dir, is_lowest)?;
    let part = Part { layer: parent.layer, dir: Arc::new(dir), opaque, bare };
    let child = Child { part: Arc::new(part), redirect };
    if let Some(known) = known {
        known.child = Some(child.clone());
    }
    Ok(child)
}

/// What a directory's attributes say.
struct Marks {
    opaque: Opaque,
    redirect: Option<Vec<u8>>,
    bare: bool,
}

/// The marks of a directory that say what is below it: opaque, and where to find it.
fn marks(namespace: Namespace, dir: &Dir, is_lowest: bool) -> SysResult<Marks> {
    let (mut target, names) = match xattr::list(Target::Name(dir, b".")) {
        // It may be read but not searched, so not even for its own `.`.
        Err(Errno::ACCESS) => (Target::held(dir), xattr::list(Target::held(dir))?),
        other => (Target::Name(dir, b"."), other?),
    };
    let mut read = |mark| {
        let name = namespace.name(mark);
        // Nearly no directory has any.
        if !names.contains(&name) {
            return Ok(None);
        }
        match xattr::get(target, &name) {
            Err(Errno::ACCESS) => {
                target = Target::held(dir);
                xattr::get(target, &name)
            }
            other => other,
        }
    };
    let opaque = Opaque::parse(read(mark::OPAQUE)?.as_deref());
    let redirect = if opaque == Opaque::Yes || is_lowest { None } else { read(mark::REDIRECT)? };
    Ok(Marks { opaque, redirect, bare: names.is_empty() })
}
