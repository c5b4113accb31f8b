//! Layers made from lines of text, the two ways to look at them, and what they came to.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::backend::{Backend, Mounted, Op, Outcome};
use crate::Namespace;
use crate::format::xattr_name::mark;
use crate::fuzz_bed::Scratch;
use crate::merged::{EntryKind, Options, Redirects, Tree};
use crate::sys::Dir;
use crate::sys::xattr::{self, Target};

/// Set where trees are to do without `O_TMPFILE`, as on file systems that do not have it.
pub(super) const WITHOUT_UNNAMED: &str = "OVERLAY2_TEST_WITHOUT_UNNAMED";

/// Who looks at the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Kernel,
    Merged,
}

/// How the layers are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) namespace: Namespace,
    pub(super) redirects: Redirects,
}

impl Manner {
    /// The namespace that the test process can use.
    pub(super) fn plain() -> Self {
        let user = std::env::var_os("OVERLAY2_TEST_USERXATTR").is_some()
            || !rustix::process::geteuid().is_root();
        let namespace = if user { Namespace::User } else { Namespace::Trusted };
        Self { namespace, redirects: Redirects::Refuse }
    }

    pub(super) fn options(self) -> Options {
        Options::new(self.namespace).redirects(self.redirects).durability(crate::Durability::None)
    }
}

/// Lower directories, an UpperDir and a WorkDir.
#[derive(Debug)]
pub(super) struct Bed {
    root: Scratch,
    lowers: usize,
    pub(super) manner: Manner,
}

impl Bed {
    /// What is on disk in the UpperDir, without the mark `impure`: the kernel sets it where it knows
    /// the origin of what is moved in, which it does of its own copies alone.
    pub(super) fn without_impure(&self) -> Vec<String> {
        let mark = format!(" {}impure=\"y\"", self.manner.namespace.prefix());
        self.raw("upper").iter().map(|line| line.replace(&mark, "")).collect()
    }

    /// Makes lower directories, topmost first, from their lines; see [`make_entry`].
    pub(super) fn new<S: AsRef<str>>(layers: &[Vec<S>], manner: Manner) -> Self {
        let root = Scratch::new();
        for (index, lines) in layers.iter().enumerate() {
            let layer = root.path().join(format!("lower{index}"));
            std::fs::create_dir(&layer).unwrap();
            for line in lines {
                make_entry(&layer, line.as_ref(), manner.namespace);
            }
            settle(&layer, Path::new(""));
        }
        std::fs::create_dir(root.path().join("upper")).unwrap();
        std::fs::create_dir(root.path().join("work")).unwrap();
        settle(&root.path().join("upper"), Path::new(""));
        Self { root, lowers: layers.len(), manner }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn dir(&self, name: &str) -> Dir {
        Dir::open_ambient(self.path(name)).unwrap()
    }

    pub(super) fn open(&self, who: Who) -> Box<dyn Backend> {
        match who {
            Who::Kernel => Box::new(self.mount().unwrap()),
            Who::Merged => Box::new(self.tree()),
        }
    }

    pub(super) fn tree(&self) -> Tree {
        let lowers = (0..self.lowers).map(|i| self.dir(&format!("lower{i}"))).collect();
        let (upper, work) = (self.dir("upper"), self.dir("work"));
        writable(lowers, upper, work, &self.manner.options())
    }

    pub(super) fn mount(&self) -> rustix::io::Result<Mounted> {
        let redirect = match self.manner.redirects {
            Redirects::Refuse => "nofollow",
            Redirects::Follow => "follow",
            Redirects::Write => "on",
        };
        self.mount_with(redirect, "off")
    }

    pub(super) fn mount_with(&self, redirect: &str, metacopy: &str) -> rustix::io::Result<Mounted> {
        let fs = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for index in 0..self.lowers {
            mount::fsconfig_set_string(&fs, "lowerdir+", self.path(&format!("lower{index}")))?;
        }
        mount::fsconfig_set_string(&fs, "upperdir", self.path("upper"))?;
        mount::fsconfig_set_string(&fs, "workdir", self.path("work"))?;
        if self.manner.namespace == Namespace::User {
            mount::fsconfig_set_flag(&fs, "userxattr")?;
        } else {
            mount::fsconfig_set_string(&fs, "redirect_dir", redirect)?;
            mount::fsconfig_set_string(&fs, "metacopy", metacopy)?;
        }
        mount::fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::empty();
        mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map(Mounted)
    }

    /// Everything that is on disk in one of the directories, marks included.
    pub(super) fn raw(&self, name: &str) -> Vec<String> {
        let mut lines = Vec::new();
        raw(&self.path(name), Path::new(""), self.manner.namespace, &mut lines);
        lines
    }

    /// Everything in the lower directories, to the last bit.
    pub(super) fn lowers(&self) -> Vec<Vec<String>> {
        (0..self.lowers).map(|index| self.raw(&format!("lower{index}"))).collect()
    }
}

/// Opens a tree, in the way that the environment asks for.
pub(super) fn writable(lowers: Vec<Dir>, upper: Dir, work: Dir, options: &Options) -> Tree {
    let tree = Tree::writable(lowers, upper, work, options).unwrap();
    if std::env::var_os(WITHOUT_UNNAMED).is_some() {
        let upper = tree.core.upper.as_ref().unwrap();
        upper.has_unnamed.store(false, std::sync::atomic::Ordering::Relaxed);
    }
    tree
}

/// Makes one entry: `d/` directory, `f=text` file, `l->target` symlink, `p|` FIFO, `c@1:3` device,
/// `n<>f` hard link to `f`, `x!` whiteout, `x!!` xattr whiteout, `d/!` opaque, `d/?` may hold xattr
/// whiteouts, `f%name=value` attribute, `f^mode` permission bits, `f#uid:gid` owner.
fn make_entry(layer: &Path, line: &str, namespace: Namespace) {
    let set = |path: &str, name: &[u8], value: &str| {
        let path = layer.join(path);
        rustix::fs::lsetxattr(&path, name, value.as_bytes(), rustix::fs::XattrFlags::empty())
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    };
    let node = |path: &str, kind, mode, device| {
        rustix::fs::mknodat(CWD, layer.join(path), kind, Mode::from_raw_mode(mode), device)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    };
    if let Some((path, rest)) = line.split_once('%') {
        let (name, value) = rest.split_once('=').unwrap();
        set(path, name.as_bytes(), value);
    } else if let Some((path, mode)) = line.split_once('^') {
        let mode = u32::from_str_radix(mode, 8).unwrap();
        std::fs::set_permissions(layer.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    } else if let Some((path, owner)) = line.split_once('#') {
        let (uid, gid) = owner.split_once(':').unwrap();
        let (uid, gid) = (uid.parse().unwrap(), gid.parse().unwrap());
        std::os::unix::fs::lchown(layer.join(path), Some(uid), Some(gid)).unwrap();
    } else if let Some(path) = line.strip_suffix("/!") {
        set(path, &namespace.name(mark::OPAQUE), "y");
    } else if let Some(path) = line.strip_suffix("/?") {
        set(path, &namespace.name(mark::OPAQUE), "x");
    } else if let Some(path) = line.strip_suffix("!!") {
        node(path, FileType::RegularFile, 0o644, 0);
        set(path, &namespace.name(mark::WHITEOUT), "");
    } else if let Some(path) = line.strip_suffix('!') {
        node(path, FileType::CharacterDevice, 0, 0);
    } else if let Some(path) = line.strip_suffix('/') {
        std::fs::create_dir_all(layer.join(path)).unwrap();
    } else if let Some((path, target)) = line.split_once("->") {
        std::os::unix::fs::symlink(target, layer.join(path)).unwrap();
    } else if let Some((path, target)) = line.split_once("<>") {
        std::fs::hard_link(layer.join(target), layer.join(path)).unwrap();
    } else if let Some(path) = line.strip_suffix('|') {
        node(path, FileType::Fifo, 0o640, 0);
    } else if let Some((path, device)) = line.split_once('@') {
        let (major, minor) = device.split_once(':').unwrap();
        let device = rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap());
        let path_there = layer.join(path);
        let mode = Mode::from_raw_mode(0o666);
        if rustix::fs::mknodat(CWD, path_there, FileType::CharacterDevice, mode, device).is_err() {
            // Who may not make devices tests with a FIFO.
            node(path, FileType::Fifo, 0o666, 0);
        }
    } else {
        let (path, text) = line.split_once('=').unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test makes its layers by path")]
        std::fs::write(layer.join(path), text).unwrap();
    }
}

/// Gives everything times that are long past, and different from each other.
fn settle(layer: &Path, below: &Path) {
    let path = layer.join(below);
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in std::fs::read_dir(&path).unwrap() {
            settle(layer, &below.join(entry.unwrap().file_name()));
        }
    }
    let sum: i64 = below.as_os_str().as_bytes().iter().map(|&byte| i64::from(byte)).sum();
    let time = crate::Timestamp::from_seconds(1_000_000_000 + sum);
    let times = crate::sys::dir::timestamps(time, time);
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn raw(root: &Path, below: &Path, namespace: Namespace, lines: &mut Vec<String>) {
    let path = root.join(below);
    let found = path.symlink_metadata().unwrap();
    let kind = found.file_type();
    let mut text =
        format!("{} {:o} {}:{}", below.display(), found.mode(), found.uid(), found.gid());
    let is_whiteout = kind.is_char_device() && found.rdev() == 0;
    if is_whiteout {
        lines.push(format!("{} whiteout", below.display()));
        return;
    }
    if kind.is_file() {
        let bytes = std::fs::read(&path).unwrap();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        text += &format!(" {} {shown:?} links={}", bytes.len(), found.nlink());
    } else if kind.is_symlink() {
        text += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
    } else if !kind.is_dir() {
        text += &format!(" device {:x}", found.rdev());
    }
    let mtime = found.mtime();
    text += &if mtime > 1_500_000_000 { " now".to_owned() } else { format!(" {mtime}") };
    let dir = Dir::open_ambient(path.parent().unwrap()).unwrap();
    let name = path.file_name().unwrap().as_bytes();
    for (name, value) in xattr::read_all(Target::Name(&dir, name)).unwrap() {
        let shown = String::from_utf8_lossy(&name).into_owned();
        if name == namespace.name("uuid") {
            continue;
        }
        // What the kernel knows of the origin is more than we do.
        let value = if name == namespace.name(mark::ORIGIN) { Vec::new() } else { value };
        text += &format!(" {shown}={:?}", String::from_utf8_lossy(&value));
    }
    lines.push(text);
    if kind.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let (own, first) = (lines.len() - 1, lines.len());
        for name in names {
            raw(root, &below.join(name), namespace, lines);
        }
        forget_stale_impure(namespace, below, &mut lines[own..], first - own);
    }
}

/// The kernel takes the mark `impure` away when it lists a directory that needs it no more.
fn forget_stale_impure(namespace: Namespace, below: &Path, lines: &mut [String], first: usize) {
    let origin = format!(" {}origin=", namespace.prefix());
    let depth = below.components().count() + 1;
    let is_child =
        |line: &String| Path::new(line.split(' ').next().unwrap()).components().count() == depth;
    if !lines[first..].iter().any(|line| is_child(line) && line.contains(&origin)) {
        lines[0] = lines[0].replace(&format!(" {}impure=\"y\"", namespace.prefix()), "");
    }
}

/// Everything that shows in the merged tree.
pub(super) fn merged(backend: &dyn Backend) -> Vec<String> {
    let mut lines = Vec::new();
    show(backend, "/", &mut lines);
    lines
}

fn show(backend: &dyn Backend, path: &str, lines: &mut Vec<String>) {
    let status = backend.run(&Op::Lstat(path.to_owned()));
    let Ok(status) = status else {
        lines.push(format!("{path} {status:?}"));
        return;
    };
    let mut line = format!("{path} {status}");
    let is = |kind: EntryKind| status.starts_with(&format!("{kind:?} "));
    if is(EntryKind::Regular) {
        line += &format!(" {:?}", backend.run(&Op::Read(path.to_owned())));
    } else if is(EntryKind::Symlink) {
        line += &format!(" {:?}", backend.run(&Op::ReadLink(path.to_owned())));
    }
    let names = backend.run(&Op::ListXattrs(path.to_owned()));
    for name in names.clone().unwrap_or_default().split_whitespace() {
        let value = backend.run(&Op::GetXattr(path.to_owned(), name.to_owned()));
        line += &format!(" {name}={value:?}");
    }
    if let Err(error) = names {
        line += &format!(" attributes: {error}");
    }
    lines.push(line);
    if is(EntryKind::Directory) {
        let names = backend.run(&Op::ReadDir(path.to_owned()));
        if let Err(error) = names {
            lines.push(format!("{path} cannot be read: {error}"));
        }
        for name in names.unwrap_or_default().split_whitespace() {
            show(backend, &format!("{}/{name}", path.trim_end_matches('/')), lines);
        }
    }
}

/// Runs the same on the kernel and on `merged`, and compares all that can be seen.
pub(super) fn check(test: &str, layers: &[&[&str]], ops: &[Op]) {
    check_in(Manner::plain(), test, layers, ops);
}

pub(super) fn check_in(manner: Manner, test: &str, layers: &[&[&str]], ops: &[Op]) {
    if let Err(error) = try_in(manner, layers, ops) {
        assert!(!error.starts_with("SKIP"), "{test}: {error}");
        panic!("{test}: {error}");
    }
}

/// As [`check_in`], with the difference as an error.
pub(super) fn try_in<S: AsRef<str>>(
    manner: Manner,
    layers: &[impl AsRef<[S]>],
    ops: &[Op],
) -> Result<(), String> {
    let layers: Vec<Vec<&str>> =
        layers.iter().map(|lines| lines.as_ref().iter().map(AsRef::as_ref).collect()).collect();
    let (ours, theirs) = (Bed::new(&layers, manner), Bed::new(&layers, manner));
    let before = ours.lowers();
    let run = |bed: &Bed, who: Who| -> (Vec<Outcome>, Vec<String>) {
        let backend = bed.open(who);
        let outcomes = ops.iter().map(|op| backend.run(op)).collect();
        (outcomes, merged(&*backend))
    };
    let (our_outcomes, our_tree) = run(&ours, Who::Merged);
    let (their_outcomes, their_tree) = run(&theirs, Who::Kernel);
    for ((op, our), their) in ops.iter().zip(&our_outcomes).zip(&their_outcomes) {
        if lost_track(manner, their) {
            return Ok(());
        }
        if our != their {
            return Err(format!("{op:?}: merged {our:?}, kernel {their:?}\nof {ops:?}"));
        }
    }
    same("the merged tree", &our_tree, &their_tree)?;
    let raw = |bed: &Bed| match bed.manner.namespace {
        Namespace::Trusted => bed.raw("upper"),
        // Symlinks and devices carry no origin there, by which it could be told.
        Namespace::User => bed.without_impure(),
    };
    same("the UpperDir", &raw(&ours), &raw(&theirs))?;
    same("the lower directories", &[format!("{:#?}", ours.lowers())], &[format!("{before:#?}")])?;
    // Each looks at what the other left.
    same("merged's, mounted", &our_tree, &merged(&*ours.open(Who::Kernel)))?;
    same("the kernel's, opened", &merged(&*theirs.open(Who::Merged)), &their_tree)
}

/// Whether the kernel does not know its own file again: a mount in a user namespace takes two names
/// of one copied-up file for two files, and answers ESTALE where it finds that they are not.
pub(super) fn lost_track(manner: Manner, outcome: &Outcome) -> bool {
    manner.namespace == Namespace::User && *outcome == Err(116)
}

/// Compares, and says only what differs.
pub(super) fn same(what: &str, ours: &[String], theirs: &[String]) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    let only = |these: &[String], those: &[String]| {
        let lines: Vec<_> = these
            .iter()
            .filter(|line| !those.contains(line))
            .map(|line| format!("    {line}"))
            .collect();
        lines.join("\n")
    };
    Err(format!(
        "{what} differs\n  merged:\n{}\n  kernel:\n{}",
        only(ours, theirs),
        only(theirs, ours)
    ))
}
