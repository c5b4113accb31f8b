//! Finds what a name in a directory is.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{Access, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::Core;
use super::names::Known;
use super::node::{Access as Held, Identity, Node, Place, Real, RealFile, lock};
use crate::format::listing::{MergedEntry, Places};
use crate::format::lookup::{Found, FoundFile, MergedDir};
use crate::format::whiteout::is_whiteout;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, open_without_atime, type_of};

/// What a name is, with no more work done than is needed to tell.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub(super) enum Seen {
    Absent,
    /// A directory, or a file of which a node is alive.
    Node(Arc<Node>),
    /// A file without a node: which of its directory's parts has it, the parts, and the version of
    /// the directory at which that was so.
    File(FoundFile, Arc<MergedDir>, u64),
}

/// The longest name, as overlayfs takes it from the file systems below.
const LONGEST_NAME: usize = 255;

impl Core {
    /// What `name` is in `dir`.
    pub(super) fn see(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Seen> {
        if let Some(node) = dir.alive(name) {
            self.may_search(dir)?;
            return Ok(Seen::Node(node));
        }
        let _names = dir.read_names();
        self.see_and_learn(dir, name, true)
    }

    /// As [`Core::see`], by one who may change the name, so that nothing is kept of it.
    pub(super) fn see_locked(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Seen> {
        self.see_and_learn(dir, name, false)
    }

    /// As the last resort, where there are no descriptors left, tries once more without those that
    /// are only kept for speed.
    fn with_room<T>(&self, open: impl Fn() -> SysResult<T>) -> SysResult<T> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.table.clear();
                open()
            }
            other => other,
        }
    }

    /// By one who holds the names of `dir`.
    fn see_and_learn(&self, dir: &Arc<Node>, name: &[u8], learn: bool) -> SysResult<Seen> {
        self.with_room(|| self.look_up(dir, name, learn))
    }

    fn look_up(&self, dir: &Arc<Node>, name: &[u8], learn: bool) -> SysResult<Seen> {
        if name.len() > LONGEST_NAME {
            return Err(if dir.is_directory() { Errno::NAMETOOLONG } else { Errno::NOTDIR });
        }
        loop {
            if let Some(node) = dir.alive(name) {
                self.may_search(dir)?;
                return Ok(Seen::Node(node));
            }
            let version = dir.version();
            let parts = dir.parts()?;
            let known = dir.known(&parts, name);
            let (found, places) = match &known {
                Known::Absent => return self.may_search(dir).map(|()| Seen::Absent),
                Known::File(part) => match known_file(&parts, *part, name)? {
                    Some(file) => (Found::File(file), None),
                    None => self.stack.lookup_among(&parts, name, None)?,
                },
                Known::Among(places) => self.stack.lookup_among(&parts, name, Some(places))?,
                Known::Nothing => self.stack.lookup_among(&parts, name, None)?,
            };
            dir.set_searched(true);
            if learn && !matches!(known, Known::File(_)) {
                let lists = dir.learn(&parts, name, knowledge(&found, places), version);
                if lists && matches!(known, Known::Nothing) {
                    // Who may not read the directory goes on asking for each name.
                    drop(self.list_locked(dir));
                }
            }
            match found {
                Found::Absent => return Ok(Seen::Absent),
                // Copied up since the layers were looked at, so seen too low.
                Found::File(_) if dir.version() != version => {}
                Found::File(file) => return Ok(Seen::File(file, parts, version)),
                Found::Directory(merged, stat) => {
                    let adopted = self.adopt_directory(dir, name, merged, &stat, version)?;
                    if let Some(node) = adopted {
                        return Ok(Seen::Node(node));
                    }
                }
            }
        }
    }

    /// All names of a directory.
    pub(super) fn list(&self, dir: &Arc<Node>) -> SysResult<Arc<Vec<MergedEntry>>> {
        let _names = dir.read_names();
        match dir.known_listing(&dir.parts()?) {
            // Reading it would tell the others whether they may.
            Some(listing) => self.must_be_able(dir, Access::READ_OK).map(|()| listing),
            None => self.list_locked(dir),
        }
    }

    /// Reads all names of a directory, by one who holds them.
    fn list_locked(&self, dir: &Arc<Node>) -> SysResult<Arc<Vec<MergedEntry>>> {
        let version = dir.version();
        let parts = dir.parts()?;
        let listing = Arc::new(self.with_room(|| self.stack.entries(&parts))?);
        dir.learn_listing(&parts, &listing, version);
        Ok(listing)
    }

    fn adopt_directory(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        merged: MergedDir,
        stat: &Stat,
        version: u64,
    ) -> SysResult<Option<Arc<Node>>> {
        let identity = self.directory_identity(&merged, stat)?;
        let real = Real::Directory(Arc::new(merged));
        let node = self.new_node(dir, name, real, identity);
        let adopted = dir.adopt(name, node, version);
        if let Some(node) = &adopted {
            self.table.keep(node);
        }
        Ok(adopted)
    }

    /// The node of `name` in `dir`; `None` where there is no such name.
    pub(super) fn node(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Option<Arc<Node>>> {
        let seen = self.see(dir, name)?;
        self.node_of(dir, name, seen, OFlags::PATH)
    }

    /// As [`Core::node`], by one who may change the name.
    pub(super) fn node_locked(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Option<Arc<Node>>> {
        let seen = self.see_locked(dir, name)?;
        self.node_of_locked(dir, name, seen, OFlags::PATH)
    }

    /// The node of what a name was seen to be, opened with these flags where that is possible and
    /// no node is alive.
    pub(super) fn node_of(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        seen: Seen,
        flags: OFlags,
    ) -> SysResult<Option<Arc<Node>>> {
        let Seen::File(..) = &seen else { return self.node_of_locked(dir, name, seen, flags) };
        let _names = dir.read_names();
        self.node_of_locked(dir, name, seen, flags)
    }

    fn node_of_locked(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        seen: Seen,
        flags: OFlags,
    ) -> SysResult<Option<Arc<Node>>> {
        let mut next = Some(seen);
        loop {
            let seen = next.take().map_or_else(|| self.see_locked(dir, name), Ok)?;
            let (file, parts, version) = match seen {
                Seen::Absent => return Ok(None),
                Seen::Node(node) => return Ok(Some(node)),
                Seen::File(file, parts, version) => (file, parts, version),
            };
            if dir.version() != version {
                continue;
            }
            let real = self.with_room(|| hold(&parts, name, &file, flags))?;
            let identity = self.identity(&file.stat, file.layer);
            let node = self.new_node(dir, name, Real::File(Arc::new(real)), identity);
            if let Some(node) = dir.adopt(name, node, version) {
                return Ok(Some(node));
            }
        }
    }

    /// Takes in the node of a file that was just made in `dir`, of which nobody else knows.
    pub(super) fn adopt_new(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        file: RealFile,
        stat: &Stat,
    ) -> Arc<Node> {
        let node = self.new_node(dir, name, Real::File(Arc::new(file)), Identity::of(stat));
        dir.adopt_made(name, node)
    }

    /// A node of a name that does not know it yet.
    pub(super) fn new_node(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        real: Real,
        identity: Identity,
    ) -> Node {
        let place = Place { parent: Arc::clone(dir), name: name.into() };
        Node::new(self.table.next_id(), &self.table, Some(place), real, identity)
    }

    /// The number under which a file is shown.
    pub(super) fn identity(&self, stat: &Stat, layer: usize) -> Identity {
        let own = Identity::of(stat);
        if self.upper.is_none() || layer != 0 {
            return own;
        }
        self.shown(own)
    }

    /// The number under which a file of the upper layer is shown, by its own.
    pub(super) fn shown(&self, own: Identity) -> Identity {
        lock(&self.shown_as).get(&own).copied().unwrap_or(own)
    }

    /// The number of a directory is that of the topmost lower one, which copy-up does not change.
    fn directory_identity(&self, dir: &MergedDir, top: &Stat) -> SysResult<Identity> {
        let lower = dir.parts.iter().find(|part| self.upper.is_none() || part.layer != 0);
        match lower {
            Some(part) if part.layer != dir.top()?.layer => {
                Ok(Identity::of(&part.dir.stat_self()?))
            }
            _ => Ok(Identity::of(top)),
        }
    }

    /// Keeps a file's number what it is although its node may be dropped.
    pub(super) fn remember_identity(&self, upper: &Stat, shown: Identity) {
        lock(&self.shown_as).insert(Identity::of(upper), shown);
    }

    /// Forgets the number of an upper file of which no name is left.
    pub(super) fn forget_identity(&self, node: &Node) {
        // The others are shown under their own.
        if !self.is_upper(node).unwrap_or(true) {
            return;
        }
        let Ok(stat) = node.real().stat() else { return };
        if stat.st_nlink == 0 || (node.is_directory() && node.is_gone()) {
            self.forget_identity_of(&stat);
        }
    }

    pub(super) fn forget_identity_of(&self, upper: &Stat) {
        lock(&self.shown_as).remove(&Identity::of(upper));
    }
}

/// What to keep of a name that was found.
fn knowledge(found: &Found, places: Option<Places>) -> Known {
    match (found, places) {
        (Found::Absent, _) => Known::Absent,
        (Found::File(file), _) if file.data.is_none() => Known::File(file.part),
        (_, Some(places)) => Known::Among(places),
        (_, None) => Known::Nothing,
    }
}

/// A file that has no marks, in the part that is known to supply it.
fn known_file(parts: &MergedDir, part: usize, name: &[u8]) -> SysResult<Option<FoundFile>> {
    let parent = parts.parts.get(part).ok_or(Errno::IO)?;
    let Some(stat) = parent.dir.stat_if_exists(name)? else { return Ok(None) };
    // Somebody else has changed the layer; what is seen then is found in the ordinary way.
    if type_of(&stat) == FileType::Directory || is_whiteout(&stat) {
        return Ok(None);
    }
    Ok(Some(FoundFile { layer: parent.layer, part, stat, data: None, bare: false }))
}

/// Opens a file that was found.
fn hold(parent: &MergedDir, name: &[u8], file: &FoundFile, flags: OFlags) -> SysResult<RealFile> {
    let part = parent.parts.get(file.part).ok_or(Errno::IO)?;
    let kind = type_of(&file.stat);
    let wanted = match flags {
        _ if kind != FileType::RegularFile || file.data.is_some() => Held::Path,
        OFlags::RDONLY => Held::Read,
        // Of what is copied up first, the copy is written to.
        OFlags::RDWR => {
            if file.layer == 0 {
                Held::ReadWrite
            } else {
                Held::Read
            }
        }
        _ => Held::Path,
    };
    let (held, access) = match (wanted != Held::Path).then(|| hold_open(&part.dir, name, wanted)) {
        Some(Ok(held)) => (held, wanted),
        // What is held as a path needs no permission; opening it says what is missing.
        _ => (hold_name(&part.dir, name)?, Held::Path),
    };
    let data = match &file.data {
        Some(data) => Some(hold_name(&data.dir, &data.name)?.into()),
        None => None,
    };
    let held = Arc::new(held);
    Ok(RealFile { layer: file.layer, kind, held, access, data, bare: file.bare })
}

/// Opens a name for reading or for everything, itself, waiting for nobody.
fn hold_open(dir: &Dir, name: &[u8], access: Held) -> SysResult<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if access == Held::ReadWrite {
        return dir.open(name, flags | OFlags::RDWR, 0);
    }
    let flags = flags | OFlags::RDONLY;
    open_without_atime(dir, name, flags).map(File::from)
}

/// Opens a name, itself, with `O_PATH`.
pub(super) fn hold_name(dir: &Dir, name: &[u8]) -> SysResult<File> {
    dir.open(name, OFlags::PATH, 0)
}
