//! Gives files what their entries say: owner, attributes, permissions, times, in that order.

use rustix::io::Errno;

use super::Ownership;
use super::acl;
use super::entries::{EntriesWriter, Listed};
use super::entry::Entry;
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::format::override_stat::{self, OverrideStat};
use crate::inode::{FileKind, Inode, Timestamp};
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::inode_io;
use crate::sys::xattr::{self, Target};

/// The most losses that are listed by name.
const LISTED: usize = 100;

const IDS_IN_ATTRIBUTES: &str = "its value makes no sense, or an id in it is not mapped in this user \
                                 namespace: give the user more subordinate ids in /etc/subuid and \
                                 /etc/subgid, or run as root";

/// What the process is, and what is done where it may not do what an entry asks for.
#[derive(Debug)]
pub(super) struct Attach {
    namespace: Namespace,
    ownership: Ownership,
    uid: u32,
    gid: u32,
    umask: u32,
    unkept: Vec<Unkept>,
    unkept_count: u64,
    /// The file is an empty one that only records what it should be.
    recorded: bool,
    /// Writes down what is put on disk.
    pub(super) entries: Option<EntriesWriter>,
}

/// Something that an entry asks for and that the file system or the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unkept {
    /// The file.
    pub path: LayerPath,
    /// What of it: an attribute's name, `device`.
    pub what: String,
}

impl std::fmt::Display for Unkept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// What a file is to be given.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) inode: &'a Inode,
    pub(super) atime: Option<Timestamp>,
    pub(super) acls: [Option<&'a [u8]>; 2],
    /// The mode that it was created with, before the umask; `None` where it was another one.
    pub(super) created_mode: Option<u32>,
    /// Of a regular file: that of its content.
    pub(super) checksum: u32,
}

impl<'a> Given<'a> {
    pub(super) fn of(entry: &'a Entry) -> Self {
        Self {
            inode: &entry.inode,
            atime: entry.atime,
            acls: [entry.acl_access.as_deref(), entry.acl_default.as_deref()],
            created_mode: None,
            checksum: 0,
        }
    }
}

impl Attach {
    pub(super) fn new(namespace: Namespace, ownership: Ownership) -> Self {
        Self {
            namespace,
            ownership,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask(),
            unkept: Vec::new(),
            unkept_count: 0,
            recorded: false,
            entries: None,
        }
    }

    pub(super) fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// The namespace of the marks.
    pub(super) fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// What was refused: the first of them by name, and how many.
    pub(super) fn into_unkept(self) -> (Vec<Unkept>, u64) {
        (self.unkept, self.unkept_count)
    }

    /// The next file that is given attributes is an empty one that records a device.
    pub(super) fn records(&mut self, path: &LayerPath) {
        self.recorded = true;
        if self.ownership == Ownership::Exact {
            self.note(path, "device");
        }
    }

    /// The mode to create a regular file with.
    pub(super) fn creation_mode(&self, entry: &Entry) -> u32 {
        // Attributes cannot be set by its owner on a file that is read-only, and an ACL changes the
        // mode.
        let plain = entry.inode.xattrs.is_empty() && entry.acl_access.is_none();
        if plain && self.ownership == Ownership::Exact { entry.inode.mode & 0o777 } else { 0o600 }
    }

    /// Gives a file what its entry says. Owner before attributes, since a new owner clears
    /// capabilities, and before the mode, of which it clears set-user-ID.
    pub(super) fn put(
        &mut self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
    ) -> Result<()> {
        let empty = std::mem::take(&mut self.recorded);
        let recorded = empty || self.ownership == Ownership::Recorded;
        let is_symlink = matches!(given.inode.kind, FileKind::Symlink { .. });
        if self.ownership == Ownership::Exact {
            self.own(target, path, given.inode)?;
        }
        let mode = mode_of(given);
        if recorded && !is_symlink {
            let value = OverrideStat { mode, ..OverrideStat::of(given.inode) }.encode();
            xattr::set(target, override_stat::NAME, &value).during("record owner of", path)?;
        }
        self.attributes(target, path, given, recorded)?;
        let mode = self.permissions(given, mode);
        if !is_symlink {
            self.permit(target, path, given, mode)?;
        }
        let mtime = given.inode.mtime;
        inode_io::set_times(target, given.atime.unwrap_or(mtime), mtime)
            .during("set times of", path)?;
        self.list(target, path, given, (empty, mode))
    }

    /// Writes down what the file is now.
    fn list(
        &mut self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
        (empty, mode): (bool, u32),
    ) -> Result<()> {
        let Some(entries) = &mut self.entries else { return Ok(()) };
        let inode = given.inode;
        let is_symlink = matches!(inode.kind, FileKind::Symlink { .. });
        let asked = self.ownership == Ownership::Recorded && !is_symlink
            || !inode.xattrs.is_empty()
            || given.acls.iter().any(Option::is_some)
            || empty;
        // The kernel keeps some in another form than they were given, and some not at all.
        let xattrs = match asked {
            true => xattr::read_all(target).during("read attributes of", path)?,
            false => Default::default(),
        };
        entries.inode(
            path,
            &Listed {
                kind: if empty { FileKind::Regular { size: 0 } } else { inode.kind.clone() },
                mode,
                owner: (self.ownership == Ownership::Exact).then_some((inode.uid, inode.gid)),
                mtime: inode.mtime,
                xattrs,
                checksum: given.checksum,
            },
        )
    }

    /// The mode of the file on disk.
    fn permissions(&self, given: &Given<'_>, mode: u32) -> u32 {
        match self.ownership {
            Ownership::Exact => mode,
            Ownership::Recorded => {
                override_stat::mode_on_disk(mode, given.inode.kind.is_directory())
            }
        }
    }

    fn own(&self, target: Target<'_>, path: &LayerPath, inode: &Inode) -> Result<()> {
        if inode.uid == self.uid && inode.gid == self.gid {
            return Ok(());
        }
        match inode_io::chown(target, inode.uid, inode.gid) {
            Err(error @ (Errno::INVAL | Errno::PERM)) => {
                let owner = format!("set owner {}:{} of", inode.uid, inode.gid);
                let hint = "the id is not mapped in this user namespace, or the process may not \
                            give files away: give the user subordinate ids in /etc/subuid and \
                            /etc/subgid, or run as root";
                Err(Error::os(error, &owner, path).hint(hint))
            }
            other => other.during("set owner of", path),
        }
    }

    fn attributes(
        &mut self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
        recorded: bool,
    ) -> Result<()> {
        for (name, value) in &given.inode.xattrs {
            // What is recorded here is no business of the changeset's.
            if recorded && name == override_stat::NAME {
                self.note(path, &name.shown());
                continue;
            }
            let stored = self.namespace.escape(name);
            self.attribute(target, path, &stored, value)?;
        }
        for (name, text) in [acl::ACCESS, acl::DEFAULT].into_iter().zip(given.acls) {
            let Some(text) = text else { continue };
            if given.inode.xattrs.contains_key(name) {
                continue;
            }
            match acl::encode(text) {
                Some(value) => self.attribute(target, path, name, &value)?,
                // Names of users are never looked up, so an ACL that has no ids cannot be kept.
                None => self.note(path, &name.shown()),
            }
        }
        Ok(())
    }

    fn attribute(
        &mut self,
        target: Target<'_>,
        path: &LayerPath,
        name: &[u8],
        value: &[u8],
    ) -> Result<()> {
        match xattr::set(target, name, value) {
            Ok(()) => Ok(()),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS) => {
                self.note(path, &name.shown());
                Ok(())
            }
            Err(error) => {
                let doing = format!("set attribute {} of", name.shown());
                let failed = Error::os(error, &doing, path);
                Err(match error == Errno::INVAL && holds_ids(name) {
                    true => failed.hint(IDS_IN_ATTRIBUTES),
                    false => failed,
                })
            }
        }
    }

    fn permit(
        &self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
        mode: u32,
    ) -> Result<()> {
        if given.created_mode.is_some_and(|created| created & !self.umask == mode) {
            return Ok(());
        }
        inode_io::chmod(target, mode).during("set mode of", path)
    }

    fn note(&mut self, path: &LayerPath, what: &str) {
        self.unkept_count += 1;
        if self.unkept.len() < LISTED {
            self.unkept.push(Unkept { path: path.clone(), what: what.to_owned() });
        }
    }
}

/// Whether the kernel translates ids in the attribute between user namespaces.
fn holds_ids(name: &[u8]) -> bool {
    name == b"security.capability" || name == acl::ACCESS || name == acl::DEFAULT
}

/// The mode that an entry means. The group's bits of a file with an ACL are the ACL's mask, and would
/// set it; not all writers put it there.
fn mode_of(given: &Given<'_>) -> u32 {
    let mode = given.inode.mode;
    let mask = match (given.inode.xattrs.get(acl::ACCESS), given.acls) {
        (Some(value), _) => acl::mask(value),
        (None, [Some(text), _]) => acl::encode(text).and_then(|value| acl::mask(&value)),
        (None, [None, _]) => None,
    };
    mask.map_or(mode, |mask| mode & !0o070 | mask << 3)
}

/// The process's umask, without changing it; where it cannot be told, one that masks all.
fn umask() -> u32 {
    // Reading it by umask(2) would change it for all threads for a moment.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

/// An error for a layer that cannot be resolved.
pub(super) fn unresolved(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}
