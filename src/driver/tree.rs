//! Containers read and changed in userspace, where nothing can be mounted or need be; images read.

use super::Driver;
use super::compose::{Kept, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::merged::{Options, Ownership, Redirects, Tree};
use crate::namespace::Namespace;
use crate::store::ContainerLock;

/// A container's tree in userspace, for whoever holds this and for nobody else: while it lives, the
/// container is not mounted, opened again or removed by anybody.
#[derive(Debug)]
pub struct ContainerTree {
    tree: Tree,
    _lock: ContainerLock,
}

impl ContainerTree {
    /// The tree. A clone of it that outlives this is no longer protected from a mount of the
    /// container.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

/// The tree of a container or an image, to be read; nobody is kept from anything meanwhile.
#[derive(Debug)]
pub struct ReadTree {
    tree: Tree,
    _kept: Kept,
}

impl ReadTree {
    /// The tree. A clone of it that outlives this is no longer protected from the removal of what
    /// it shows.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl Driver {
    /// Opens the merged tree of a container or an image to be read: by its name or ID, or of a stack
    /// by its chain ID. Neither privilege nor a mount is needed.
    ///
    /// A container may be mounted meanwhile: what is read is what lies in its directories at that
    /// moment, as the kernel's mount shows it. Directories that were looked into are remembered, so
    /// whoever wants to see later changes of others opens the tree again. Nor does this wait for
    /// whoever holds the container.
    ///
    /// As in a mount, redirects are not followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such container or
    /// image.
    pub fn read_tree(&self, name: &str) -> Result<ReadTree> {
        let named = self.find(name)?;
        let open = || {
            let Opened { layers, kept } = self.open_whole(&named)?;
            let tree = Tree::read_only(layers, &self.tree_options())?.with_ids(self.ids());
            Ok(ReadTree { tree, _kept: kept })
        };
        open().map_err(|error: Error| error.within(format_args!("open tree of {name}")))
    }

    /// Whether a container, an image or a stack of layers has that name or ID.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it is the beginning of several IDs.
    pub fn has(&self, name: &str) -> Result<bool> {
        match self.find(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tree_options(&self) -> Options {
        // What a plain user recorded is shown in a user namespace too, where most can be set exactly.
        let ownership = match self.store.namespace() {
            Namespace::User => Ownership::Recorded,
            Namespace::Trusted => self.ownership,
        };
        Options::new(self.store.namespace())
            .redirects(Redirects::Refuse)
            .durability(self.store.durability())
            .ownership(ownership)
    }

    /// Opens a container's merged tree in userspace: neither privilege nor a mount is needed, and
    /// what is changed lies in the UpperDir as though the container had been mounted.
    ///
    /// As in a mount of the container, redirects are neither followed nor written. Where owners and
    /// modes of the layers are recorded in an attribute, so are those that are set here; a mount by
    /// the kernel does not look at that attribute.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`](crate::ErrorKind::InUse) where it is mounted, or another process is busy
    /// with it; [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) where it was mounted `volatile`
    /// when the machine went down.
    pub fn tree(&self, container: &str) -> Result<ContainerTree> {
        let mut lock = match self.lock(container) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.has(container)? => {
                let message = format!("{container} is no container, and nothing else is changed");
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .hint(format!("make a container of it: overlay2 create {container}")));
            }
            lock => lock?,
        };
        self.refuse_mounted(&mut lock)?;
        let tree = self
            .tree_locked(&lock)
            .map_err(|error| error.within(format_args!("open tree of container {container}")))?;
        Ok(ContainerTree { tree, _lock: lock })
    }

    fn tree_locked(&self, lock: &ContainerLock) -> Result<Tree> {
        let (upper, work) = (lock.upper()?, lock.work()?);
        self.refuse_torn(lock.record(), &work)?;
        lock.require_quota()?;
        let composed = self.compose(lock.record().chain.as_ref())?;
        let tree = Tree::writable(self.open_layers(&composed)?, upper, work, &self.tree_options())?;
        Ok(tree.with_ids(self.ids()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::changeset::View;
    use crate::driver::Base;
    use crate::mount::MountOptions;
    use crate::watch::Watch;

    /// A store with one layer, `kept`, `changed`, `private` and `gone`, and a container `c` on it.
    fn driver(scratch: &std::path::Path) -> Driver {
        let driver = Driver::open(scratch.join("store")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for name in ["changed", "gone", "kept", "private"] {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_size(3);
            tar.append_data(&mut header, name, &b"old"[..]).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let layer = driver.apply(None, tar.as_slice(), Watch::new()).unwrap();
        driver.create(&Base::Chain(layer.chain_id), Some("c")).unwrap();
        driver
    }

    fn change(tree: &Tree) {
        tree.write("added", b"new").unwrap();
        tree.write("changed", b"newer").unwrap();
        tree.set_permissions("private", 0o600).unwrap();
        tree.remove_file("gone").unwrap();
    }

    fn changes(driver: &Driver) -> Vec<String> {
        let changes = driver.changes("c", View::Kernel, Watch::new()).unwrap();
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_changed_in_the_tree_is_the_containers_change() {
        let scratch = tempfile::tempdir().unwrap();
        let driver = driver(scratch.path());
        let held = driver.tree("c").unwrap();
        assert_eq!(held.tree().read("kept").unwrap(), b"old");
        change(held.tree());
        drop(held);
        assert_eq!(changes(&driver), ["A /added", "C /changed", "D /gone", "C /private"]);
        // It is still so for who opens it again.
        let held = driver.tree("c").unwrap();
        assert_eq!(held.tree().read("changed").unwrap(), b"newer");
        assert_eq!(held.tree().metadata("private").unwrap().mode() & 0o7777, 0o600);
        assert!(!held.tree().exists("gone"));
    }

    #[test]
    fn a_mode_that_is_recorded_is_the_one_that_a_diff_tells() {
        let scratch = tempfile::tempdir().unwrap();
        let mut driver = driver(scratch.path());
        driver.ownership = crate::Ownership::Recorded;
        let held = driver.tree("c").unwrap();
        let tree = held.tree();
        // What lies below has the same record then, but not the same mode on disk.
        tree.remove_file("kept").unwrap();
        let mut options = crate::merged::OpenOptions::new();
        drop(tree.open_with("kept", options.write(true).create_new(true).mode(0o600)).unwrap());
        tree.lchown("kept", Some(0), Some(0)).unwrap();
        tree.set_permissions("kept", 0o644).unwrap();
        drop(held);
        let mut tar = Vec::new();
        driver.diff("c", &mut tar, &Default::default(), Watch::new()).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut entries = archive.entries().unwrap().map(|entry| entry.unwrap());
        let kept = entries.find(|entry| *entry.path_bytes() == b"kept"[..]).unwrap();
        assert_eq!(kept.header().mode().unwrap(), 0o644);
    }

    #[test]
    fn nobody_else_has_the_container_meanwhile() {
        let scratch = tempfile::tempdir().unwrap();
        let driver = driver(scratch.path());
        let held = driver.tree("c").unwrap();
        let refused = [
            driver.tree("c").map(drop),
            driver.mount("c", None, &MountOptions::default()).map(drop),
            driver.mount_detached("c", &MountOptions::default()).map(drop),
            driver.remove_container("c", Watch::new()),
        ];
        for refused in refused {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::InUse);
        }
        drop(held);
        driver.remove_container("c", Watch::new()).unwrap();
        assert_eq!(driver.tree("c").unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// What was mounted, if this process may mount.
    fn if_permitted<T>(test: &str, mounted: crate::Result<T>) -> Option<T> {
        match mounted {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                eprintln!("SKIP {test}: {error}");
                assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
                None
            }
            other => Some(other.unwrap()),
        }
    }

    #[test]
    fn a_view_keeps_its_layers() {
        let scratch = tempfile::tempdir().unwrap();
        let driver = driver(scratch.path());
        driver.remove_container("c", Watch::new()).unwrap();
        let layers = driver.layers().unwrap();
        let base = crate::Base::Chain(layers[0].chain_id);
        let Some(view) = if_permitted("a_view_keeps_its_layers", driver.view(&base)) else {
            return;
        };
        let removed = driver.remove_layer(&layers[0].chain_id, Watch::new());
        driver.empty_trash(Watch::new()).unwrap();
        assert_eq!(view.root().entries().unwrap().len(), 4, "{removed:?}");
        drop(view);
        if removed.is_err() {
            driver.remove_layer(&layers[0].chain_id, Watch::new()).unwrap();
        }
        driver.empty_trash(Watch::new()).unwrap();
        assert!(driver.layers().unwrap().is_empty());
    }

    #[test]
    fn a_mount_shows_what_the_tree_showed_and_keeps_it_away() {
        let scratch = tempfile::tempdir().unwrap();
        let driver = driver(scratch.path());
        change(driver.tree("c").unwrap().tree());
        let test = "a_mount_shows_what_the_tree_showed_and_keeps_it_away";
        let mounted = driver.mount_detached("c", &MountOptions::default());
        let Some(mounted) = if_permitted(test, mounted) else { return };
        assert_eq!(driver.tree("c").unwrap_err().kind(), ErrorKind::InUse);
        let root = mounted.root();
        let mut text = String::new();
        let mut file = root.open(b"changed", rustix::fs::OFlags::RDONLY, 0).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "newer");
        if driver.ownership == crate::Ownership::Exact {
            // A record is not what the kernel looks at.
            assert_eq!(root.stat(b"private").unwrap().st_mode & 0o7777, 0o600);
        }
        assert!(root.stat_if_exists(b"gone").unwrap().is_none());
        drop(mounted);
        assert!(driver.tree("c").unwrap().tree().exists("added"));
    }

    #[test]
    fn a_container_of_nothing_is_an_empty_tree() {
        let scratch = tempfile::tempdir().unwrap();
        let driver = Driver::open(scratch.path().join("store")).unwrap();
        let new = crate::store::NewContainer {
            name: Some("c"),
            base: crate::store::ContainerBase::Empty,
            upper_mode: 0o755,
            volatile: false,
            quota: crate::Quota::default(),
        };
        drop(driver.store.create_container(&new).unwrap());
        let held = driver.tree("c").unwrap();
        held.tree().create_dir("new", 0o755).unwrap();
        drop(held);
        assert_eq!(changes(&driver), ["A /new"]);
    }
}
