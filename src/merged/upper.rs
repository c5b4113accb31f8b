//! The writable layer: the WorkDir, in which every change of several steps is prepared.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::node::lock;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::whiteout;
use crate::sys::Dir;
use crate::sys::copy::Sharing;
use crate::sys::dir::SysResult;
use crate::sys::lock::{Lock, Mode};
use crate::sys::remove;
use crate::sys::xattr::{self, Target};

/// What is needed to change the tree.
#[derive(Debug)]
pub(super) struct Upper {
    /// `work` in the WorkDir, as the kernel has it: emptied at each opening.
    pub(super) work: Dir,
    /// The device that inode numbers of the UpperDir are numbers on.
    pub(super) device: u64,
    next: AtomicU64,
    /// The name in `work` of the whiteout of which all others are links.
    whiteout: Mutex<Option<Arc<[u8]>>>,
    /// The file system makes files without a name (`O_TMPFILE`), as far as is known.
    pub(super) has_unnamed: AtomicBool,
    /// Whether it shares blocks between files.
    pub(super) sharing: Sharing,
    _lock: Lock,
}

/// A name in the WorkDir that is removed again unless it is moved away.
#[derive(Debug)]
pub(super) struct Temporary<'a> {
    dir: &'a Dir,
    name: Arc<[u8]>,
    kept: bool,
}

impl Temporary<'_> {
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Moves it to `name` in `to`.
    pub(super) fn rename(mut self, to: &Dir, name: &[u8], flags: RenameFlags) -> SysResult<()> {
        self.dir.rename(&self.name, to, name, flags)?;
        // After an exchange, what was replaced stands here now, and goes.
        self.kept = !flags.contains(RenameFlags::EXCHANGE);
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is wiped when the WorkDir is next opened.
            let _ = remove::remove_tree(self.dir, &self.name);
        }
    }
}

impl Upper {
    /// Makes the WorkDir ready, as the kernel does when it mounts.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where another tree works in it; EINVAL, as the kernel says, where
    /// `work/incompat` holds something: the mark of a volatile mount that was not ended properly.
    pub(super) fn open(upper: &Dir, work: &Dir) -> Result<Self> {
        let what = "WorkDir";
        let device = upper.stat_self().during("stat", "UpperDir")?.st_dev;
        if work.stat_self().during("stat", what)?.st_dev != device {
            let message = "UpperDir and WorkDir are on different file systems";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let overlaps =
            || -> SysResult<bool> { Ok(is_inside(upper, work)? || is_inside(work, upper)?) };
        if overlaps().during("compare UpperDir with", what)? {
            let message = "UpperDir and WorkDir lie one inside the other";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        match work.make_dir(b"work", 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::os(error, "create work in", what)),
        }
        let dir = work
            .child(b"work")
            .or_else(|error| {
                // The kernel gives it mode 0, which only the privileged may open.
                work.chmod(b"work", 0o700).map_err(|_| error)?;
                work.child(b"work")
            })
            .during("open work in", what)?;
        let Some(held) =
            Lock::attempt(dir.try_clone().during("open", what)?.into(), Mode::Exclusive)
                .during("lock", what)?
        else {
            return Err(Error::new(ErrorKind::InUse, "the WorkDir is used by another merged tree"));
        };
        if let Ok(incompat) = dir.child(b"incompat")
            && !incompat.entries().during("read", what)?.is_empty()
        {
            return Err(Error::os(Errno::INVAL, "use", what)
                .hint("a volatile mount ended without sync; remove work/incompat to accept that"));
        }
        if dir.stat_self().during("stat", what)?.st_mode & 0o700 != 0o700 {
            work.chmod(b"work", 0o700).during("open work in", what)?;
        }
        remove::empty_directory(&dir).during("empty work in", what)?;
        Ok(Self {
            work: dir,
            device,
            next: AtomicU64::new(1),
            whiteout: Mutex::new(None),
            has_unnamed: AtomicBool::new(true),
            sharing: Sharing::default(),
            _lock: held,
        })
    }

    /// A temporary name, spelled as the kernel spells them.
    pub(super) fn temporary(&self) -> Temporary<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("#{number:x}").into_bytes().into();
        Temporary { dir: &self.work, name, kept: false }
    }

    /// A whiteout under a temporary name: a link to the one that all share, while it takes links.
    pub(super) fn whiteout(&self) -> SysResult<Temporary<'_>> {
        let temporary = self.temporary();
        // Nobody waits for another's system call; two that find none make one each, and one stays.
        let shared = lock(&self.whiteout).clone();
        if let Some(name) = shared {
            match self.work.make_link(temporary.name(), &self.work, &name) {
                Ok(()) => return Ok(temporary),
                Err(Errno::MLINK | Errno::OPNOTSUPP | Errno::PERM | Errno::NOENT) => {
                    let mut shared = lock(&self.whiteout);
                    if shared.as_ref() == Some(&name) {
                        *shared = None;
                        let _ = self.work.remove_file(&name);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        whiteout::make(&self.work, temporary.name())?;
        let mut keep = self.temporary();
        if self.work.make_link(keep.name(), &self.work, temporary.name()).is_ok() {
            let mut shared = lock(&self.whiteout);
            if shared.is_none() {
                keep.kept = true;
                *shared = Some(keep.name.clone());
            }
        }
        Ok(temporary)
    }

    /// A temporary directory that hands on to what is created in it what `parent` would.
    ///
    /// A set-group-ID bit and a default ACL act at the creation, so what replaces a whiteout is
    /// created in a stand-in for its parent. `None` where the parent hands nothing on.
    pub(super) fn stand_in(&self, parent: &Dir) -> SysResult<Option<(Temporary<'_>, Dir)>> {
        let (stat, acl) = handed_on(parent)?;
        if stat.st_mode & 0o2000 == 0 && acl.is_none() {
            return Ok(None);
        }
        let temporary = self.temporary();
        self.work.make_dir(temporary.name(), 0o700)?;
        let dir = self.work.child(temporary.name())?;
        if stat.st_mode & 0o2000 != 0 {
            rustix::fs::fchown(&dir, None, crate::sys::dir::group(stat.st_gid))?;
            rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(0o2700))?;
        }
        if let Some(acl) = acl {
            xattr::set(Target::open(&dir), DEFAULT_ACL, &acl)?;
        }
        Ok(Some((temporary, dir)))
    }

    /// Whether a directory hands something on, so that there is a [stand-in](Self::stand_in) for it.
    pub(super) fn hands_on(&self, parent: &Dir) -> SysResult<bool> {
        let (stat, acl) = handed_on(parent)?;
        Ok(stat.st_mode & 0o2000 != 0 || acl.is_some())
    }

    /// Creates a regular file of no name, in a stand-in for where it is to be if there is one;
    /// `None` where the file system cannot do that.
    pub(super) fn open_unnamed(&self, inside: Option<&Dir>, mode: u32) -> SysResult<Option<File>> {
        if !self.has_unnamed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let dir = inside.unwrap_or(&self.work);
        match dir.open(b".", OFlags::TMPFILE | OFlags::RDWR, mode) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                self.has_unnamed.store(false, Ordering::Relaxed);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// The same under a temporary name, opened with these flags.
    pub(super) fn open_temporary(
        &self,
        inside: Option<&Dir>,
        flags: OFlags,
        mode: u32,
    ) -> SysResult<(File, Temporary<'_>)> {
        let temporary = self.temporary();
        let Some(inside) = inside else {
            return Ok((self.work.open(temporary.name(), flags, mode)?, temporary));
        };
        let file = inside.open(b"new", flags, mode)?;
        inside.rename(b"new", &self.work, temporary.name(), RenameFlags::empty())?;
        Ok((file, temporary))
    }
}

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What a directory hands on to what is created in it: by a set-group-ID bit in its status its
/// group, and an ACL.
fn handed_on(parent: &Dir) -> SysResult<(Stat, Option<Vec<u8>>)> {
    Ok((parent.stat_self()?, xattr::get(Target::Name(parent, b"."), DEFAULT_ACL)?))
}

/// Whether a directory is `outer`, or lies in it.
fn is_inside(dir: &Dir, outer: &Dir) -> SysResult<bool> {
    let identity = |dir: &Dir| dir.stat_self().map(|stat| (stat.st_dev, stat.st_ino));
    let sought = identity(outer)?;
    let mut at = identity(dir)?;
    let mut up = dir.child_as_path(b"..")?;
    while at != sought {
        let parent = identity(&up)?;
        if parent == at {
            return Ok(false);
        }
        at = parent;
        up = match up.child_as_path(b"..") {
            Ok(up) => up,
            // What may not be searched is above what both were opened from.
            Err(Errno::ACCESS) => return Ok(false),
            Err(error) => return Err(error),
        };
    }
    Ok(true)
}
