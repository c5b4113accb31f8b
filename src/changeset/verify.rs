//! [`verify`]: a layer directory compared with the list of what was put there.

mod contents;

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use rustix::fs::{FileType, Stat};

use super::entries::{Entries, FILE, Listed, Name, State};
use crate::digest::Digest;
use crate::error::{Context, Result, is_starved};
use crate::finding::FindingKind;
use crate::inode::{FileKind, Timestamp, Xattrs};
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{mtime_of, type_of};
use crate::sys::inode_io;
use crate::sys::xattr::{self, Target};
use crate::watch::{Phase, Progress, Watch};

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The file; `None` where it concerns the layer as a whole.
    pub(crate) path: Option<LayerPath>,
    pub(crate) kind: FindingKind,
    /// What is there, and what should be.
    pub(crate) detail: String,
}

/// How much of a layer is looked at, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerifyOptions<'a> {
    /// Where overlayfs's marks are.
    pub(crate) namespace: Namespace,
    pub(crate) contents: Contents,
    /// What progress reports call the layer.
    pub(crate) subject: &'a str,
    /// Bytes to read, where that is known; for progress reports alone.
    pub(crate) total_bytes: Option<u64>,
    /// Sees how far it is, and may stop it.
    pub(crate) watch: Watch<'a>,
}

/// Which contents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// None.
    Skip,
    /// Each file's, for its checksum.
    Read,
    /// Each file's, and the changeset is written again, which must have this digest.
    Hash(Digest),
}

/// Compares the layer directory `layer` with what is kept in `side`, the directory around it.
///
/// # Errors
/// [`ErrorKind::Cancelled`], and what makes it impossible to look at all; what is only wrong with
/// the layer is in the result.
pub(crate) fn verify(
    layer: &Dir,
    side: &Dir,
    options: &VerifyOptions<'_>,
) -> Result<Vec<Difference>> {
    let mut verify = Verify::new(layer, side, *options)?;
    let entries = match Entries::read(side, options.namespace) {
        Ok(entries) => Some(entries),
        Err(error) if error.is_starved() => return Err(error),
        Err(error) => {
            verify.whole(FindingKind::Record, format!("{FILE}: {error}"));
            None
        }
    };
    if let Some(entries) = &entries {
        verify.tree(entries)?;
    }
    match options.contents {
        Contents::Skip => {}
        Contents::Read => {
            if let Some(entries) = &entries {
                verify.files(entries)?;
            }
        }
        Contents::Hash(digest) => verify.hash(&entries.unwrap_or_default(), digest)?,
    }
    Ok(verify.found)
}

/// A comparison on its way.
struct Verify<'a> {
    layer: &'a Dir,
    side: &'a Dir,
    options: VerifyOptions<'a>,
    /// The owner of what has none of its own.
    owner: (u32, u32),
    /// The inode on disk of each file of several names.
    inodes: HashMap<*const Listed, (u64, u64)>,
    found: Vec<Difference>,
    seen: u64,
    bytes: u64,
}

impl<'a> Verify<'a> {
    fn new(layer: &'a Dir, side: &'a Dir, options: VerifyOptions<'a>) -> Result<Self> {
        let stat = side.stat_self().during("stat", "the layer")?;
        Ok(Self {
            layer,
            side,
            options,
            owner: (stat.st_uid, stat.st_gid),
            inodes: HashMap::new(),
            found: Vec::new(),
            seen: 0,
            bytes: 0,
        })
    }

    fn add(&mut self, path: &LayerPath, kind: FindingKind, detail: String) {
        self.found.push(Difference { path: Some(path.clone()), kind, detail });
    }

    fn whole(&mut self, kind: FindingKind, detail: String) {
        self.found.push(Difference { path: None, kind, detail });
    }

    fn report(&self) -> Result<()> {
        self.options.watch.report(&Progress {
            subject: self.options.subject,
            phase: Phase::Check,
            bytes: self.bytes,
            total_bytes: self.options.total_bytes,
            entries: self.seen,
        })
    }

    /// Names and attributes.
    fn tree(&mut self, entries: &Entries) -> Result<()> {
        let root = LayerPath::root();
        let dir = self.layer.descend(&root).during("open directory", &root)?;
        if let Some(name) = entries.names.get(root.as_bytes()) {
            name.state.set(State::Seen);
            let stat = dir.stat_self().during("stat", &root)?;
            self.attributes(&name.file, &root, &stat, Target::open(&dir));
        }
        let mut pending = vec![root];
        while let Some(at) = pending.pop() {
            self.report()?;
            self.directory(&at, entries, &mut pending)?;
        }
        for (path, name) in &entries.names {
            if name.state.get() != State::Unseen {
                continue;
            }
            // What is beneath something that is missing is not named again.
            let path = LayerPath::parse(path)?;
            let around = path.parent().filter(|around| !around.is_root());
            let around = around.and_then(|around| entries.names.get(around.as_bytes()));
            if around.is_none_or(|around| around.state.get() == State::Seen) {
                self.add(&path, FindingKind::Missing, describe(&name.file).to_owned());
            }
        }
        self.report()
    }

    fn directory(
        &mut self,
        at: &LayerPath,
        entries: &Entries,
        pending: &mut Vec<LayerPath>,
    ) -> Result<()> {
        let listed = self.layer.descend(at).and_then(|dir| {
            let entries = dir.sorted_entries()?;
            Ok((dir, entries))
        });
        let (dir, names) = match listed {
            Ok(listed) => listed,
            Err(error) if is_starved(error) => return Err(error).during("open directory", at),
            Err(error) => {
                self.add(at, FindingKind::Type, format!("cannot be read: {error}"));
                return Ok(());
            }
        };
        for entry in names {
            self.seen += 1;
            let path = at.join(&entry.name);
            let stat = match dir.stat(&entry.name) {
                Ok(stat) => stat,
                Err(error) => {
                    self.add(&path, FindingKind::Type, format!("cannot be read: {error}"));
                    continue;
                }
            };
            let Some(name) = entries.names.get(path.as_bytes()) else {
                self.add(&path, FindingKind::Extra, type_name(&stat).to_owned());
                continue;
            };
            if self.one(name, &path, &stat, &dir) && type_of(&stat) == FileType::Directory {
                pending.push(path);
            }
        }
        Ok(())
    }

    /// One name; `false` where something else stands there.
    fn one(&mut self, name: &Name, path: &LayerPath, stat: &Stat, dir: &Dir) -> bool {
        let file_name = path.file_name().unwrap_or_default();
        let listed = &name.file;
        let found = match inode_io::kind_of(dir, file_name, stat) {
            Ok(found) => found,
            Err(error) => {
                self.add(path, FindingKind::LinkTarget, format!("cannot be read: {error}"));
                return true;
            }
        };
        if std::mem::discriminant(&found) != std::mem::discriminant(&listed.kind) {
            name.state.set(State::Wrong);
            let (found, expected) = (found.name(), describe(listed));
            self.add(path, FindingKind::Type, format!("a {found}, expected a {expected}"));
            return false;
        }
        name.state.set(State::Seen);
        match (&found, &listed.kind) {
            (found, expected) if found == expected => {}
            (FileKind::Regular { size }, FileKind::Regular { size: expected }) => {
                self.add(path, FindingKind::Contents, format!("{size} bytes, expected {expected}"));
            }
            (FileKind::Symlink { target }, FileKind::Symlink { target: expected }) => {
                let (target, expected) = (shown(target), shown(expected));
                self.add(path, FindingKind::LinkTarget, format!("{target}, expected {expected}"));
            }
            (
                FileKind::CharDevice(device) | FileKind::BlockDevice(device),
                FileKind::CharDevice(expected) | FileKind::BlockDevice(expected),
            ) => self.add(path, FindingKind::Device, format!("{device}, expected {expected}")),
            _ => {}
        }
        if listed.is_whiteout() {
            return true;
        }
        self.attributes(listed, path, stat, Target::Name(dir, file_name));
        if Rc::strong_count(listed) > 1 || stat.st_nlink > 1 {
            self.names(listed, path, stat);
        }
        true
    }

    /// All names of a file lead to one inode.
    fn names(&mut self, listed: &Rc<Listed>, path: &LayerPath, stat: &Stat) {
        if type_of(stat) == FileType::Directory {
            return;
        }
        let identity = (stat.st_dev, stat.st_ino);
        let first = *self.inodes.entry(Rc::as_ptr(listed)).or_insert(identity);
        if first != identity {
            let detail = "not the same file as under its other names".to_owned();
            self.add(path, FindingKind::HardLink, detail);
        }
    }

    fn attributes(&mut self, listed: &Listed, path: &LayerPath, stat: &Stat, target: Target<'_>) {
        let is_symlink = type_of(stat) == FileType::Symlink;
        let mode = stat.st_mode & 0o7777;
        if !is_symlink && mode != listed.mode {
            let expected = listed.mode;
            self.add(path, FindingKind::Mode, format!("{mode:04o}, expected {expected:04o}"));
        }
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        let expected = listed.owner.unwrap_or(self.owner);
        if (uid, gid) != expected {
            let detail = format!("{uid}:{gid}, expected {}:{}", expected.0, expected.1);
            self.add(path, FindingKind::Owner, detail);
        }
        let mtime = mtime_of(stat);
        if mtime != listed.mtime && !is_nearest(stat, listed.mtime) {
            let (found, expected) = (mtime.rfc3339(), listed.mtime.rfc3339());
            self.add(path, FindingKind::Time, format!("{found}, expected {expected}"));
        }
        match xattr::read_all(target) {
            Ok(found) => {
                if let Some(detail) = xattrs_differ(&found, &listed.xattrs) {
                    self.add(path, FindingKind::Xattrs, detail);
                }
            }
            Err(error) => {
                self.add(path, FindingKind::Xattrs, format!("cannot be read: {error}"));
            }
        }
    }
}

/// Whether a file system that cannot hold the time asked for took the nearest that it can.
fn is_nearest(stat: &Stat, asked: Timestamp) -> bool {
    // 32 bits (XFS without bigtime, ext4 with small inodes), 34 bits from 1901 on (ext4), XFS with
    // bigtime, all 64. The kernel gives the first and the last second no fraction.
    const LAST: [i64; 5] = [0x7fff_ffff, 0xffff_ffff, 0x3_7fff_ffff, 16_299_260_424, i64::MAX];
    const FIRST: [i64; 3] = [-0x8000_0000, 0, i64::MIN];
    let found = mtime_of(stat);
    if found.nanos != 0 {
        return false;
    }
    // Ext4 with small inodes knows whole seconds alone, of the time of a file's last change too.
    let whole = stat.st_ctime_nsec == 0 && found.seconds == asked.seconds;
    let (found, asked) = (found.seconds, asked.seconds);
    whole || (asked >= found && LAST.contains(&found)) || (asked <= found && FIRST.contains(&found))
}

/// Attributes that the kernel gives by itself, and that are no part of a layer.
const GIVEN_BY_KERNEL: [&[u8]; 4] =
    [b"security.selinux", b"security.ima", b"security.evm", b"security.SMACK64"];

/// Which attributes differ; `None` where none does.
fn xattrs_differ(found: &Xattrs, expected: &Xattrs) -> Option<String> {
    let counts = |name: &Vec<u8>| !GIVEN_BY_KERNEL.contains(&name.as_slice());
    let mut told = Vec::new();
    for (name, value) in expected.iter().filter(|(name, _)| counts(name)) {
        match found.get(name) {
            Some(there) if there == value => {}
            Some(_) => told.push(format!("{} has another value", shown(name))),
            None => told.push(format!("{} is missing", shown(name))),
        }
    }
    for name in found.keys().filter(|name| counts(name) && !expected.contains_key(*name)) {
        told.push(format!("{} was added", shown(name)));
    }
    (!told.is_empty()).then(|| told.join(", "))
}

fn describe(listed: &Listed) -> &'static str {
    if listed.is_whiteout() { "whiteout" } else { listed.kind.name() }
}

fn type_name(stat: &Stat) -> &'static str {
    match type_of(stat) {
        FileType::Directory => "directory",
        FileType::RegularFile => "file",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "FIFO",
        _ => "socket",
    }
}

fn shown(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
