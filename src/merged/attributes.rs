//! Changes of attributes, and who may change what.

use std::sync::Arc;

use rustix::fs::{Access, FileType, OFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use super::Core;
use super::copy_up::Data;
use super::node::{Access as Held, Node, Real};
use super::ownership::{mode_after_chown, real_kind};
use super::rename::{End, RenameMode};
use crate::format::override_stat;
use crate::sys::dir::{self, SysResult};
use crate::sys::inode_io;

/// Whether the process has the privileges of root, at least over what its user namespace can express.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether there is nothing that the process may not do, so that nothing need be asked. Of others
/// it is asked first: the kernel's checks, which come with the operations on the upper layer, come
/// too late to keep what the process may not do from being copied up.
pub(super) fn may_do_all() -> bool {
    use std::sync::OnceLock;
    static ALL_IDS: OnceLock<bool> = OnceLock::new();
    let has_all = || {
        let map = read_proc("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace().eq(["0", "0", "4294967295"])
    };
    is_root() && *ALL_IDS.get_or_init(has_all)
}

impl Core {
    /// Sets the permission bits.
    ///
    /// # Errors
    /// EOPNOTSUPP for a symlink; EPERM for who does not own the file.
    pub(super) fn chmod(&self, node: &Arc<Node>, mode: u32) -> SysResult<()> {
        self.upper()?;
        if real_kind(&node.real()) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        self.must_own(node)?;
        // What is recorded is changed by itself.
        let at_once = !self.records_owners() && !node.is_directory();
        let data = if at_once { Data::WithMode(mode & 0o7777) } else { Data::Whole };
        if self.copy_up(node, data)? && at_once {
            return Ok(());
        }
        node.set_searched(false);
        let mode = if self.change_record(node, |record| record.mode = mode & 0o7777)? {
            // Else a diff took the record for one that a kernel mount left behind.
            override_stat::mode_on_disk(mode, node.is_directory())
        } else {
            mode & 0o7777
        };
        inode_io::chmod(node.real().target()?, mode)
    }

    /// Sets the owner; `None` leaves it.
    pub(super) fn chown(
        &self,
        node: &Arc<Node>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> SysResult<()> {
        self.upper()?;
        if !may_do_all() && !self.records_owners() {
            self.may_give_away(node, uid, gid)?;
        }
        let expressible = is_mapped("uid", uid) && is_mapped("gid", gid);
        if !expressible && !self.records_owners() {
            return Err(Errno::INVAL);
        }
        self.copy_up(node, Data::Whole)?;
        node.set_searched(false);
        let is_directory = node.is_directory();
        let recorded = self.change_record(node, |record| {
            record.uid = uid.unwrap_or(record.uid);
            record.gid = gid.unwrap_or(record.gid);
            record.mode = mode_after_chown(record.mode, is_directory);
        })?;
        let real = node.real();
        let target = real.target()?;
        if !recorded {
            let stat = real.stat()?;
            let mode = mode_after_chown(stat.st_mode & 0o7777, is_directory);
            let ids = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
            match self.set_owner_or_record(target, &stat, ids.0, ids.1, mode) {
                Ok(true) => {}
                Err(Errno::OVERFLOW) => return Err(Errno::INVAL),
                other => return other.map(|_| ()),
            }
        }
        // What else a change of owner takes away: a capability.
        inode_io::chown(target, u32::MAX, u32::MAX)
    }

    /// Sets the times.
    ///
    /// # Errors
    /// EPERM for who does not own the file; EACCES where both are to be now, which who may write
    /// to the file may do too.
    pub(super) fn set_times(&self, node: &Arc<Node>, times: &Timestamps) -> SysResult<()> {
        self.upper()?;
        let is_now = |time: &Timespec| time.tv_nsec == UTIME_NOW;
        let touches = is_now(&times.last_access) && is_now(&times.last_modification);
        match self.must_own(node) {
            Err(Errno::PERM) if touches => self.must_be_able(node, Access::WRITE_OK)?,
            other => other?,
        }
        self.copy_up(node, Data::Whole)?;
        inode_io::set_timestamps(node.real().target()?, times)
    }

    /// Cuts or extends a file.
    ///
    /// # Errors
    /// EISDIR; EINVAL for what is no regular file.
    pub(super) fn truncate(&self, node: &Arc<Node>, length: u64) -> SysResult<()> {
        let length = i64::try_from(length).map_err(|_| Errno::INVAL)?;
        match real_kind(&node.real()) {
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::RegularFile => {}
            _ => return Err(Errno::INVAL),
        }
        self.upper()?;
        self.must_be_able(node, Access::WRITE_OK)?;
        let length = u64::try_from(length).unwrap_or(0);
        // The kernel copies what it is about to throw away.
        let cuts = length == 0 && !self.is_whole_upper(node)? && node.real().stat()?.st_size != 0;
        let is_cut = self.copy_up(node, if cuts { Data::Nothing } else { Data::Whole })?;
        match node.real() {
            _ if is_cut => Ok(()),
            real if !cuts => inode_io::truncate(real.held()?, length),
            // Empty already, so another call would not count as a change.
            Real::File(file) if file.access == Held::ReadWrite => {
                rustix::fs::ftruncate(&*file.held, length)
            }
            real => rustix::fs::ftruncate(dir::reopen(real.held()?, OFlags::WRONLY)?, length),
        }
    }

    /// Fails where the process may not use a node in this way.
    pub(super) fn must_be_able(&self, node: &Node, access: Access) -> SysResult<()> {
        if may_do_all() {
            return Ok(());
        }
        inode_io::may(node.real().held()?, access)
    }

    /// Fails where the process may not look names up in a directory. What is alive would be found
    /// without asking the kernel, so it is asked once, and again when permissions have changed.
    pub(super) fn may_search(&self, dir: &Node) -> SysResult<()> {
        if !dir.was_searched() {
            self.must_be_able(dir, Access::EXEC_OK)?;
            dir.set_searched(true);
        }
        Ok(())
    }

    /// Fails where the process may not change names in a directory.
    pub(super) fn may_change(&self, dir: &Node) -> SysResult<()> {
        self.must_be_able(dir, Access::WRITE_OK | Access::EXEC_OK)
    }

    /// Fails where a sticky directory keeps a name from the process.
    pub(super) fn may_delete(
        &self,
        dir: &Node,
        stat: impl FnOnce() -> SysResult<Stat>,
    ) -> SysResult<()> {
        if may_do_all() {
            return Ok(());
        }
        let parent = dir.real().stat()?;
        if parent.st_mode & 0o1000 == 0 || owns(&parent) {
            return Ok(());
        }
        let stat = stat()?;
        if owns(&stat) || has_rights_over(&stat) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Whether a directory is sticky, and somebody else's.
    pub(super) fn is_anothers_sticky(&self, dir: &Node) -> SysResult<bool> {
        if may_do_all() {
            return Ok(false);
        }
        let stat = dir.real().stat()?;
        Ok(stat.st_mode & 0o1000 != 0 && !is_owner_or_root(&stat))
    }

    pub(super) fn may_rename(
        &self,
        old: &End,
        new: &End,
        source: &Node,
        target: Option<&Arc<Node>>,
    ) -> SysResult<()> {
        self.may_change(&old.dir)?;
        self.may_delete(&old.dir, || source.real().stat())?;
        self.may_change(&new.dir)?;
        target.map_or(Ok(()), |target| self.may_delete(&new.dir, || target.real().stat()))
    }

    /// Fails where a directory that moves to another parent may not get another `..`.
    pub(super) fn may_change_parents(
        &self,
        old: &End,
        new: &End,
        source: &Node,
        target: Option<&Arc<Node>>,
        mode: RenameMode,
    ) -> SysResult<()> {
        if old.dir.id == new.dir.id {
            return Ok(());
        }
        let exchanged = target.filter(|_| mode == RenameMode::Exchange).map(|node| &**node);
        let moved = [Some(source), exchanged].into_iter().flatten();
        moved
            .filter(|node| node.is_directory())
            .try_for_each(|node| self.must_be_able(node, Access::WRITE_OK))
    }

    /// Fails for a file of somebody else that the process may not read and write, or that has the
    /// owner's rights when it is run, where the machine protects those (`protected_hardlinks`).
    pub(super) fn may_link(&self, node: &Node) -> SysResult<()> {
        let stat = node.real().stat()?;
        if may_do_all() || is_owner_or_root(&stat) {
            return Ok(());
        }
        let takes_rights = stat.st_mode & 0o4000 != 0 || stat.st_mode & 0o2010 == 0o2010;
        let is_safe = dir::type_of(&stat) == FileType::RegularFile
            && !takes_rights
            && self.must_be_able(node, Access::READ_OK | Access::WRITE_OK).is_ok();
        if is_safe || !is_set("/proc/sys/fs/protected_hardlinks") {
            return Ok(());
        }
        Err(Errno::PERM)
    }

    /// Without privilege an owner can do no more than change the group to one of its own.
    fn may_give_away(&self, node: &Node, uid: Option<u32>, gid: Option<u32>) -> SysResult<()> {
        let stat = node.real().stat()?;
        if has_rights_over(&stat) {
            return Ok(());
        }
        self.must_own(node)?;
        let in_group = |gid: u32| {
            gid == stat.st_gid
                || gid == rustix::process::getegid().as_raw()
                || rustix::process::getgroups()
                    .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
        };
        let keeps_owner = uid.is_none_or(|uid| uid == stat.st_uid);
        if keeps_owner && gid.is_none_or(in_group) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Fails for who does not own a node.
    pub(super) fn must_own(&self, node: &Node) -> SysResult<()> {
        if may_do_all() || is_owner_or_root(&node.real().stat()?) {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }
}

/// Whether the process's user namespace can express an id, of which `kind` is `uid` or `gid`: the
/// kernel asks that before it looks at the file.
pub(super) fn is_mapped(kind: &str, id: Option<u32>) -> bool {
    let Some(id) = id.filter(|id| *id != u32::MAX) else { return true };
    let Some(text) = read_proc(&format!("/proc/self/{kind}_map")) else { return true };
    text.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

/// Whether a setting of the machine is on.
fn is_set(path: &str) -> bool {
    read_proc(path).is_some_and(|text| text.trim() != "0")
}

/// What the kernel tells in a file of `/proc`.
fn read_proc(path: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).ok()?;
    Some(text)
}

/// Whether the process has root's rights over a file: its user namespace must know both ids.
pub(super) fn has_rights_over(stat: &Stat) -> bool {
    is_root() && is_known("uid", stat.st_uid) && is_known("gid", stat.st_gid)
}

/// As the kernel asks where only the owner may do something (`inode_owner_or_capable`).
fn is_owner_or_root(stat: &Stat) -> bool {
    owns(stat) || (is_root() && is_known("uid", stat.st_uid))
}

/// Whether an id is a file's own, and not what stands for all that cannot be expressed.
fn is_known(kind: &str, id: u32) -> bool {
    const OVERFLOW: u32 = 65_534;
    id != OVERFLOW || is_mapped(kind, Some(id))
}

fn owns(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}
