//! Renaming: one `renameat2` inside the upper layer, which leaves a whiteout where one is needed.

use std::sync::Arc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::copy_up::Data;
use super::names::Change;
use super::node::{Node, lock};
use super::{Core, Redirects};
use crate::format::opaque::{self, Opaque};
use crate::format::xattr_name::mark;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::inode_io;
use crate::sys::xattr::{self, Target};

/// What a rename does about the new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces what is there: a file, or an empty directory by a directory.
    #[default]
    Replace,
    /// Fails with EEXIST where it exists.
    NoReplace,
    /// The two names change places.
    Exchange,
}

/// A name that a rename is about.
#[derive(Debug)]
pub(super) struct End {
    pub(super) dir: Arc<Node>,
    pub(super) name: Box<[u8]>,
    /// A slash follows it in the path.
    pub(super) slash: bool,
}

/// The longest redirect that the kernel writes.
const LONGEST_REDIRECT: usize = 256;

impl Core {
    /// Renames.
    ///
    /// # Errors
    /// EXDEV where a directory lies below and redirects are not written; ENOTEMPTY; EISDIR;
    /// ENOTDIR; EINVAL where a directory would end up inside itself; EEXIST; ENOENT.
    pub(super) fn rename(&self, old: &End, new: &End, mode: RenameMode) -> SysResult<()> {
        let same_dir = old.dir.id == new.dir.id;
        let _moves = (!same_dir).then(|| lock(&self.moves));
        let _names = lock_both(old, new)?;
        let source = self.node_locked(&old.dir, &old.name)?.ok_or(Errno::NOENT)?;
        let target = self.node_locked(&new.dir, &new.name)?;
        check_names(old, new, &source, target.as_ref(), mode)?;
        if let Some(target) = &target
            && self.is_same_file(&source, target)?
        {
            return Ok(());
        }
        self.may_rename(old, new, &source, target.as_ref())?;
        check_types(&source, target.as_ref(), mode)?;
        self.may_change_parents(old, new, &source, target.as_ref(), mode)?;
        self.upper()?;
        let exchanged = target.as_ref().filter(|_| mode == RenameMode::Exchange);
        if !self.can_move(&source)?
            || exchanged.map_or(Ok(false), |t| self.can_move(t).map(|can| !can))?
        {
            return Err(Errno::XDEV);
        }
        match (target, mode) {
            (Some(target), RenameMode::Exchange) => self.exchange(old, new, &source, &target),
            (target, _) => self.replace(old, new, &source, target.as_ref()),
        }
    }

    fn is_same_file(&self, one: &Arc<Node>, other: &Arc<Node>) -> SysResult<bool> {
        if one.id == other.id {
            return Ok(true);
        }
        let both_upper = self.is_upper(one)? && self.is_upper(other)?;
        let (one, other) = (one.real().stat()?, other.real().stat()?);
        Ok(both_upper && (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
    }

    /// A directory that lies below cannot move without a redirect.
    fn can_move(&self, node: &Node) -> SysResult<bool> {
        Ok(self.options.redirects == Redirects::Write
            || !node.is_directory()
            || !self.lies_below(node)?)
    }

    fn lies_below(&self, node: &Node) -> SysResult<bool> {
        Ok(node.parts()?.parts.iter().any(|part| self.upper.is_none() || part.layer != 0))
    }

    fn replace(
        &self,
        old: &End,
        new: &End,
        source: &Arc<Node>,
        target: Option<&Arc<Node>>,
    ) -> SysResult<()> {
        let target_dir = target.filter(|target| target.is_directory());
        let _inside = target_dir.map(|dir| dir.change_names([])).transpose()?;
        let is_empty = match target_dir {
            Some(dir) => self.stack.entries(&*dir.parts()?)?.is_empty(),
            None => true,
        };
        // A directory of the upper layer alone refuses by itself, as in the kernel, when all is
        // prepared; some file systems do so with EEXIST.
        if let Some(dir) = target_dir
            && !is_empty
            && (!self.is_upper(dir)? || self.lies_below(dir)?)
        {
            return Err(Errno::NOTEMPTY);
        }
        let below = self.shows_below(&old.dir, &old.name)?;
        self.copy_up(source, Data::Whole)?;
        self.copy_up(&old.dir, Data::Whole)?;
        self.copy_up(&new.dir, Data::Whole)?;
        let (from, to) = (old.dir.upper_part()?, new.dir.upper_part()?);
        let (from, to) = (&from.dir, &to.dir);
        let _copying = target.map(|target| target.lock_copying());
        if let Some(target) = target_dir
            && is_empty
            && self.is_upper(target)?
        {
            self.clear_whiteouts(target, to, &new.name)?;
        }
        let whiteout = target.is_none() && self.has_whiteout(to, &new.name)?;
        self.mark_moved(old, new, source, to)?;
        let exchanged = whiteout && (below || source.is_directory());
        let flags = if !below && !exchanged {
            RenameFlags::empty()
        } else if exchanged {
            // The whiteout goes where the name comes from.
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::WHITEOUT
        };
        from.rename(&old.name, to, &new.name, flags)?;
        if flags == RenameFlags::EXCHANGE && !below {
            from.remove_file(&old.name)?;
        }
        if let Some(target) = target {
            target.forget_name();
            self.forget_identity(target);
        }
        source.move_to(&new.dir, &new.name);
        Ok(())
    }

    fn exchange(
        &self,
        old: &End,
        new: &End,
        source: &Arc<Node>,
        target: &Arc<Node>,
    ) -> SysResult<()> {
        for node in [source, &old.dir, &new.dir, target] {
            self.copy_up(node, Data::Whole)?;
        }
        let (from, to) = (old.dir.upper_part()?, new.dir.upper_part()?);
        let (from, to) = (&from.dir, &to.dir);
        self.mark_moved(old, new, source, to)?;
        self.mark_moved(new, old, target, from)?;
        from.rename(&old.name, to, &new.name, RenameFlags::EXCHANGE)?;
        target.forget_place();
        source.move_to(&new.dir, &new.name);
        target.move_to(&old.dir, &old.name);
        Ok(())
    }

    /// Leaves the marks that a moved node needs at its new place.
    fn mark_moved(&self, old: &End, new: &End, node: &Arc<Node>, to: &Dir) -> SysResult<()> {
        let same_dir = old.dir.id == new.dir.id;
        if !same_dir && self.carries_origin(node)? {
            self.mark_impure(&new.dir, to)?;
        }
        if !node.is_directory() {
            return Ok(());
        }
        if self.lies_below(node)? {
            return self.set_redirect(old, node, same_dir);
        }
        let merged = new.dir.parts()?.parts.len() > 1;
        let parts = node.parts()?;
        let target = Target::held(&parts.top()?.dir);
        if merged && Opaque::read(self.options.namespace, target)? != Opaque::Yes {
            return self.make_opaque(target).map_err(|_| Errno::XDEV);
        }
        Ok(())
    }

    /// Sets the mark, which takes the owner's right to write, of a directory that may be closed.
    fn make_opaque(&self, target: Target<'_>) -> SysResult<()> {
        match opaque::make(self.options.namespace, target) {
            Err(Errno::ACCESS) => {}
            other => return other,
        }
        let mode = self.status(target)?.st_mode & 0o7777;
        inode_io::chmod(target, mode | 0o200)?;
        let made = opaque::make(self.options.namespace, target);
        inode_io::chmod(target, mode)?;
        made
    }

    fn set_redirect(&self, old: &End, node: &Arc<Node>, same_dir: bool) -> SysResult<()> {
        let parts = node.parts()?;
        let target = Target::Name(&parts.top()?.dir, b".");
        let name = self.options.namespace.name(mark::REDIRECT);
        if let Some(present) = xattr::get(target, &name)?
            && (same_dir || present.first() == Some(&b'/'))
        {
            return Ok(());
        }
        let value = if same_dir { old.name.to_vec() } else { self.path_below(node)? };
        if value.len() > LONGEST_REDIRECT {
            return Err(Errno::XDEV);
        }
        xattr::set(target, &name, &value).map_err(|_| Errno::XDEV)
    }

    /// The path under which the layers below know a directory.
    fn path_below(&self, node: &Arc<Node>) -> SysResult<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = Arc::clone(node);
        let attribute = self.options.namespace.name(mark::REDIRECT);
        while let Some(place) = at.place() {
            let parts = at.parts()?;
            let top = parts.top()?;
            let redirect = match top.layer {
                0 => xattr::get(Target::Name(&top.dir, b"."), &attribute)?,
                _ => None,
            };
            let absolute = redirect.as_ref().is_some_and(|value| value.starts_with(b"/"));
            names.push(redirect.unwrap_or_else(|| place.name.to_vec()));
            if absolute {
                break;
            }
            at = place.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            if name.first() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        Ok(path)
    }
}

type Changes<'a> = (Change<'a, 2>, Option<Change<'a, 2>>);

/// Takes the names of two directories; of one inside the other, the outer first, since that is how
/// they are taken everywhere.
fn lock_both<'a>(old: &'a End, new: &'a End) -> SysResult<Changes<'a>> {
    let (one, other) = (&old.dir, &new.dir);
    // Which of the two is whose does not matter to what is forgotten at the end.
    let names: [&[u8]; 2] = [&old.name, &new.name];
    if one.id == other.id {
        return Ok((one.change_names(names)?, None));
    }
    let other_first = is_inside(one, other) || (!is_inside(other, one) && other.id < one.id);
    let (first, second) = if other_first { (other, one) } else { (one, other) };
    let change = first.change_names(names)?;
    Ok((change, Some(second.change_names(names)?)))
}

fn is_inside(node: &Arc<Node>, outer: &Arc<Node>) -> bool {
    let mut at = node.parent();
    while let Some(parent) = at {
        if parent.id == outer.id {
            return true;
        }
        at = parent.parent();
    }
    false
}

/// What the kernel checks of the names before it looks at what they are.
fn check_names(
    old: &End,
    new: &End,
    source: &Arc<Node>,
    target: Option<&Arc<Node>>,
    mode: RenameMode,
) -> SysResult<()> {
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
        (RenameMode::Exchange, None) => return Err(Errno::NOENT),
        (RenameMode::Exchange, Some(target)) if new.slash && !target.is_directory() => {
            return Err(Errno::NOTDIR);
        }
        _ => {}
    }
    if !source.is_directory() && (old.slash || (new.slash && mode != RenameMode::Exchange)) {
        return Err(Errno::NOTDIR);
    }
    // A directory cannot move into itself, nor take the place of one that it is in.
    if source.id == new.dir.id || is_inside(&new.dir, source) {
        return Err(Errno::INVAL);
    }
    if let Some(target) = target
        && (target.id == old.dir.id || is_inside(&old.dir, target))
    {
        let exchange = mode == RenameMode::Exchange;
        return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
    }
    Ok(())
}

fn check_types(source: &Node, target: Option<&Arc<Node>>, mode: RenameMode) -> SysResult<()> {
    match target {
        Some(target) if mode != RenameMode::Exchange => {
            match (source.is_directory(), target.is_directory()) {
                (true, false) => Err(Errno::NOTDIR),
                (false, true) => Err(Errno::ISDIR),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
