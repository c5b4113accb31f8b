//! Operations as data, run on a mounted overlay or on a [`Tree`].

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::inode::{Device, Timestamp};
use crate::merged::{EntryKind, Metadata, OpenOptions, RenameMode, SetTime, Tree, XattrMode};

/// One operation of a program in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Stat(String),
    Lstat(String),
    ReadDir(String),
    /// Also the names that nothing is found at, which the kernel lists in some directories.
    AllNames(String),
    ReadLink(String),
    Read(String),
    Write(String, String),
    Patch(String, u64, String),
    Append(String, String),
    OpenWrite(String),
    CreateNew(String, u32),
    /// Opens for reading alone, and creates what is not there.
    ReadOrCreate(String, u32),
    Truncate(String, u64),
    PunchHole(String, u64, u64),
    Mkdir(String, u32),
    Symlink(String, String),
    Mknod(String, EntryKind, u32, u32, u32),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, RenameMode),
    Chmod(String, u32),
    Chown(String, u32, u32),
    Lchown(String, u32, u32),
    SetTimes(String, i64),
    SetBothTimes(String, SetTime, SetTime),
    SetSymlinkTimes(String, i64),
    SetXattr(String, String, String, XattrMode),
    RemoveXattr(String, String),
    GetXattr(String, String),
    ListXattrs(String),
}

/// What an operation gave: a text to compare, or the error number.
pub(super) type Outcome = Result<String, i32>;

pub(super) trait Backend {
    fn run(&self, op: &Op) -> Outcome;
}

/// What of a file's status is the same on both: times that the test did not set are all "now".
struct Status {
    kind: EntryKind,
    mode: u32,
    owner: (u32, u32),
    len: u64,
    links: u64,
    device: Device,
    mtime: i64,
}

impl Status {
    fn text(&self) -> String {
        let Self { kind, mode, owner, len, links, device, mtime } = self;
        let len = if *kind == EntryKind::Directory { 0 } else { *len };
        let mtime = if *mtime > 1_500_000_000 { "now".to_owned() } else { mtime.to_string() };
        format!("{kind:?} {mode:o} {owner:?} len={len} links={links} {device} {mtime}")
    }
}

fn hash(data: &[u8]) -> String {
    if data.len() <= 64 {
        return String::from_utf8_lossy(data).into_owned();
    }
    format!("{} bytes, {}", data.len(), crate::digest::Digest::of(data))
}

impl Backend for Tree {
    fn run(&self, op: &Op) -> Outcome {
        run_on_tree(self, op).map_err(|error| error.raw_os_error().unwrap_or(-1))
    }
}

fn show(metadata: &Metadata) -> String {
    Status {
        kind: metadata.kind(),
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        len: metadata.len(),
        links: metadata.nlink(),
        device: metadata.device(),
        mtime: metadata.modified().seconds,
    }
    .text()
}

fn io<T>(result: std::io::Result<T>) -> crate::Result<T> {
    use crate::error::Context;
    result.during("use", "file")
}

fn list_tree(tree: &Tree, path: &str, all: bool) -> crate::Result<String> {
    let names = tree.read_dir(path)?;
    let names = names.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_there = |name: &String| {
        let found = tree.symlink_metadata(format!("{path}/{name}"));
        found.err().and_then(|error| error.raw_os_error()) != Some(2)
    };
    Ok(names.filter(|name| all || is_there(name)).collect::<Vec<_>>().join(" "))
}

fn run_on_tree(tree: &Tree, op: &Op) -> crate::Result<String> {
    let done = |()| "done".to_owned();
    let options = OpenOptions::new;
    match op {
        Op::Stat(path) => tree.metadata(path).map(|found| show(&found)),
        Op::Lstat(path) => tree.symlink_metadata(path).map(|found| show(&found)),
        Op::ReadDir(path) => list_tree(tree, path, false),
        Op::AllNames(path) => list_tree(tree, path, true),
        Op::ReadLink(path) => Ok(tree.read_link(path)?.to_string_lossy().into_owned()),
        Op::Read(path) => tree.read(path).map(|data| hash(&data)),
        Op::Write(path, text) => tree.write(path, text).map(done),
        Op::Patch(path, at, text) => {
            let file = tree.open_with(path, options().write(true))?;
            io(file.write_at(text.as_bytes(), *at)).map(|n| n.to_string())
        }
        Op::Append(path, text) => {
            let mut file = tree.open_with(path, options().append(true).create(true))?;
            io(file.write_all(text.as_bytes())).map(done)
        }
        Op::OpenWrite(path) => {
            tree.open_with(path, options().read(true).write(true)).map(drop).map(done)
        }
        Op::ReadOrCreate(path, mode) => {
            let mut options = options();
            tree.open_with(path, options.read(true).create(true).mode(*mode)).map(drop).map(done)
        }
        Op::CreateNew(path, mode) => {
            let mut options = options();
            tree.open_with(path, options.write(true).create_new(true).mode(*mode))
                .map(drop)
                .map(done)
        }
        Op::Truncate(path, len) => tree.truncate(path, *len).map(done),
        Op::PunchHole(path, at, len) => {
            let file = tree.open_with(path, options().write(true))?;
            io(file.punch_hole(*at, *len)).map(done)
        }
        Op::Mkdir(path, mode) => tree.create_dir(path, *mode).map(done),
        Op::Symlink(target, path) => tree.symlink(target, path).map(done),
        Op::Mknod(path, kind, mode, major, minor) => {
            let device = Device { major: *major, minor: *minor };
            tree.mknod(path, *kind, *mode, device).map(done)
        }
        Op::Link(from, to) => tree.hard_link(from, to).map(done),
        Op::Unlink(path) => tree.remove_file(path).map(done),
        Op::Rmdir(path) => tree.remove_dir(path).map(done),
        Op::Rename(from, to, mode) => tree.rename_with(from, to, *mode).map(done),
        Op::Chmod(path, mode) => tree.set_permissions(path, *mode).map(done),
        Op::Chown(path, uid, gid) => tree.chown(path, Some(*uid), Some(*gid)).map(done),
        Op::Lchown(path, uid, gid) => tree.lchown(path, Some(*uid), Some(*gid)).map(done),
        Op::SetTimes(path, at) => {
            let time = SetTime::At(Timestamp::from_seconds(*at));
            tree.set_times(path, time, time).map(done)
        }
        Op::SetBothTimes(path, access, modification) => {
            tree.set_times(path, *access, *modification).map(done)
        }
        Op::SetSymlinkTimes(path, at) => {
            let time = SetTime::At(Timestamp::from_seconds(*at));
            tree.set_symlink_times(path, time, time).map(done)
        }
        Op::SetXattr(path, name, value, mode) => tree.set_xattr(path, name, value, *mode).map(done),
        Op::RemoveXattr(path, name) => tree.remove_xattr(path, name).map(done),
        Op::GetXattr(path, name) => {
            use crate::error::Context;
            let value = tree.xattr(path, name)?;
            let value = value.ok_or(Errno::NODATA).during("read attribute of", path)?;
            Ok(String::from_utf8_lossy(&value).into_owned())
        }
        Op::ListXattrs(path) => {
            let names = tree.xattr_names(path)?;
            let names = names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            Ok(names.collect::<Vec<_>>().join(" "))
        }
    }
}

/// A mounted overlay, by its root.
#[derive(Debug)]
pub(super) struct Mounted(pub(super) OwnedFd);

impl Backend for Mounted {
    fn run(&self, op: &Op) -> Outcome {
        self.act(op).map_err(Errno::raw_os_error)
    }
}

fn proc_path(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

type Sys<T> = Result<T, Errno>;

fn kernel_status(stat: &rustix::fs::Stat) -> String {
    use crate::sys::dir::{device_of, type_of};
    Status {
        kind: EntryKind::of(type_of(stat)),
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        len: u64::try_from(stat.st_size).unwrap(),
        links: stat.st_nlink,
        device: device_of(stat),
        mtime: stat.st_mtime,
    }
    .text()
}

fn failed(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Mounted {
    fn open(&self, path: &str, flags: OFlags, mode: u32) -> Sys<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let open = || rustix::fs::openat2(&self.0, path, flags, mode, ResolveFlags::IN_ROOT);
        let mut opened = open();
        // Somebody on this machine renamed something while the kernel went through `..`, which may
        // stand in a symlink.
        for _ in 0..10_000 {
            if !matches!(opened, Err(Errno::AGAIN)) {
                break;
            }
            opened = open();
        }
        opened
    }

    /// The directory of the last name, and that name with the slashes behind it.
    fn parent(&self, path: &str) -> Sys<(OwnedFd, String)> {
        let trimmed = path.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
        let parent = if parent.is_empty() { "/" } else { parent };
        let slashes = if trimmed.len() < path.len() { "/" } else { "" };
        let parent = self.open(parent, OFlags::PATH | OFlags::DIRECTORY, 0)?;
        // A system call that gets the whole path asks whether it may look names up here at once.
        rustix::fs::statat(&parent, ".", AtFlags::empty())?;
        Ok((parent, format!("{name}{slashes}")))
    }

    fn at<T>(&self, path: &str, act: impl FnOnce(&OwnedFd, &str) -> Sys<T>) -> Sys<String> {
        let (parent, name) = self.parent(path)?;
        act(&parent, &name).map(|_| "done".to_owned())
    }

    fn held(&self, path: &str, follow: bool) -> Sys<OwnedFd> {
        let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        self.open(path, OFlags::PATH | nofollow, 0)
    }

    /// Devices and FIFOs are opened by neither, so that no test waits or reaches hardware.
    fn refuse_special(&self, op: &Op) -> Sys<()> {
        use rustix::fs::FileType;
        let (Op::Read(path)
        | Op::Write(path, _)
        | Op::Patch(path, ..)
        | Op::Append(path, _)
        | Op::OpenWrite(path)
        | Op::ReadOrCreate(path, _)
        | Op::PunchHole(path, ..)) = op
        else {
            return Ok(());
        };
        let Ok(held) = self.held(path, true) else { return Ok(()) };
        match crate::sys::dir::type_of(&rustix::fs::fstat(held)?) {
            FileType::RegularFile | FileType::Directory | FileType::Symlink => Ok(()),
            _ => Err(Errno::NXIO),
        }
    }

    fn act(&self, op: &Op) -> Sys<String> {
        self.refuse_special(op)?;
        match op {
            Op::Stat(path) => {
                rustix::fs::fstat(self.held(path, true)?).map(|stat| kernel_status(&stat))
            }
            Op::Lstat(path) => {
                rustix::fs::fstat(self.held(path, false)?).map(|stat| kernel_status(&stat))
            }
            Op::ReadDir(path) | Op::AllNames(path) => {
                let all = matches!(op, Op::AllNames(_));
                let dir = crate::sys::Dir::from_fd(self.open(path, OFlags::DIRECTORY, 0)?);
                let names = dir.sorted_entries()?;
                let mut names: Vec<_> = names
                    .iter()
                    // The kernel lists whiteouts in directories that merge with nothing.
                    .filter(|entry| all || dir.stat(&entry.name).err() != Some(Errno::NOENT))
                    .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
                    .collect();
                names.sort();
                Ok(names.join(" "))
            }
            Op::ReadLink(path) => {
                let (parent, name) = self.parent(path)?;
                let target = rustix::fs::readlinkat(&parent, name, Vec::new())?;
                Ok(target.to_string_lossy().into_owned())
            }
            Op::Read(_) | Op::Write(..) | Op::Patch(..) | Op::Append(..) => self.data(op),
            Op::OpenWrite(path) => self.open(path, OFlags::RDWR, 0).map(|_| "done".to_owned()),
            Op::ReadOrCreate(path, mode) => {
                self.open(path, OFlags::CREATE, *mode).map(|_| "done".to_owned())
            }
            Op::CreateNew(path, mode) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                self.open(path, flags, *mode).map(|_| "done".to_owned())
            }
            Op::Truncate(path, len) => {
                let held = self.held(path, true)?;
                crate::sys::inode_io::truncate(held.as_fd(), *len).map(|()| "done".to_owned())
            }
            Op::PunchHole(path, at, len) => {
                use rustix::fs::FallocateFlags;
                let file = self.open(path, OFlags::WRONLY, 0)?;
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, mode, *at, *len).map(|()| "done".to_owned())
            }
            Op::Mkdir(..)
            | Op::Symlink(..)
            | Op::Mknod(..)
            | Op::Link(..)
            | Op::Unlink(_)
            | Op::Rmdir(_)
            | Op::Rename(..) => self.names(op),
            _ => self.attributes(op),
        }
    }

    fn data(&self, op: &Op) -> Sys<String> {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let write_all = |file: OwnedFd, text: &str| {
            let mut file = std::fs::File::from(file);
            file.write_all(text.as_bytes()).map(|()| "done".to_owned()).map_err(failed)
        };
        match op {
            Op::Read(path) => {
                let mut data = Vec::new();
                let mut file =
                    std::fs::File::from(self.open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?);
                file.read_to_end(&mut data).map_err(failed)?;
                Ok(hash(&data))
            }
            Op::Write(path, text) => {
                write_all(self.open(path, flags | OFlags::TRUNC, 0o666)?, text)
            }
            Op::Append(path, text) => {
                write_all(self.open(path, flags | OFlags::APPEND, 0o666)?, text)
            }
            Op::Patch(path, at, text) => {
                let file = self.open(path, OFlags::WRONLY, 0)?;
                rustix::io::pwrite(&file, text.as_bytes(), *at).map(|n| n.to_string())
            }
            _ => unreachable!(),
        }
    }

    fn names(&self, op: &Op) -> Sys<String> {
        match op {
            Op::Mkdir(path, mode) => self.at(path, |parent, name| {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(*mode))
            }),
            Op::Symlink(target, path) => {
                self.at(path, |parent, name| rustix::fs::symlinkat(target, parent, name))
            }
            Op::Mknod(path, kind, mode, major, minor) => self.at(path, |parent, name| {
                use rustix::fs::FileType;
                let kind = match kind {
                    EntryKind::Regular => FileType::RegularFile,
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    EntryKind::Fifo => FileType::Fifo,
                    EntryKind::Socket => FileType::Socket,
                    EntryKind::Directory => FileType::Directory,
                    EntryKind::Symlink => FileType::Symlink,
                };
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(*mode), device)
            }),
            Op::Unlink(path) => {
                self.at(path, |parent, name| rustix::fs::unlinkat(parent, name, AtFlags::empty()))
            }
            Op::Rmdir(path) => {
                self.at(path, |parent, name| rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
            }
            Op::Link(from, to) => {
                // The system call too looks at the old name before it looks for the new.
                self.held(from, false)?;
                let (old, old_name) = self.parent(from)?;
                let (new, new_name) = self.parent(to)?;
                rustix::fs::linkat(old, old_name, new, new_name, AtFlags::empty())?;
                Ok("done".to_owned())
            }
            Op::Rename(from, to, mode) => {
                let (old, old_name) = self.parent(from)?;
                let (new, new_name) = self.parent(to)?;
                let flags = match mode {
                    RenameMode::Replace => RenameFlags::empty(),
                    RenameMode::NoReplace => RenameFlags::NOREPLACE,
                    RenameMode::Exchange => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(old, old_name, new, new_name, flags)?;
                Ok("done".to_owned())
            }
            _ => unreachable!(),
        }
    }

    fn attributes(&self, op: &Op) -> Sys<String> {
        use crate::sys::dir::{group, owner, timestamps};
        use rustix::fs::XattrFlags;
        let done = |()| "done".to_owned();
        let times = |at: i64| {
            let time = Timestamp::from_seconds(at);
            timestamps(time, time)
        };
        let own = |held: OwnedFd, uid: u32, gid: u32| {
            rustix::fs::chownat(held, "", owner(uid), group(gid), AtFlags::EMPTY_PATH)
        };
        match op {
            Op::Chmod(path, mode) => {
                let held = self.held(path, true)?;
                rustix::fs::chmod(proc_path(&held), Mode::from_raw_mode(*mode)).map(done)
            }
            Op::Chown(path, uid, gid) => own(self.held(path, true)?, *uid, *gid).map(done),
            Op::Lchown(path, uid, gid) => own(self.held(path, false)?, *uid, *gid).map(done),
            Op::SetTimes(path, at) => {
                let held = self.held(path, true)?;
                rustix::fs::utimensat(held, "", &times(*at), AtFlags::EMPTY_PATH).map(done)
            }
            Op::SetBothTimes(path, access, modification) => {
                let held = self.held(path, true)?;
                let (last_access, last_modification) = (access.spec(), modification.spec());
                let times = rustix::fs::Timestamps { last_access, last_modification };
                rustix::fs::utimensat(held, "", &times, AtFlags::EMPTY_PATH).map(done)
            }
            Op::SetSymlinkTimes(path, at) => {
                let held = self.held(path, false)?;
                rustix::fs::utimensat(held, "", &times(*at), AtFlags::EMPTY_PATH).map(done)
            }
            Op::SetXattr(path, name, value, mode) => {
                let flags = match mode {
                    XattrMode::Set => XattrFlags::empty(),
                    XattrMode::Create => XattrFlags::CREATE,
                    XattrMode::Replace => XattrFlags::REPLACE,
                };
                let held = self.held(path, false)?;
                rustix::fs::setxattr(proc_path(&held), name, value.as_bytes(), flags).map(done)
            }
            Op::RemoveXattr(path, name) => {
                let held = self.held(path, false)?;
                rustix::fs::removexattr(proc_path(&held), name).map(done)
            }
            Op::GetXattr(path, name) => {
                let held = self.held(path, false)?;
                let mut buffer = vec![0; 70_000];
                let length = rustix::fs::getxattr(proc_path(&held), name, &mut buffer[..])?;
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            }
            Op::ListXattrs(path) => {
                let held = self.held(path, false)?;
                let target = crate::sys::xattr::Target::held(&held);
                let mut names = crate::sys::xattr::list(target)?;
                names.sort();
                let names = names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
                Ok(names.collect::<Vec<_>>().join(" "))
            }
            _ => unreachable!("{op:?}"),
        }
    }
}
