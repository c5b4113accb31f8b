//! A merged tree in memory, on which changesets are applied in the plainest way.

use std::collections::BTreeMap;

/// One word of a changeset: `TYPE:NAME:REST`.
///
/// `d:NAME:MODE:UID:MTIME` a directory, `f:NAME:CONTENT` a file, `l:NAME:TARGET` a symlink,
/// `h:NAME:TARGET` a hard link, `p:NAME:` a FIFO. All but directories are of mode 0644, owner 0 and
/// time 77.5.
struct Line<'a> {
    kind: char,
    name: &'a str,
    rest: &'a str,
}

fn parse<'a>(line: &'a str) -> Line<'a> {
    let mut fields = line.splitn(3, ':');
    let kind = fields.next().unwrap().chars().next().unwrap();
    Line { kind, name: fields.next().unwrap(), rest: fields.next().unwrap() }
}

/// Mode, owner and time of a directory.
fn described(rest: &str) -> (u32, u32, String) {
    let fields: Vec<_> = rest.split(':').collect();
    let mode = u32::from_str_radix(fields[0], 8).unwrap();
    (mode, fields[1].parse().unwrap(), fields[2].to_owned())
}

/// The changeset as a tar.
pub(super) fn tar(changeset: &[&str]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for line in changeset.iter().map(|line| parse(line)) {
        let (mut header, mut payload) = (tar::Header::new_ustar(), &b""[..]);
        let (mut mode, mut uid, mut mtime) = (0o644, 0, "77.5".to_owned());
        let mut pax = vec![("path", line.name.to_owned())];
        header.set_entry_type(match line.kind {
            'd' => {
                (mode, uid, mtime) = described(line.rest);
                tar::EntryType::Directory
            }
            'f' => {
                payload = line.rest.as_bytes();
                tar::EntryType::Regular
            }
            'l' | 'h' => {
                pax.push(("linkpath", line.rest.to_owned()));
                if line.kind == 'l' { tar::EntryType::Symlink } else { tar::EntryType::Link }
            }
            _ => tar::EntryType::Fifo,
        });
        pax.push(("mtime", mtime));
        header.set_mode(mode);
        header.set_uid(uid.into());
        header.set_gid(0);
        header.set_size(payload.len() as u64);
        header.set_cksum();
        out.append_pax_extensions(pax.iter().map(|(key, value)| (*key, value.as_bytes()))).unwrap();
        out.append(&header, payload).unwrap();
    }
    out.into_inner().unwrap()
}

#[derive(Clone, Debug)]
enum File {
    Directory {
        mode: u32,
        uid: u32,
        mtime: String,
    },
    /// A file, symlink or FIFO, by its number.
    Other(usize),
}

/// The tree: absolute paths without a trailing slash, the root being empty.
#[derive(Clone)]
pub(super) struct Model {
    files: BTreeMap<String, File>,
    /// Type and content of what is no directory.
    inodes: Vec<(char, String)>,
    /// A path led through one of this number or above.
    own: usize,
    crossed: bool,
    /// What entries of the changeset wrote.
    written: Vec<String>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            inodes: Vec::new(),
            own: 0,
            crossed: false,
            written: Vec::new(),
        }
    }

    /// As [`apply`](Self::apply), where the order of the changeset's entries makes no difference.
    pub(super) fn apply_if_unordered(&mut self, changeset: &[&str]) -> Result<(), String> {
        let mut backwards = self.clone();
        let reversed: Vec<_> = changeset.iter().rev().copied().collect();
        let lines: Vec<_> = changeset.iter().map(|line| parse(line)).collect();
        let beneath = |path: &str, above: &str| path.starts_with(&format!("{above}/"));
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| "lh".contains(line.kind)) {
            let earlier = lines.iter().take(index);
            let is_target = |other: &Line<'_>| line.kind == 'h' && beneath(other.name, line.rest);
            if earlier.map(|other| other.name).any(|name| beneath(name, line.name))
                || beneath(line.rest, line.name)
                || lines.iter().any(is_target)
            {
                return Err("a link is no directory".to_owned());
            }
        }
        self.apply(changeset)?;
        backwards.apply(&reversed)?;
        if backwards.lines() == self.lines() { Ok(()) } else { Err("order matters".to_owned()) }
    }

    /// Marks first, since they say what of the layers below is gone; then the entries in order;
    /// then links to what was there.
    pub(super) fn apply(&mut self, changeset: &[&str]) -> Result<(), String> {
        let lines: Vec<_> = changeset.iter().map(|line| parse(line)).collect();
        for line in &lines {
            let path = format!("/{}", line.name);
            if line.kind == 'd' && !matches!(self.files.get(&path), Some(File::Directory { .. })) {
                self.remove(&path);
            }
        }
        self.own = self.inodes.len();
        self.written.clear();
        for line in &lines {
            let (parent, name) = line.name.rsplit_once('/').unwrap_or(("", line.name));
            let Some(hidden) = name.strip_prefix(".wh.") else { continue };
            let Some(real) = self.resolve(parent, false)? else { continue };
            if hidden != ".wh..opq" {
                self.remove(&format!("{real}/{hidden}"));
            } else if !self.is_symlink(parent)? {
                self.remove_beneath(&real);
            }
        }
        let mut late = Vec::new();
        for line in lines.iter().filter(|line| !line.name.contains(".wh.")) {
            if line.kind == 'h' {
                late.push(line);
            } else {
                self.entry(line)?;
            }
        }
        for _ in 0..late.len() {
            let mut waiting: Vec<_> = late.iter().map(|line| line.name).collect();
            for line in std::mem::take(&mut late) {
                // One that is a name of another link waits for it.
                let is_late = |other: &&str| *other == line.rest;
                if waiting.iter().any(is_late) || !self.link(line)? {
                    late.push(line);
                } else {
                    waiting.retain(|name| *name != line.name);
                }
            }
        }
        // Marks behind a symlink of the changeset itself could mean what it was, or what it is.
        self.crossed = false;
        for line in lines.iter().filter(|line| line.name.contains(".wh.")) {
            self.resolve(line.name.rsplit_once('/').map_or("", |(parent, _)| parent), false)?;
            let leads = |link: &Line<'_>| line.name.starts_with(&format!("{}/", link.name));
            self.crossed |= lines.iter().any(|link| "lh".contains(link.kind) && leads(link));
        }
        if self.crossed {
            return Err("a mark behind a symlink".to_owned());
        }
        if late.is_empty() { Ok(()) } else { Err("a link to nothing".to_owned()) }
    }

    fn entry(&mut self, line: &Line<'_>) -> Result<(), String> {
        let path = self.place(line.name)?;
        self.written.push(path.clone());
        if line.kind == 'd' {
            let (mode, uid, mtime) = described(line.rest);
            if !matches!(self.files.get(&path), Some(File::Directory { .. })) {
                self.remove(&path);
            }
            self.files.insert(path, File::Directory { mode, uid, mtime });
            return Ok(());
        }
        self.remove(&path);
        self.files.insert(path, File::Other(self.inodes.len()));
        self.inodes.push((line.kind, line.rest.to_owned()));
        Ok(())
    }

    fn link(&mut self, line: &Line<'_>) -> Result<bool, String> {
        let (parent, name) = line.rest.rsplit_once('/').unwrap_or(("", line.rest));
        let Some(parent) = self.resolve(parent, false)? else { return Ok(false) };
        let file = match self.files.get(&format!("{parent}/{name}")).cloned() {
            None => return Ok(false),
            Some(File::Directory { .. }) => return Err("a link to a directory".to_owned()),
            Some(file) => file,
        };
        let same =
            |other: &File| matches!((other, &file), (File::Other(a), File::Other(b)) if a == b);
        let names = self.files.iter().filter(|(_, other)| same(other));
        if names.filter(|(name, _)| !self.written.contains(name)).count() > 1 {
            return Err("as in the kernel, the other names keep the old file".to_owned());
        }
        let path = self.place(line.name)?;
        let prefix = format!("{path}/");
        if self.written.iter().any(|other| *other == path || other.starts_with(&prefix))
            || line.name.starts_with(&format!("{}/", line.rest))
        {
            return Err("a link in place of another entry".to_owned());
        }
        self.written.push(path.clone());
        self.remove(&path);
        self.files.insert(path, file);
        Ok(true)
    }

    fn is_symlink(&mut self, path: &str) -> Result<bool, String> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(parent) = self.resolve(parent, false)? else { return Ok(false) };
        Ok(match self.files.get(&format!("{parent}/{name}")) {
            Some(File::Other(inode)) => self.inodes[*inode].0 == 'l',
            _ => false,
        })
    }

    fn place(&mut self, name: &str) -> Result<String, String> {
        let (parent, name) = name.rsplit_once('/').unwrap_or(("", name));
        Ok(format!("{}/{name}", self.resolve(parent, true)?.unwrap()))
    }

    /// Where a directory really is; made with default attributes where it is not, if so wished.
    fn resolve(&mut self, path: &str, make: bool) -> Result<Option<String>, String> {
        let mut hops = 0;
        let mut names: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at = String::new();
        while let Some(name) = names.pop() {
            if name.is_empty() || name == "." {
                continue;
            }
            if name == ".." {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            let next = format!("{at}/{name}");
            match self.files.get(&next) {
                Some(File::Directory { .. }) => at = next,
                Some(File::Other(inode)) if self.inodes[*inode].0 == 'l' => {
                    hops += 1;
                    self.crossed |= *inode >= self.own;
                    if hops > 40 {
                        return Err("too many symlinks".to_owned());
                    }
                    let target = self.inodes[*inode].1.clone();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    names.extend(target.split('/').rev().map(str::to_owned));
                }
                _ if !make => return Ok(None),
                _ if self.written.contains(&next) => return Err("beneath a file".to_owned()),
                _ => {
                    let default = File::Directory { mode: 0o755, uid: 0, mtime: "0".to_owned() };
                    self.files.insert(next.clone(), default);
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }

    fn remove(&mut self, path: &str) {
        self.files.remove(path);
        self.remove_beneath(path);
    }

    fn remove_beneath(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.files.retain(|file, _| !file.starts_with(&prefix));
    }

    /// The tree in lines, as [`super::shown`] prints one.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut first = BTreeMap::new();
        let print = |(path, file): (&String, &File)| match file {
            File::Directory { mode, uid, mtime } => {
                format!("{path} d {mode:o} {uid} {}", time(mtime))
            }
            File::Other(inode) => {
                let group: &mut String = first.entry(*inode).or_insert(path.clone());
                let (kind, content) = &self.inodes[*inode];
                let mode = if *kind == 'l' { 0o777 } else { 0o644 };
                format!("{path} {kind} {mode:o} 0 {} {content:?} ={group}", time("77.5"))
            }
        };
        self.files.iter().map(print).collect()
    }
}

/// Seconds and nine digits.
fn time(text: &str) -> String {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{fraction:0<9}")
}
