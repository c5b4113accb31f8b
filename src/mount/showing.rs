//! Which mounts show a layer, whoever made them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use crate::sys::mount_namespaces::{self, MountNamespace};
use crate::sys::mountinfo::{self, MountInfo};
use crate::sys::statmount;

/// A mount that shows a directory.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Showing {
    /// Where it is mounted.
    pub target: PathBuf,
    /// The inode of the mount namespace that it is in, where that is not the caller's.
    pub namespace: Option<u64>,
    /// A process in that namespace; `None` where the caller finds none, as in one that is held open
    /// alone.
    pub process: Option<u32>,
    /// The one of the names asked for that it shows.
    pub name: String,
}

/// The first mount that shows one of the directories `names` in the directory `parent`, or what is
/// beneath it: an overlay with such a layer, or a bind mount.
///
/// Mounts in other namespaces count too, as far as the caller may look into them. Those with an UpperDir
/// or a mount point beneath `own` do not count: a namespace takes copies of them along that is made
/// while they are there. Where `/proc` is not mounted, nothing is found.
pub fn showing(parent: &Path, names: &HashSet<String>, own: &Path) -> Option<Showing> {
    let canonical = std::fs::canonicalize(parent).ok()?;
    let parent = canonical.as_path();
    let own = std::fs::canonicalize(own).unwrap_or_else(|_| own.to_owned());
    let here = mountinfo::read(None).ok()?;
    let inside = Inside::of(parent, &here);
    let find = |mounts: Vec<MountInfo>, seen_by: &SeenBy| {
        mounts.into_iter().filter(|info| !is_own(info, &own)).find_map(|info| {
            let bound = inside.as_ref().and_then(|inside| inside.name_in(&info, names));
            let name = bound.or_else(|| layer_of(&info, seen_by, parent, names))?.clone();
            let (namespace, process) = seen_by.names();
            Some(Showing { target: info.target, namespace, process, name })
        })
    };
    find(here, &SeenBy::Caller).or_else(|| match mount_namespaces::others() {
        Some(mut others) => others.find_map(|other| {
            let mounts = statmount::mounts_of(&other).ok()?;
            find(mounts, &SeenBy::Namespace(other))
        }),
        None => mountinfo::other_tables().into_iter().find_map(|(namespace, process, table)| {
            let mounts = mountinfo::read_of(&table, None).ok()?;
            find(mounts, &SeenBy::Process { namespace, process })
        }),
    })
}

/// Who sees a mount.
enum SeenBy {
    Caller,
    /// Those in another mount namespace, of which the kernel told.
    Namespace(MountNamespace),
    /// The same, known by a process in it.
    Process {
        namespace: u64,
        process: u32,
    },
}

impl SeenBy {
    /// The inode of the namespace, and a process in it.
    fn names(&self) -> (Option<u64>, Option<u32>) {
        match self {
            Self::Caller => (None, None),
            Self::Namespace(MountNamespace { inode, .. }) => {
                (Some(*inode), mountinfo::process_in(*inode))
            }
            Self::Process { namespace, process } => (Some(*namespace), Some(*process)),
        }
    }

    /// What stands at a path as they see it; `None` where it leads nowhere.
    fn look_at(&self, path: &Path) -> Option<Stat> {
        match self {
            Self::Caller => rustix::fs::lstat(path).ok(),
            Self::Namespace(namespace) => namespace.look_at(path),
            Self::Process { process, .. } => {
                let root = PathBuf::from(format!("/proc/{process}/root"));
                rustix::fs::lstat(root.join(path.strip_prefix("/").unwrap_or(path))).ok()
            }
        }
    }
}

fn is_own(info: &MountInfo, own: &Path) -> bool {
    info.target.starts_with(own) || info.paths().any(|path| path.starts_with(own))
}

/// A directory as its file system has it, whatever it is mounted on: bind mounts are known by that.
struct Inside {
    device: Vec<u8>,
    path: PathBuf,
}

impl Inside {
    fn of(dir: &Path, mounts: &[MountInfo]) -> Option<Self> {
        // The longest that leads there, of several at one place the one on top.
        let above = mounts.iter().filter(|info| dir.starts_with(&info.target));
        let mount = above.max_by_key(|info| info.target.components().count())?;
        let rest = dir.strip_prefix(&mount.target).ok()?;
        Some(Self { device: mount.device.clone(), path: mount.root.join(rest) })
    }

    /// The one of `names` in this directory whose tree a mount shows, or a part of it.
    fn name_in<'a>(&self, info: &MountInfo, names: &'a HashSet<String>) -> Option<&'a String> {
        if info.device != self.device {
            return None;
        }
        let rest = info.root.strip_prefix(&self.path).ok()?;
        names.get(rest.components().next()?.as_os_str().to_str()?)
    }
}

/// The one of `names` in `parent` that an overlay has as a layer: by the last names of the path that
/// it was given, unless that leads to another directory, as in another store.
fn layer_of<'a>(
    info: &MountInfo,
    seen_by: &SeenBy,
    parent: &Path,
    names: &'a HashSet<String>,
) -> Option<&'a String> {
    if info.file_system != b"overlay" {
        return None;
    }
    let own = parent.file_name()?;
    info.paths().find_map(|path| {
        path.ancestors().find_map(|dir| {
            let name = names.get(dir.file_name()?.to_str()?)?;
            let is_there = dir.parent()?.file_name()? == own;
            (is_there && !leads_elsewhere(dir, seen_by, &parent.join(name))).then_some(name)
        })
    })
}

/// Whether a path is known to be that of another directory, for those who see it or here. One that
/// leads nowhere was given before the store was moved, or means something nowhere else.
fn leads_elsewhere(given: &Path, seen_by: &SeenBy, here: &Path) -> bool {
    match (seen_by.look_at(given), rustix::fs::lstat(here)) {
        (Some(one), Ok(other)) => (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo::of_text;

    #[test]
    fn a_bind_mount_is_known_by_its_place_in_its_file_system() {
        let mounts = of_text(
            "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             21 20 8:2 /@data /srv rw - btrfs /dev/sdb rw\n\
             22 20 8:2 /@data/store/layers/b/diff /shown rw - btrfs /dev/sdb rw\n\
             23 20 8:1 /store/layers/b/diff /other rw - ext4 /dev/sda1 rw\n\
             24 20 8:2 /@data/store/layers/c /c rw - btrfs /dev/sdb rw\n\
             25 20 8:2 /@data/store/layers /all rw - btrfs /dev/sdb rw\n",
        );
        let inside = Inside::of("/srv/store/layers".as_ref(), &mounts).unwrap();
        assert_eq!(inside.path, Path::new("/@data/store/layers"));
        let names: HashSet<_> = ["a", "b"].map(str::to_owned).into();
        let shown: Vec<_> = mounts.iter().map(|info| inside.name_in(info, &names)).collect();
        let expected = [None, None, names.get("b"), None, None, None];
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_overlay_is_known_by_the_paths_of_its_layers() {
        let scratch = tempfile::tempdir().unwrap();
        let (parent, copy) = (scratch.path().join("s/layers"), scratch.path().join("t/layers"));
        for dir in [&parent, &copy] {
            for name in ["a", "b"] {
                std::fs::create_dir_all(dir.join(name)).unwrap();
            }
        }
        let names: HashSet<_> = ["a", "b"].map(str::to_owned).into();
        let line = |path: &Path| {
            format!("9 1 0:9 / /m rw - overlay o rw,lowerdir=/x:{}/b/diff:/y\n", path.display())
        };
        for (path, name) in [
            (parent.as_path(), names.get("b")),
            // Another directory of that name; and one that is not seen from here.
            (copy.as_path(), None),
            ("/nowhere/to/be/seen/layers".as_ref(), names.get("b")),
            ("/nowhere/to/be/seen/strata".as_ref(), None),
        ] {
            let [info] = of_text(&line(path)).try_into().unwrap();
            assert_eq!(
                layer_of(&info, &SeenBy::Caller, &parent, &names),
                name,
                "{}",
                path.display()
            );
        }
    }
}
