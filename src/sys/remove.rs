//! Removes whole trees by directory handle, whatever their modes and however deep.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::dir::{Dir, Kind, SysResult};

/// How many directories are held open below each other; deeper ones are moved up first, so that
/// neither descriptors nor the stack run out.
const DEPTH: usize = 16;

/// Removes `name` in `parent` with all that lies beneath; no symlink is followed, and no mount
/// entered: where one is met, it fails with EXDEV. It is no error where there is no such name.
///
/// Directories that the caller owns but may not read or write are made so first.
pub(crate) fn remove_tree(parent: &Dir, name: &[u8]) -> SysResult<()> {
    remove_tree_while(parent, name, &|| true)
}

/// As [`remove_tree`], while `go_on` says so, which is asked for each directory; then it fails with
/// ECANCELED, and what is left may be removed another time.
pub(crate) fn remove_tree_while(
    parent: &Dir,
    name: &[u8],
    go_on: &dyn Fn() -> bool,
) -> SysResult<()> {
    match parent.remove_file(name) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let root = open_for_removal(parent, name)?;
    empty(&root, go_on)?;
    remove_emptied(parent, name)
}

/// Removes all that lies beneath `root`, and keeps `root` itself.
pub(crate) fn empty_directory(root: &Dir) -> SysResult<()> {
    empty(root, &|| true)
}

fn empty(root: &Dir, go_on: &dyn Fn() -> bool) -> SysResult<()> {
    let mut lifted = 0;
    loop {
        clear((root, go_on), root, 0, &mut lifted)?;
        // What was moved up from the depth stands in the root now.
        if lifted == 0 {
            return Ok(());
        }
        lifted = 0;
    }
}

fn clear(
    (root, go_on): (&Dir, &dyn Fn() -> bool),
    dir: &Dir,
    depth: usize,
    lifted: &mut u32,
) -> SysResult<()> {
    // Read once: what is lifted into the root while it is cleared is found by the next round.
    for (index, entry) in dir.entries()?.into_iter().enumerate() {
        if index.is_multiple_of(64) && !go_on() {
            return Err(Errno::CANCELED);
        }
        if entry.kind != Kind::Directory {
            match dir.remove_file(&entry.name) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error),
            }
        }
        if depth >= DEPTH {
            lift(root, dir, &entry.name, lifted)?;
            continue;
        }
        let child = match open_for_removal(dir, &entry.name) {
            Ok(child) => child,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        clear((root, go_on), &child, depth + 1, lifted)?;
        remove_emptied(dir, &entry.name)?;
    }
    Ok(())
}

fn lift(root: &Dir, dir: &Dir, name: &[u8], lifted: &mut u32) -> SysResult<()> {
    // Moving a directory rewrites its `..`, for which it must be writable.
    drop(open_for_removal(dir, name)?);
    loop {
        *lifted += 1;
        let new_name = format!(".lifted-{lifted}");
        match dir.rename(name, root, new_name.as_bytes(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

/// Opens a directory to be emptied, after making it accessible where it is not.
fn open_for_removal(parent: &Dir, name: &[u8]) -> SysResult<Dir> {
    let accessible = |dir: &Dir| -> SysResult<bool> {
        Ok(dir.stat_self()?.st_mode & 0o700 == 0o700 || rustix::process::geteuid().is_root())
    };
    match parent.child_of_same_mount(name) {
        Ok(dir) if accessible(&dir)? => Ok(dir),
        Ok(_) | Err(Errno::ACCESS) => {
            parent.chmod(name, 0o700)?;
            parent.child_of_same_mount(name)
        }
        Err(error) => Err(error),
    }
}

fn remove_emptied(parent: &Dir, name: &[u8]) -> SysResult<()> {
    match parent.remove_dir(name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_deep_tree_with_closed_directories_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        dir.make_dir(b"tree", 0o755).unwrap();
        let mut at = dir.child(b"tree").unwrap();
        for _ in 0..100 {
            at.make_dir(b"d", 0o755).unwrap();
            at.make_dir(b"closed", 0o755).unwrap();
            at.make_symlink(b"out", b"/etc").unwrap();
            let next = at.child(b"d").unwrap();
            at.chmod(b"closed", 0).unwrap();
            at = next;
        }
        remove_tree(&dir, b"tree").unwrap();
        assert!(dir.entries().unwrap().is_empty());
        remove_tree(&dir, b"tree").unwrap();
    }

    #[test]
    fn e44_what_is_mounted_in_a_tree_is_not_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        for name in [&b"kept"[..], b"tree"] {
            dir.make_dir(name, 0o755).unwrap();
        }
        let (kept, tree) = (dir.child(b"kept").unwrap(), dir.child(b"tree").unwrap());
        kept.make_dir(b"data", 0o755).unwrap();
        tree.make_dir(b"merged", 0o755).unwrap();
        let merged = tree.child(b"merged").unwrap();
        let mounted = crate::sys::mount::clone_tree(&kept)
            .and_then(|mount| crate::sys::mount::attach(mount.as_fd(), &merged));
        if let Err(error) = mounted {
            eprintln!("SKIP e44_what_is_mounted_in_a_tree_is_not_removed: {error}");
            assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
            return;
        }
        let removed = remove_tree(&dir, b"tree");
        crate::sys::mount::unmount(&temporary.path().join("tree/merged")).unwrap();
        assert_eq!(removed, Err(Errno::XDEV));
        assert!(kept.stat(b"data").is_ok());
        remove_tree(&dir, b"tree").unwrap();
    }
}
