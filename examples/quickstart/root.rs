//! A container's root directory, however this process can reach it.

use std::fs::Permissions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use overlay2::mount::MountOptions;
use overlay2::{ContainerTree, Driver};

use crate::Result;

/// Who merges the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merging {
    /// The kernel's overlayfs, in a mount.
    Kernel,
    /// This library, without any mount.
    Userspace,
}

/// A container's root directory; what was mounted for it is unmounted when this is dropped.
#[derive(Debug)]
pub(crate) enum Root<'a> {
    /// Mounted by the kernel: an ordinary directory.
    Mounted(Mount<'a>),
    /// The same tree in userspace.
    Tree(Box<ContainerTree>),
}

/// A mounted container.
#[derive(Debug)]
pub(crate) struct Mount<'a> {
    driver: &'a Driver,
    container: &'a str,
    target: PathBuf,
}

impl<'a> Root<'a> {
    /// Makes the container's merged tree reachable.
    pub(crate) fn open(driver: &'a Driver, container: &'a str, merging: Merging) -> Result<Self> {
        if merging == Merging::Userspace {
            return Ok(Self::Tree(Box::new(driver.tree(container)?)));
        }
        let point = driver.mount(container, None, &MountOptions::default())?;
        Ok(Self::Mounted(Mount { driver, container, target: point.target }))
    }

    /// The text of a file; `None` where there is no such file.
    pub(crate) fn read(&self, path: &str) -> Result<Option<String>> {
        if !self.exists(path)? {
            return Ok(None);
        }
        let mut text = String::new();
        match self {
            Self::Mounted(mount) => text = std::fs::read_to_string(mount.target.join(path))?,
            Self::Tree(tree) => {
                tree.tree().read(path)?.as_slice().read_to_string(&mut text)?;
            }
        }
        Ok(Some(text))
    }

    /// Adds text at the end of a file, which is created where there is none.
    pub(crate) fn append(&self, path: &str, text: &str) -> Result<()> {
        match self {
            Self::Mounted(mount) => {
                let mut options = std::fs::OpenOptions::new();
                let path = mount.target.join(path);
                options.append(true).create(true).open(path)?.write_all(text.as_bytes())?;
            }
            Self::Tree(tree) => {
                let mut options = overlay2::merged::OpenOptions::new();
                options.append(true).create(true).mode(0o644);
                tree.tree().open_with(path, &options)?.write_all(text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Sets a file's permission bits.
    pub(crate) fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        match self {
            Self::Mounted(mount) => {
                std::fs::set_permissions(mount.target.join(path), Permissions::from_mode(mode))?;
            }
            Self::Tree(tree) => tree.tree().set_permissions(path, mode)?,
        }
        Ok(())
    }

    /// A file's permission bits.
    pub(crate) fn mode(&self, path: &str) -> Result<u32> {
        Ok(0o7777
            & match self {
                Self::Mounted(mount) => {
                    std::fs::metadata(mount.target.join(path))?.permissions().mode()
                }
                Self::Tree(tree) => tree.tree().metadata(path)?.mode(),
            })
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        match self {
            Self::Mounted(mount) => std::fs::remove_file(mount.target.join(path))?,
            Self::Tree(tree) => tree.tree().remove_file(path)?,
        }
        Ok(())
    }

    /// Whether there is such a file.
    pub(crate) fn exists(&self, path: &str) -> Result<bool> {
        match self {
            Self::Mounted(mount) => match std::fs::symlink_metadata(mount.target.join(path)) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error.into()),
            },
            Self::Tree(tree) => Ok(tree.tree().exists(path)),
        }
    }

    /// The names in a directory, sorted.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        match self {
            Self::Mounted(mount) => {
                for entry in std::fs::read_dir(mount.target.join(path))? {
                    names.push(entry?.file_name().to_string_lossy().into_owned());
                }
            }
            Self::Tree(tree) => {
                let entries = tree.tree().read_dir(path)?;
                names.extend(entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // A mount that cannot be taken away now is refused by whatever removes the container.
        let _ = self.driver.unmount(self.container);
    }
}
