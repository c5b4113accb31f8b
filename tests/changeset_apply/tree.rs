//! What is in a directory, read by nothing but the standard library and plain system calls.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir as Listing, FileType, Mode, OFlags, Stat};

use crate::tar::BLOCK;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path of the same inode, where that is another one.
    pub(crate) same_as: Option<String>,
    pub(crate) size: u64,
    pub(crate) allocated: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Device(char, u32, u32),
    Whiteout,
    Socket,
}

/// All files by their path; bytes that are no UTF-8 are escaped as `\xNN`.
pub(crate) type Tree = BTreeMap<String, Node>;

const OVERRIDE: &str = "user.containers.override_stat";

/// Files of more bytes than this are not read.
const LARGEST: u64 = 8 << 20;

/// Reads a directory; its own path is the empty one.
pub(crate) fn read(root: impl AsFd) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    let root = root.as_fd();
    let stat = rustix::fs::fstat(root).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(root, ".", flags, Mode::empty()).unwrap();
    tree.insert(String::new(), node(own.as_fd(), b".", &stat));
    walk(own.as_fd(), "", &mut tree, &mut inodes);
    tree
}

fn walk(
    dir: BorrowedFd<'_>,
    prefix: &str,
    tree: &mut Tree,
    inodes: &mut BTreeMap<(u64, u64), String>,
) {
    let mut names: Vec<Vec<u8>> = Listing::read_from(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
        .filter(|name| name != b"." && name != b"..")
        .collect();
    names.sort();
    for name in names {
        let shown = name.escape_ascii().to_string();
        let path = if prefix.is_empty() { shown } else { format!("{prefix}/{shown}") };
        let stat = rustix::fs::statat(dir, &*name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let mut found = node(dir, &name, &stat);
        let is_directory = found.kind == Kind::Directory;
        if !is_directory && found.kind != Kind::Whiteout {
            let first = inodes.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
            found.same_as = (*first != path).then(|| first.clone());
        }
        tree.insert(path.clone(), found);
        if is_directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(dir, &*name, flags, Mode::empty()).unwrap();
            walk(below.as_fd(), &path, tree, inodes);
        }
    }
}

fn node(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Node {
    let device = |letter| {
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        if letter == 'c' && (major, minor) == (0, 0) {
            return Kind::Whiteout;
        }
        Kind::Device(letter, major, minor)
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File(content(dir, name, stat)),
        FileType::Symlink => {
            Kind::Symlink(rustix::fs::readlinkat(dir, name, Vec::new()).unwrap().into_bytes())
        }
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => device('c'),
        FileType::BlockDevice => device('b'),
        _ => Kind::Socket,
    };
    let mut node = Node {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap()),
        xattrs: xattrs(dir, name),
        same_as: None,
        size: u64::try_from(stat.st_size).unwrap(),
        allocated: u64::try_from(stat.st_blocks).unwrap() * BLOCK as u64,
    };
    recorded(&mut node);
    node
}

/// What a plain user could only record is shown as what it stands for.
fn recorded(node: &mut Node) {
    let Some(value) = node.xattrs.remove(OVERRIDE) else { return };
    let text = String::from_utf8(value).unwrap();
    let fields: Vec<&str> = text.split(':').collect();
    node.uid = fields[0].parse().unwrap();
    node.gid = fields[1].parse().unwrap();
    node.mode = u32::from_str_radix(fields[2], 8).unwrap();
    let kind: Vec<&str> = fields[3].split('-').collect();
    match kind.as_slice() {
        ["char", major, minor] => {
            node.kind = Kind::Device('c', major.parse().unwrap(), minor.parse().unwrap());
        }
        ["block", major, minor] => {
            node.kind = Kind::Device('b', major.parse().unwrap(), minor.parse().unwrap());
        }
        ["pipe"] => node.kind = Kind::Fifo,
        ["file"] => assert!(matches!(node.kind, Kind::File(_))),
        ["dir"] => assert_eq!(node.kind, Kind::Directory),
        other => panic!("recorded as {other:?}"),
    }
}

fn content(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Vec<u8> {
    use std::io::Read;
    if u64::try_from(stat.st_size).unwrap() > LARGEST {
        return Vec::new();
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty()).unwrap();
    let mut bytes = Vec::new();
    std::fs::File::from(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(&*path, &mut names).unwrap_or(0);
    names.truncate(length);
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(&*path, name, &mut value).unwrap();
            value.truncate(length);
            (name.escape_ascii().to_string(), value)
        })
        .collect()
}

/// The tree in one line: `d/` a directory, `d/!` an opaque one, `f=content`, `g=>f` one more name
/// of `f`, `l->target`, `w-` a whiteout, `p|` a FIFO, `n(c1:3)` a device. The root is left out.
pub(crate) fn shown(tree: &Tree) -> String {
    let mut line = String::new();
    for (path, node) in tree {
        if path.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(path);
        if let Some(first) = &node.same_as {
            write!(line, "=>{first}").unwrap();
            continue;
        }
        match &node.kind {
            Kind::Directory if is_opaque(node) => line.push_str("/!"),
            Kind::Directory => line.push('/'),
            Kind::File(content) => write!(line, "={}", content.escape_ascii()).unwrap(),
            Kind::Symlink(target) => write!(line, "->{}", target.escape_ascii()).unwrap(),
            Kind::Whiteout => line.push('-'),
            Kind::Fifo => line.push('|'),
            Kind::Device(letter, major, minor) => {
                write!(line, "({letter}{major}:{minor})").unwrap();
            }
            Kind::Socket => line.push_str("(socket)"),
        }
    }
    line
}

fn is_opaque(node: &Node) -> bool {
    let value = node.xattrs.get("trusted.overlay.opaque");
    value.or_else(|| node.xattrs.get("user.overlay.opaque")).is_some_and(|value| value == b"y")
}
