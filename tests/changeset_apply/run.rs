//! Applies a changeset in every way there is, and looks at what became of it.

use std::io::Write;

use overlay2::changeset::{Applied, ApplyOptions, Ownership, apply, reassemble};
use overlay2::{Dir, Error, ErrorKind, Namespace, Watch};
use rustix::fs::{CWD, Mode, OFlags};
use tempfile::TempDir;

use crate::tar::{Entry, tar};
use crate::tree::{self, Tree};

/// The user that a plain user's tests run as.
pub(crate) const NOBODY: u32 = 65534;

/// Who applies a changeset, and what is kept beside the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Exact owners, marks in `trusted`; needs root.
    Root,
    /// The same, with what it takes to write the tar again.
    RootWithSide,
    /// A plain user without any capability: owners recorded, marks in `user`.
    PlainUser,
}

pub(crate) const WAYS: [Way; 3] = [Way::Root, Way::RootWithSide, Way::PlainUser];

/// A layer directory and its neighbours.
pub(crate) struct Scratch {
    pub(crate) place: TempDir,
    pub(crate) way: Way,
}

impl Scratch {
    pub(crate) fn new(way: Way) -> Self {
        let place = tempfile::Builder::new().prefix("overlay2-").tempdir().unwrap();
        for name in ["layer", "side"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        if is_root() && way == Way::PlainUser {
            for name in ["", "layer", "side"] {
                std::os::unix::fs::chown(place.path().join(name), Some(NOBODY), Some(NOBODY))
                    .unwrap();
            }
        }
        Self { place, way }
    }

    pub(crate) fn layer(&self) -> Dir {
        Dir::open_ambient(self.place.path().join("layer")).unwrap()
    }

    pub(crate) fn side(&self) -> Dir {
        Dir::open_ambient(self.place.path().join("side")).unwrap()
    }

    pub(crate) fn tree(&self) -> Tree {
        tree::read(self.layer())
    }

    /// Applies `bytes`, as whoever the way says.
    pub(crate) fn apply(&self, bytes: &[u8]) -> Result<Applied, Error> {
        self.apply_with(bytes, |_| {})
    }

    pub(crate) fn apply_with(
        &self,
        bytes: &[u8],
        change: impl FnOnce(&mut ApplyOptions<'_>) + Send,
    ) -> Result<Applied, Error> {
        let (layer, side) = (self.layer(), self.side());
        let run = || {
            let mut options = ApplyOptions::new(match self.way {
                Way::PlainUser => Namespace::User,
                Way::Root | Way::RootWithSide => Namespace::Trusted,
            });
            if self.way == Way::PlainUser {
                options.ownership = Ownership::Recorded;
            }
            options.side = (self.way != Way::Root).then_some(&side);
            change(&mut options);
            apply(bytes, &layer, &options)
        };
        if self.way == Way::PlainUser { as_plain_user(run) } else { run() }
    }

    /// The tar, written again.
    pub(crate) fn reassembled(&self) -> Vec<u8> {
        let (layer, side) = (self.layer(), self.side());
        let run = || {
            let mut bytes = Vec::new();
            reassemble(&layer, &side, &mut bytes, "test", Watch::new()).unwrap();
            bytes
        };
        if self.way == Way::PlainUser { as_plain_user(run) } else { run() }
    }
}

/// Runs in a thread that has neither root's ids nor any capability, nor groups.
pub(crate) fn as_plain_user<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if !is_root() {
        return work();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (rustix::fs::Uid::from_raw(NOBODY), rustix::fs::Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says, past the harness's capture, that a test or a part of one cannot run here; fails where
/// the environment demands that everything runs.
pub(crate) fn skip(test: &str, reason: &str) {
    lacking(test, reason, &["all", "user"]);
}

/// Whether the process is root; says that a test, or a part of one, needs that.
pub(crate) fn root(test: &str) -> bool {
    if !is_root() {
        lacking(test, "only root can", &["all"]);
    }
    is_root()
}

fn lacking(test: &str, reason: &str, demands: &[&str]) {
    let demand = std::env::var("OVERLAY2_REQUIRE").unwrap_or_default();
    assert!(!demands.contains(&demand.as_str()), "{test} cannot run: {reason}");
    let _ = std::io::stderr().write_all(format!("SKIP {test}: {reason}\n").as_bytes());
}

/// Whether this process can go that way.
pub(crate) fn possible(test: &str, way: Way) -> bool {
    way == Way::PlainUser || root(test)
}

/// Checks that the entries give the tree, on every way, and the same bytes again.
pub(crate) fn gives(test: &str, entries: &[Entry], expected: &str) {
    bytes_give(test, &tar(entries), expected);
}

/// As [`gives`], of a whole archive.
pub(crate) fn bytes_give(test: &str, bytes: &[u8], expected: &str) {
    checked(test, bytes, |way, tree, _| {
        assert_eq!(tree::shown(tree), expected, "{test}, {way:?}");
    });
}

/// Applies the entries on every way and lets `check` see the tree and what was told.
pub(crate) fn checked(test: &str, bytes: &[u8], check: impl Fn(Way, &Tree, &Applied)) {
    for way in WAYS {
        if !possible(test, way) {
            continue;
        }
        let scratch = Scratch::new(way);
        let applied = match scratch.apply(bytes) {
            Ok(applied) => applied,
            Err(error) => panic!("{test}, {way:?}: {error}"),
        };
        assert_eq!(applied.changeset_bytes, bytes.len() as u64, "{test}, {way:?}");
        if way != Way::Root {
            assert!(scratch.reassembled() == bytes, "{test}, {way:?}: other bytes");
        }
        check(way, &scratch.tree(), &applied);
    }
}

/// Checks that the entries are refused on every way, with these words.
pub(crate) fn refused(test: &str, entries: &[Entry], words: &str) {
    bytes_refused(test, &tar(entries), ErrorKind::InvalidData, words);
}

/// As [`refused`], of a whole archive, and of any kind.
pub(crate) fn bytes_refused(test: &str, bytes: &[u8], kind: ErrorKind, words: &str) {
    for way in WAYS {
        if !possible(test, way) {
            continue;
        }
        let scratch = Scratch::new(way);
        match scratch.apply(bytes) {
            Ok(_) => panic!("{test}, {way:?}: applied as {}", tree::shown(&scratch.tree())),
            Err(error) => {
                assert_eq!(error.kind(), kind, "{test}, {way:?}: {error}");
                assert!(error.to_string().contains(words), "{test}, {way:?}: {error}");
            }
        }
    }
}

/// A file system in memory that nobody else sees, and that goes when the handle does.
pub(crate) fn memory(test: &str, options: &[(&str, &str)]) -> Option<Dir> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };
    if !root(test) {
        return None;
    }
    let made = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    });
    match made {
        Ok(root) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(&root, ".", flags, Mode::empty()).unwrap();
            Some(Dir::from_fd(root))
        }
        Err(error) => {
            skip(test, &format!("no file system in memory: {error}"));
            None
        }
    }
}

/// Opens a directory below another.
pub(crate) fn make_dir(parent: &Dir, name: &str) -> Dir {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Dir::from_fd(rustix::fs::openat(parent, name, flags, Mode::empty()).unwrap())
}

/// Whether a program can be run.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| {
        rustix::fs::accessat(
            CWD,
            dir.join(program),
            rustix::fs::Access::EXEC_OK,
            rustix::fs::AtFlags::empty(),
        )
        .is_ok()
    })
}
