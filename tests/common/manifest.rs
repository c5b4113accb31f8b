//! The tree below a directory as lines: one for each name, with all that a tar could say of it.
//!
//! `type mode uid gid size rdev mtime_ns link-group xattrs sha256 link-target path`, where a field
//! that says nothing is `-`, names and targets are percent-encoded, and xattrs are
//! `name=hexadecimal` joined by commas, without overlayfs's own.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::need;

/// A tree: the line of each path, without the path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest(BTreeMap<String, String>);

const TYPE: usize = 0;
const MTIME: usize = 6;
const LINKS: usize = 7;
const XATTRS: usize = 8;

impl Manifest {
    /// Reads the tree below a directory.
    pub fn of(root: &Path) -> Self {
        let mut walk = Walk::default();
        walk.visit(root, "");
        Self(walk.lines)
    }

    /// Parses the lines that such a walk once printed.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| {
            let (fields, path) = line.rsplit_once(' ').unwrap();
            (path.to_owned(), fields.to_owned())
        });
        Self(lines.collect())
    }

    /// Parses a file of such lines that is compressed with zstd.
    pub fn read_zst(file: &Path) -> Self {
        let text = zstd::decode_all(File::open(file).unwrap()).unwrap();
        Self::parse(std::str::from_utf8(&text).unwrap())
    }

    /// How many names there are, the root among them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The fields of one path.
    pub fn line(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// The paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Leaves out the time of the root directory, which an archive need not carry.
    pub fn without_root_time(mut self) -> Self {
        self.0.entry(".".to_owned()).and_modify(|line| *line = with_field(line, MTIME, "-"));
        self
    }

    /// Leaves out the root directory itself.
    pub fn without_root(mut self) -> Self {
        self.0.remove(".");
        self
    }

    /// Leaves out that a file has other names which the tree does not show: a name that a layer
    /// deletes still counts in the link count of the layer below.
    pub fn with_visible_links(mut self) -> Self {
        let group = |line: &str| line.split(' ').nth(LINKS).map(str::to_owned);
        let mut members = HashMap::<_, Vec<_>>::new();
        for (path, line) in &self.0 {
            members.entry(group(line)).or_default().push(path.clone());
        }
        for (path, line) in &mut self.0 {
            match members[&group(line)].as_slice() {
                _ if group(line).as_deref() == Some("-") => {}
                [_alone] => *line = with_field(line, LINKS, "-"),
                [first, ..] => *line = with_field(line, LINKS, first),
                [] => unreachable!("{path} is a member"),
            }
        }
        self
    }

    /// Leaves of device nodes only their names: a user namespace cannot make them.
    fn without_devices(mut self, devices: &[String]) -> Self {
        for path in devices {
            self.0.entry(path.clone()).and_modify(|line| "device".clone_into(line));
        }
        self
    }

    fn devices(&self) -> Vec<String> {
        let is_device = |line: &str| matches!(line.split(' ').nth(TYPE), Some("c" | "b"));
        self.0.iter().filter(|(_, line)| is_device(line)).map(|(path, _)| path.clone()).collect()
    }

    /// Leaves out the xattr in which a user namespace keeps what it cannot give a file.
    fn without_override_stat(mut self) -> Self {
        for line in self.0.values_mut() {
            let xattrs = line.split(' ').nth(XATTRS).unwrap_or("-");
            let kept: Vec<_> = xattrs
                .split(',')
                .filter(|xattr| !xattr.starts_with("user.containers.override_stat="))
                .collect();
            let kept = if kept.is_empty() { "-".to_owned() } else { kept.join(",") };
            *line = with_field(line, XATTRS, &kept);
        }
        self
    }

    /// Panics, with the first few differences, unless the tree is what it should be.
    pub fn assert_is(&self, expected: &Self) {
        let (mut ours, mut theirs) =
            (self.clone().without_root_time(), expected.clone().without_root_time());
        if need::in_user_namespace() {
            let devices = theirs.devices();
            ours = ours.without_devices(&devices).without_override_stat();
            theirs = theirs.without_devices(&devices).without_override_stat();
        }
        let differences = differences(&ours, &theirs);
        let shown: Vec<_> = differences.iter().take(12).map(String::as_str).collect();
        assert!(
            differences.is_empty(),
            "{} differences, of {} names:\n{}",
            differences.len(),
            theirs.len(),
            shown.join("\n")
        );
    }
}

/// One line for each path at which two trees differ.
pub fn differences(ours: &Manifest, expected: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    for (path, line) in &expected.0 {
        match ours.0.get(path) {
            None => found.push(format!("missing    {path}: {line}")),
            Some(got) if got != line => {
                found.push(format!("different  {path}:\n  expected {line}\n  got      {got}"));
            }
            Some(_) => {}
        }
    }
    let unexpected = ours.0.iter().filter(|(path, _)| !expected.0.contains_key(*path));
    found.extend(unexpected.map(|(path, line)| format!("unexpected {path}: {line}")));
    found
}

fn with_field(line: &str, index: usize, value: &str) -> String {
    let mut fields: Vec<_> = line.split(' ').collect();
    if let Some(field) = fields.get_mut(index) {
        *field = value;
    }
    fields.join(" ")
}

#[derive(Default)]
struct Walk {
    lines: BTreeMap<String, String>,
    groups: HashMap<(u64, u64), usize>,
}

impl Walk {
    fn visit(&mut self, path: &Path, relative: &str) {
        let meta = path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let shown = if relative.is_empty() { "." } else { relative };
        let line = self.line(path, &meta);
        self.lines.insert(shown.to_owned(), line);
        if !meta.is_dir() {
            return;
        }
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .map(|entry| entry.unwrap().file_name())
            .collect();
        // Groups of hard links are numbered in the order of names, as bytes.
        names.sort();
        for name in names {
            let quoted = quote(name.as_bytes());
            let below = if relative.is_empty() { quoted } else { format!("{relative}/{quoted}") };
            self.visit(&path.join(name), &below);
        }
    }

    fn line(&mut self, path: &Path, meta: &Metadata) -> String {
        let kind = match meta.mode() & 0o170_000 {
            0o040_000 => 'd',
            0o100_000 => 'f',
            0o120_000 => 'l',
            0o010_000 => 'p',
            0o020_000 => 'c',
            0o060_000 => 'b',
            _ => 's',
        };
        let is_file = kind == 'f';
        let rdev = match kind {
            'c' | 'b' => {
                format!("{}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
            }
            _ => "-".to_owned(),
        };
        let group = if kind != 'd' && meta.nlink() > 1 {
            let next = self.groups.len();
            format!("g{}", self.groups.entry((meta.dev(), meta.ino())).or_insert(next))
        } else {
            "-".to_owned()
        };
        let target = match kind {
            'l' => quote(std::fs::read_link(path).unwrap().as_os_str().as_bytes()),
            _ => "-".to_owned(),
        };
        let time = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        format!(
            "{kind} {:04o} {} {} {} {rdev} {time} {group} {} {} {target}",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            if is_file { meta.size() } else { 0 },
            xattrs(path),
            if is_file { sha256(path) } else { "-".to_owned() },
        )
    }
}

fn sha256(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hex::encode(hash.finalize()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut shown: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter(|name| {
            !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
        })
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            format!("{}={}", String::from_utf8_lossy(name), hex::encode(&value[..length]))
        })
        .collect();
    shown.sort();
    if shown.is_empty() { "-".to_owned() } else { shown.join(",") }
}

/// Percent-encodes all but letters, digits and `/._-+@:,~=`.
fn quote(name: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(name.len());
    for &byte in name {
        if byte.is_ascii_alphanumeric() || b"/._-+@:,~=".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            write!(quoted, "%{byte:02X}").unwrap();
        }
    }
    if quoted.is_empty() { "-".to_owned() } else { quoted }
}
