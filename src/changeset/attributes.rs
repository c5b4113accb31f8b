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

/// What the process is, and how it gives files what their entries say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    namespace: Namespace,
    ownership: Ownership,
    uid: u32,
    gid: u32,
    umask: u32,
    /// Somebody writes down what files are then.
    listing: bool,
}

/// Gives files what their entries say, and keeps account of them.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) manner: Manner,
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
    /// `entries` is where it is written down what files are then, where anybody wants to know.
    pub(super) fn new(
        namespace: Namespace,
        ownership: Ownership,
        entries: Option<EntriesWriter>,
    ) -> Self {
        let manner = Manner {
            namespace,
            ownership,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask(),
            listing: entries.is_some(),
        };
        Self { manner, unkept: Vec::new(), unkept_count: 0, recorded: false, entries }
    }

    pub(super) fn ownership(&self) -> Ownership {
        self.manner.ownership
    }

    /// The namespace of the marks.
    pub(super) fn namespace(&self) -> Namespace {
        self.manner.namespace
    }

    /// What was refused: the first of them by name, and how many.
    pub(super) fn into_unkept(self) -> (Vec<Unkept>, u64) {
        (self.unkept, self.unkept_count)
    }

    /// The next file that is given attributes is an empty one that records a device.
    pub(super) fn records(&mut self, path: &LayerPath) {
        self.recorded = true;
        if self.ownership() == Ownership::Exact {
            self.note(path, "device".to_owned());
        }
    }

    /// Gives a file what its entry says, and writes down what it is then.
    pub(super) fn put(
        &mut self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
    ) -> Result<()> {
        let empty = std::mem::take(&mut self.recorded);
        let put = self.manner.put(target, path, given, empty)?;
        self.account(path, put)
    }

    /// Writes down what became of a file.
    pub(super) fn account(&mut self, path: &LayerPath, put: Put) -> Result<()> {
        put.refused.into_iter().for_each(|what| self.note(path, what));
        match (&mut self.entries, put.listed) {
            (Some(entries), Some(listed)) => entries.inode(path, &listed),
            _ => Ok(()),
        }
    }

    fn note(&mut self, path: &LayerPath, what: String) {
        self.unkept_count += 1;
        if self.unkept.len() < LISTED {
            self.unkept.push(Unkept { path: path.clone(), what });
        }
    }
}

/// What a file is when it was given what its entry says.
#[derive(Debug)]
pub(super) struct Put {
    listed: Option<Listed>,
    /// Names of attributes that the file system or the kernel would not take.
    refused: Vec<String>,
}

impl Manner {
    /// The mode to create a regular file with.
    pub(super) fn creation_mode(self, entry: &Entry) -> u32 {
        // Attributes cannot be set by its owner on a file that is read-only, and an ACL changes the
        // mode.
        let plain = entry.inode.xattrs.is_empty() && entry.acl_access.is_none();
        if plain && self.ownership == Ownership::Exact { entry.inode.mode & 0o777 } else { 0o600 }
    }

    /// Gives a file what its entry says. Owner before attributes, since a new owner clears
    /// capabilities, and before the mode, of which it clears set-user-ID. `empty` says that it only
    /// records what it should be.
    pub(super) fn put(
        self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
        empty: bool,
    ) -> Result<Put> {
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
        let refused = self.attributes(target, path, given, recorded)?;
        let mode = self.permissions(given, mode);
        if !is_symlink {
            self.permit(target, path, given, mode)?;
        }
        let mtime = given.inode.mtime;
        inode_io::set_times(target, given.atime.unwrap_or(mtime), mtime)
            .during("set times of", path)?;
        let listed = match self.listing {
            true => Some(self.listed(target, path, given, (empty, mode))?),
            false => None,
        };
        Ok(Put { listed, refused })
    }

    /// What the file is now.
    fn listed(
        self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
        (empty, mode): (bool, u32),
    ) -> Result<Listed> {
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
        Ok(Listed {
            kind: if empty { FileKind::Regular { size: 0 } } else { inode.kind.clone() },
            mode,
            owner: (self.ownership == Ownership::Exact).then_some((inode.uid, inode.gid)),
            mtime: inode.mtime,
            xattrs,
            checksum: given.checksum,
        })
    }

    /// The mode of the file on disk.
    fn permissions(self, given: &Given<'_>, mode: u32) -> u32 {
        match self.ownership {
            Ownership::Exact => mode,
            Ownership::Recorded => {
                override_stat::mode_on_disk(mode, given.inode.kind.is_directory())
            }
        }
    }

    fn own(self, target: Target<'_>, path: &LayerPath, inode: &Inode) -> Result<()> {
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
        self,
        target: Target<'_>,
        path: &LayerPath,
        given: &Given<'_>,
        recorded: bool,
    ) -> Result<Vec<String>> {
        let mut refused = Vec::new();
        for (name, value) in &given.inode.xattrs {
            // What is recorded here is no business of the changeset's.
            if recorded && name == override_stat::NAME {
                refused.push(name.shown().into_owned());
                continue;
            }
            let stored = self.namespace.escape(name);
            refused.extend(attribute(target, path, &stored, value)?);
        }
        for (name, text) in [acl::ACCESS, acl::DEFAULT].into_iter().zip(given.acls) {
            let Some(text) = text else { continue };
            if given.inode.xattrs.contains_key(name) {
                continue;
            }
            match acl::encode(text) {
                Some(value) => refused.extend(attribute(target, path, name, &value)?),
                // Names of users are never looked up, so an ACL that has no ids cannot be kept.
                None => refused.push(name.shown().into_owned()),
            }
        }
        Ok(refused)
    }

    fn permit(
        self,
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
}

/// Sets an attribute; gives its name where the file system or the kernel does not take it.
fn attribute(
    target: Target<'_>,
    path: &LayerPath,
    name: &[u8],
    value: &[u8],
) -> Result<Option<String>> {
    match xattr::set(target, name, value) {
        Ok(()) => Ok(None),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS) => Ok(Some(name.shown().into_owned())),
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
