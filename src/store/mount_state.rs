//! What is written down of a container's mounts, beside its record.
//!
//! None of it is synced: it tells of this boot of the machine, and a later one knows by the boot ID
//! that it is over.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Store;
use super::container::ContainerLock;
use super::layout::{CONTAINERS, MOUNT_FILE, Object, UNSYNCED_FILE};
use super::record::{self, ContainerRecord, MountState};
use crate::error::{Context, ErrorKind, Result};
use crate::sys::dir::SysResult;

impl ContainerLock {
    /// Writes down where it is mounted, or that it is not.
    ///
    /// Nothing is synced: what is written is true until the machine stops, and not after it.
    ///
    /// # Errors
    /// As the operating system has them; what was written before is unchanged then.
    pub fn set_mount(&mut self, mount: Option<MountState>) -> Result<()> {
        match &mount {
            Some(state) => self.write_mount(state)?,
            None => self.forget(MOUNT_FILE)?,
        }
        self.record.mount = mount;
        Ok(())
    }

    /// Writes down that it is not mounted any more, and that what a `volatile` mount left is not
    /// synced: what was known of the mount is that of the unsynced files now.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn unmounted_unsynced(&mut self) -> Result<()> {
        let dir = self.dir();
        let renamed = dir.rename(MOUNT_FILE, dir, UNSYNCED_FILE, RenameFlags::empty());
        self.written(UNSYNCED_FILE, renamed)?;
        self.record.mount = None;
        Ok(())
    }

    /// Writes down that its files are synced.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn set_synced(&self) -> Result<()> {
        self.forget(UNSYNCED_FILE)
    }

    fn write_mount(&self, state: &MountState) -> Result<()> {
        let dir = self.dir();
        let bytes = record::to_bytes(state).during("write", MOUNT_FILE)?;
        // Who reads half a record takes the mount for one that is gone, as it is right before it is
        // made, and where its maker died.
        match record::create(dir, MOUNT_FILE, &bytes) {
            Ok(_) => Ok(()),
            Err(Errno::EXIST) => self
                .store
                .replace_unsynced(dir, MOUNT_FILE, &bytes)
                .map_err(|error| error.within(format_args!("container {}", self.record.name))),
            Err(error) => {
                // Half a record; but one that was there before stays.
                if self.record.mount.is_none() {
                    let _ = dir.remove_file(MOUNT_FILE);
                }
                self.written(MOUNT_FILE, Err(error))
            }
        }
    }

    fn forget(&self, name: &[u8]) -> Result<()> {
        match self.dir().remove_file(name) {
            Err(Errno::NOENT) => Ok(()),
            other => self.written(name, other),
        }
    }

    fn written(&self, name: &[u8], result: SysResult<()>) -> Result<()> {
        let (id, name) = (self.record.id.to_string(), String::from_utf8_lossy(name));
        result.during("write", &self.store.at(&[CONTAINERS, &id, &name]))
    }
}

impl Store {
    /// The last `volatile` mount of a container, where what it wrote was not synced since.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn unsynced(&self, container: &ContainerRecord) -> Result<Option<MountState>> {
        torn_means_gone(self.read_record(Object::Container(container.id), UNSYNCED_FILE))
    }
}

/// What is written of a mount is not synced: a power cut may have torn it, and says by that alone
/// that the mount was one of an earlier boot.
pub(super) fn torn_means_gone(read: Result<Option<MountState>>) -> Result<Option<MountState>> {
    match read {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(MountState::default())),
        other => other,
    }
}
