//! Quotas of containers: each has a project of its own, by which the file system counts.

use rustix::io::Errno;
use serde::Serialize;

use super::Store;
use super::container::ContainerLock;
use super::layout::{CONTAINERS, UPPER, WORK};
use super::record::ContainerRecord;
use super::staging::Staged;
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::quota::Quota;
use crate::sys::quota::{self, Counted};
use crate::sys::random;

/// Below are those that people give in /etc/projid.
const FIRST_PROJECT: u32 = 1 << 24;
const LAST_PROJECT: u32 = i32::MAX.unsigned_abs();

/// How many are tried before none counts as free.
const ATTEMPTS: usize = 10_000;

/// What a container with a quota holds, and what it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaUse {
    /// Bytes of the blocks that its files occupy.
    pub bytes: u64,
    /// Its inodes.
    pub inodes: u64,
    /// The limits that the file system keeps it to.
    pub limits: Quota,
}

impl Quota {
    /// Holds root to the quotas of what it writes through the userspace tree on ext4, too: the calling
    /// thread, and those that it starts from then on, give up the capability `CAP_SYS_RESOURCE`, with
    /// which one may write beyond each. A mount does that by itself.
    ///
    /// ```
    /// // Before a tree of a container with a quota is written to.
    /// overlay2::Quota::hold_this_thread()?;
    /// # Ok::<(), overlay2::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `capset(2)`, which refuses nobody this.
    pub fn hold_this_thread() -> Result<()> {
        quota::give_up_reserves().during("give up", "CAP_SYS_RESOURCE")
    }
}

impl Store {
    /// A project for a container with limits: one that the file system has counted nothing for and
    /// limits in nothing, nobody's, whoever else uses projects there.
    pub(super) fn new_project(&self, limits: &Quota) -> Result<Option<u32>> {
        if limits.is_unlimited() {
            return Ok(None);
        }
        self.quotas_enforced()?;
        for _ in 0..ATTEMPTS {
            let project = u32::from_ne_bytes(random::bytes().during("read", "random bytes")?);
            let project = project & LAST_PROJECT;
            if project >= FIRST_PROJECT && self.counted(project)? == Counted::default() {
                return Ok(Some(project));
            }
        }
        let message = format!("no project is free on the file system of {}", self.path().display());
        Err(Error::new(ErrorKind::LimitExceeded, message))
    }

    fn quotas_enforced(&self) -> Result<()> {
        let enforced = quota::is_enforced(self.top(CONTAINERS));
        if enforced.during("ask for quotas at", &self.at(&[CONTAINERS]))? {
            return Ok(());
        }
        let message =
            format!("the file system of {} does not keep project quotas", self.path().display());
        Err(Error::new(ErrorKind::Unsupported, message).hint(
            "XFS and ext4 do, mounted with prjquota (Linux 5.14); ext4 after tune2fs -O project,quota",
        ))
    }

    fn counted(&self, project: u32) -> Result<Counted> {
        let counted = quota::counted(self.top(CONTAINERS), project);
        counted.map_err(|error| refused(error, "ask for the quota at", &self.at(&[CONTAINERS])))
    }

    /// Sets the limits of a container that has a project.
    pub(super) fn limit_project(&self, record: &ContainerRecord, limits: &Quota) -> Result<()> {
        let Some(project) = record.project else { return Ok(()) };
        let set = quota::set_limits(self.top(CONTAINERS), project, limits);
        set.map_err(|error| refused(error, "set quota of container", &record.name))
    }

    /// Takes the limits off the project of a container that is no more. What is left of its files
    /// counts for a project that means nothing, until they are deleted.
    pub(super) fn lift_quota(&self, record: &ContainerRecord) -> Result<()> {
        if record.project.is_none() || self.quotas_enforced().is_err() {
            return Ok(());
        }
        self.limit_project(record, &Quota::default())
    }

    /// Changes what a container may hold that was made with a quota; it may be mounted.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where it was made without, or the file system does not keep quotas
    /// any more; [`ErrorKind::PermissionDenied`] for others than root.
    pub fn set_quota(&self, record: &ContainerRecord, limits: &Quota) -> Result<()> {
        if record.project.is_none() {
            let message = format!("container {} was made without a quota", record.name);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("make one with a quota: what is written counts from the beginning"));
        }
        self.quotas_enforced()?;
        self.limit_project(record, limits)
    }

    /// What a container with a quota holds, without looking at its files; `None` for one without, and
    /// where the file system does not count any more.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] for others than root.
    pub fn quota_use(&self, record: &ContainerRecord) -> Result<Option<QuotaUse>> {
        let Some(project) = record.project else { return Ok(None) };
        if self.quotas_enforced().is_err() {
            return Ok(None);
        }
        let Counted { bytes, inodes, limits } = self.counted(project)?;
        Ok(Some(QuotaUse { bytes, inodes, limits }))
    }
}

/// An error with what would help.
fn refused(error: Errno, doing: &str, subject: &(impl Subject + ?Sized)) -> Error {
    let refused = Error::os(error, doing, subject);
    match error {
        Errno::PERM => refused.hint("quotas are a matter of root, outside of user namespaces"),
        _ => refused,
    }
}

impl ContainerLock {
    /// Fails where the container was made with a quota that it is not kept to: the file system is
    /// mounted without, or the store was copied to another.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`].
    pub fn require_quota(&self) -> Result<()> {
        let ContainerRecord { name, project: Some(project), .. } = self.record() else {
            return Ok(());
        };
        let enforced = self.store.quotas_enforced();
        enforced.map_err(|error| error.within(format_args!("container {name} has a quota")))?;
        for dir in [self.upper()?, self.work()?] {
            let own = quota::project_of(&dir);
            if own.during("ask for the project of", "directory of a container")? != Some(*project) {
                let message = format!(
                    "container {name} has a quota, but its files do not belong to project {project}"
                );
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .hint("it was copied: take out what is needed, and make a new one"));
            }
        }
        Ok(())
    }
}

impl ContainerRecord {
    /// Makes the directories of a container that is being made, which are empty, and all that will
    /// be made in them a part of its project.
    pub(super) fn assign_to_project(&self, staged: &Staged) -> Result<()> {
        let Some(project) = self.project else { return Ok(()) };
        for name in [UPPER, WORK] {
            let dir = staged.dir().child(name);
            let assigned = dir.and_then(|dir| quota::assign(&dir, project));
            assigned.during("give to a project", &staged.shown(name))?;
        }
        Ok(())
    }
}
