//! Removes whole trees by directory handle, whatever their modes and however deep, on several threads
//! where there is much to remove.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::RenameFlags;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::dir::{Dir, DirEntry, Kind, SysResult};

/// How many directories are held open below each other; deeper ones are moved up first, so that
/// neither descriptors nor memory run out.
const DEPTH: usize = 16;

/// How many directories are emptied before more threads are worth their start.
const ALONE: u32 = 32;

/// More threads wait for the file system's journal, and not for its directories.
const MOST_THREADS: usize = 4;

/// How a tree is removed.
#[derive(Clone, Copy)]
pub(crate) struct Pace<'a> {
    /// Asked before each name is removed: whether to go on.
    pub(crate) go_on: &'a (dyn Fn() -> bool + Sync),
    pub(crate) threads: Threads,
    /// The most bytes that may be freed with one name: a file that takes more counts as a reason not
    /// to go on, since nobody can be asked while it goes.
    pub(crate) largest: u64,
}

impl Pace<'static> {
    /// To the end, by as many threads as help.
    pub(crate) const WHOLE: Self =
        Self { go_on: &|| true, threads: Threads::Many, largest: u64::MAX };
}

impl Pace<'_> {
    /// Whether a file of a directory may be removed.
    fn allows(&self, dir: &Dir, name: &[u8]) -> SysResult<bool> {
        if self.largest == u64::MAX {
            return Ok(true);
        }
        let Some(stat) = dir.stat_if_exists(name)? else { return Ok(true) };
        // A block of `st_blocks` is always this long (stat(2)).
        let freed = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        Ok(stat.st_nlink > 1 || freed <= self.largest)
    }
}

/// How many threads remove a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller's.
    One,
    /// As many as help.
    Many,
}

/// Removes `name` in `parent` with all that lies beneath; no symlink is followed, and no mount
/// entered: where one is met, it fails with EXDEV. It is no error where there is no such name.
///
/// Directories that the caller owns but may not read or write are made so first.
pub(crate) fn remove_tree(parent: &Dir, name: &[u8]) -> SysResult<()> {
    remove_tree_at(parent, name, Pace::WHOLE)
}

/// As [`remove_tree`]; where it shall not go on it fails with ECANCELED, and what is left may be
/// removed another time.
pub(crate) fn remove_tree_at(parent: &Dir, name: &[u8], pace: Pace<'_>) -> SysResult<()> {
    match parent.remove_file(name) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let is_root = geteuid().is_root();
    empty(&open_for_removal(parent, name, is_root)?, is_root, pace)?;
    remove_emptied(parent, name)
}

/// Removes all that lies beneath `root`, and keeps `root` itself.
pub(crate) fn empty_directory(root: &Dir) -> SysResult<()> {
    empty(root, geteuid().is_root(), Pace::WHOLE)
}

fn empty(root: &Dir, is_root: bool, pace: Pace<'_>) -> SysResult<()> {
    let removal = Removal {
        root,
        is_root,
        pace,
        lifted: AtomicU32::new(0),
        work: Mutex::new(Work::default()),
        more: Condvar::new(),
    };
    loop {
        removal.round()?;
        // What was moved up from the depth stands in the root now.
        if removal.lifted.swap(0, Ordering::Relaxed) == 0 {
            return Ok(());
        }
    }
}

/// A tree that is being removed.
struct Removal<'a> {
    root: &'a Dir,
    /// Whether the modes of directories do not matter.
    is_root: bool,
    pace: Pace<'a>,
    /// How many directories were moved up into the root.
    lifted: AtomicU32,
    work: Mutex<Work>,
    more: Condvar,
}

/// What is to be done, the last first: so no more directories are open than lie above each other.
#[derive(Default)]
struct Work {
    pending: Vec<Named>,
    /// Directories that a thread is busy with; they may hold more.
    busy: usize,
    /// Threads that wait for more.
    idle: usize,
    failed: Option<Errno>,
}

/// A directory that is to be removed with all it holds.
struct Named {
    name: Box<[u8]>,
    /// `None`: the root.
    around: Option<Arc<Opened>>,
}

/// A directory that is being emptied; who lets go of it last removes it.
struct Opened {
    dir: Dir,
    named: Named,
    depth: usize,
}

impl Removal<'_> {
    /// Removes all that the root holds at this moment.
    fn round(&self) -> SysResult<()> {
        let below = self.clear(self.root, 0)?;
        self.add(below.into_iter().map(|name| Named { name, around: None }));
        std::thread::scope(|scope| {
            let mut emptied = 0;
            while let Some(named) = self.next() {
                self.done(self.empty(named));
                emptied += 1;
                if emptied == ALONE && self.pace.threads == Threads::Many {
                    for _ in 1..most_threads() {
                        // Where there can be no more threads, this one does it all.
                        let _ = std::thread::Builder::new().spawn_scoped(scope, || {
                            while let Some(named) = self.next() {
                                self.done(self.empty(named));
                            }
                        });
                    }
                }
            }
        });
        self.lock().failed.take().map_or(Ok(()), Err)
    }

    /// Empties a directory, but for directories in it, which are to be done then.
    fn empty(&self, named: Named) -> SysResult<()> {
        let around = named.around.as_ref();
        let (parent, depth) = around.map_or((self.root, 0), |around| (&around.dir, around.depth));
        let dir = match open_for_removal(parent, &named.name, self.is_root) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return self.let_go(named.around),
            Err(error) => return Err(error),
        };
        let opened = Arc::new(Opened { dir, named, depth: depth + 1 });
        let below = self.clear(&opened.dir, opened.depth)?;
        self.add(below.into_iter().map(|name| Named { name, around: Some(opened.clone()) }));
        self.let_go(Some(opened))
    }

    /// Removes the files of a directory, and gives the directories in it.
    fn clear(&self, dir: &Dir, depth: usize) -> SysResult<Vec<Box<[u8]>>> {
        let mut below = Vec::new();
        // Read once: what is lifted into the root while it is cleared is found by the next round.
        let entries = if depth == 0 { dir.entries()? } else { dir.entries_of_own()? };
        for DirEntry { name, kind, .. } in entries {
            if !(self.pace.go_on)() {
                return Err(Errno::CANCELED);
            }
            if kind != Kind::Directory {
                if !self.pace.allows(dir, &name)? {
                    return Err(Errno::CANCELED);
                }
                match dir.remove_file(&name) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::ISDIR) => {}
                    Err(error) => return Err(error),
                }
            }
            if depth < DEPTH { below.push(name) } else { self.lift(dir, &name)? }
        }
        Ok(below)
    }

    fn lift(&self, dir: &Dir, name: &[u8]) -> SysResult<()> {
        // Moving a directory rewrites its `..`, for which it must be writable.
        drop(open_for_removal(dir, name, self.is_root)?);
        loop {
            let new_name = format!(".lifted-{}", self.lifted.fetch_add(1, Ordering::Relaxed));
            match dir.rename(name, self.root, new_name.as_bytes(), RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
        }
    }

    /// Removes a directory that nobody is busy with any more, and those around it likewise.
    fn let_go(&self, mut opened: Option<Arc<Opened>>) -> SysResult<()> {
        while let Some(Opened { dir, named, .. }) = opened.and_then(Arc::into_inner) {
            drop(dir);
            let parent = named.around.as_ref().map_or(self.root, |around| &around.dir);
            remove_emptied(parent, &named.name)?;
            opened = named.around;
        }
        Ok(())
    }

    fn add(&self, named: impl Iterator<Item = Named>) {
        let mut work = self.lock();
        work.pending.extend(named);
        if work.idle > 0 && !work.pending.is_empty() {
            self.more.notify_all();
        }
    }

    /// The next directory to empty; `None` where there will be no more.
    fn next(&self) -> Option<Named> {
        let mut work = self.lock();
        loop {
            if work.failed.is_some() {
                return None;
            }
            if let Some(named) = work.pending.pop() {
                work.busy += 1;
                return Some(named);
            }
            if work.busy == 0 {
                return None;
            }
            work.idle += 1;
            work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
        }
    }

    fn done(&self, emptied: SysResult<()>) {
        let mut work = self.lock();
        work.busy -= 1;
        if let Err(error) = emptied {
            work.failed = work.failed.or(Some(error));
            work.pending.clear();
        }
        if work.idle > 0 && work.busy == 0 {
            self.more.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each thread may hold as many directories open as lie above each other.
fn most_threads() -> usize {
    let afforded = super::most_descriptors() / (4 * DEPTH);
    let processors = super::parallel::threads(0);
    processors.min(afforded).min(MOST_THREADS)
}

/// Opens a directory to be emptied, after making it accessible where it is not.
fn open_for_removal(parent: &Dir, name: &[u8], is_root: bool) -> SysResult<Dir> {
    let accessible =
        |dir: &Dir| -> SysResult<bool> { Ok(is_root || dir.stat_self()?.st_mode & 0o700 == 0o700) };
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
    fn a_tree_with_much_in_it_is_removed_by_threads_or_one() {
        for threads in [Threads::One, Threads::Many] {
            let (_keep, dir) = tree_of(200);
            remove_tree_at(&dir, b"tree", Pace { threads, ..Pace::WHOLE }).unwrap();
            assert!(dir.entries().unwrap().is_empty());
        }
    }

    #[test]
    fn a_removal_that_is_stopped_is_ended_another_time() {
        for threads in [Threads::One, Threads::Many] {
            let (_keep, dir) = tree_of(200);
            let asked = AtomicU32::new(0);
            let go_on = || asked.fetch_add(1, Ordering::Relaxed) < 150;
            let removed =
                remove_tree_at(&dir, b"tree", Pace { go_on: &go_on, threads, ..Pace::WHOLE });
            assert_eq!(removed, Err(Errno::CANCELED));
            assert!(dir.stat(b"tree").is_ok());
            remove_tree(&dir, b"tree").unwrap();
            assert!(dir.entries().unwrap().is_empty());
        }
    }

    #[test]
    fn what_takes_long_by_itself_is_left_to_those_who_have_time() {
        let make = |name: &str, bytes: usize| {
            let temporary = tempfile::tempdir().unwrap();
            let path = temporary.path().join("tree").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            #[expect(clippy::disallowed_methods, reason = "a test makes its files by path")]
            std::fs::write(&path, vec![1; bytes]).unwrap();
            let dir = Dir::open_ambient(temporary.path()).unwrap();
            (temporary, path, dir)
        };
        let brief = Pace { threads: Threads::One, largest: 1 << 20, ..Pace::WHOLE };
        for name in ["large", "a/b/large"] {
            let (_keep, path, dir) = make(name, 2 << 20);
            assert_eq!(remove_tree_at(&dir, b"tree", brief), Err(Errno::CANCELED));
            assert!(path.exists());
            remove_tree(&dir, b"tree").unwrap();
            assert!(dir.entries().unwrap().is_empty());
        }
        // One of two names frees nothing, nor do holes.
        let (keep, path, dir) = make("linked", 2 << 20);
        std::fs::hard_link(&path, keep.path().join("other")).unwrap();
        remove_tree_at(&dir, b"tree", brief).unwrap();
        let (_keep, path, dir) = make("sparse", 1);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        remove_tree_at(&dir, b"tree", brief).unwrap();
    }

    /// A directory with the tree `tree` of so many directories, each with a file and two more.
    fn tree_of(directories: usize) -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().unwrap();
        for number in 0..directories {
            let path = temporary.path().join(format!("tree/{number}"));
            for below in ["a", "b/c"] {
                std::fs::create_dir_all(path.join(below)).unwrap();
            }
            std::os::unix::fs::symlink("..", path.join("link")).unwrap();
        }
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        (temporary, dir)
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
