//! What the bodies of the fuzz targets stand on: input as choices, archives mended so that they come
//! past the first check, scratch directories, directories compared.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "compiled for tests and fuzzing alone, where to panic is to report"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::digest::Digest;
use crate::sys::Dir;
use crate::sys::xattr::{self, Target};

/// Input that is used up from its front, as one choice after the other; zeros when it has ended.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `end`, which is at most 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// As many bytes as there are, at most `count`.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A run of bytes whose length stands before it.
    pub(crate) fn run(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.take(length.into())
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// A directory of its own that goes with the value, in memory where that can be had.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let memory = Path::new("/dev/shm");
        let in_memory = cfg!(fuzzing) && memory.is_dir();
        let parent = if in_memory { memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("overlay2-fuzz-{}-{number}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A new directory in it, by its path.
    pub(crate) fn make(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A new directory in it, opened.
    pub(crate) fn dir(&self, name: &str) -> Dir {
        Dir::open_ambient(self.make(name)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        open_up(&self.0);
        let removed = fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Lets the owner into directories that were closed, so that they can be removed.
fn open_up(path: &Path) {
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(dirs.map(|entry| entry.path()));
    }
}

/// All that a directory holds, by path: type, mode, owner, time, attributes, content.
pub(crate) fn listing(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let told = fs::symlink_metadata(&path).unwrap();
        let kind = told.file_type();
        let held = rustix::fs::openat(
            rustix::fs::CWD,
            &path,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW,
            rustix::fs::Mode::empty(),
        );
        let held = held.unwrap();
        let xattrs = match kind.is_symlink() {
            // What holds a symlink only cannot be asked for attributes.
            true => Default::default(),
            false => xattr::read_all(Target::held(&held)).unwrap_or_default(),
        };
        let content = match (kind.is_file(), kind.is_symlink()) {
            (true, _) => fs::read(&path).map(|bytes| Digest::of(&bytes).hex()).unwrap_or_default(),
            (_, true) => format!("{:?}", fs::read_link(&path).unwrap()),
            _ => String::new(),
        };
        // A directory's size and number of links are its file system's own affair.
        let sizes = if kind.is_dir() { (0, 0) } else { (told.len(), told.nlink()) };
        let owner = (told.uid(), told.gid(), told.mode(), told.rdev());
        // A whiteout's tells of nothing but the moment at which it was made.
        let is_whiteout = kind.is_char_device() && told.rdev() == 0;
        let time = if is_whiteout { (0, 0) } else { (told.mtime(), told.mtime_nsec()) };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        found.insert(name, format!("{owner:?} {sizes:?} {time:?} {xattrs:?} {content}"));
        if kind.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// The unit of a tar.
const BLOCK: usize = 512;

/// Gives the headers of a tar the checksums that they need, as far as sizes tell where one stands,
/// since no mutation finds them. A header that has `!` as its checksum's last byte keeps it.
pub(crate) fn mend_checksums(tar: &[u8]) -> Vec<u8> {
    let mut mended = tar.to_vec();
    let mut at = 0;
    while let Some(block) = mended.get_mut(at..at + BLOCK) {
        at += BLOCK;
        if block.iter().all(|&byte| byte == 0) || block[155] == b'!' {
            continue;
        }
        let stated = octal(&block[148..156]);
        let own = (0..BLOCK).filter(|at| !(148..156).contains(at));
        let sum = 8 * 32 + own.map(|at| u64::from(block[at])).sum::<u64>();
        if stated != Some(sum) {
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let has_payload = !matches!(block[156], b'1'..=b'6');
        let mut more = block[156] == b'S' && block[482] != 0;
        let size = octal(&block[124..136]).unwrap_or(0);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        while more {
            more = mended.get(at + 504).is_some_and(|&byte| byte != 0);
            at = at.saturating_add(BLOCK);
        }
        if has_payload {
            at = at.saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
        }
        if at >= mended.len() {
            break;
        }
    }
    mended
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok()
}

/// What begins an input that is a list of documents.
const DOCUMENTS: &[u8] = b"documents\n";

/// An archive: the input itself with its checksums mended, or one of the documents that the input
/// lists, each behind a line `--- NAME`.
///
/// In a document `@N@` stands for the digest (64 digits) of the document number N, which must come
/// later, and `#N#` for its length; in a name `@` for its own digest. So a change of one document
/// does not make those that name it worthless. A document whose name ends with `~` is a tar, whose
/// checksums are mended.
pub(crate) fn archive(input: &[u8]) -> Vec<u8> {
    let Some(list) = input.strip_prefix(DOCUMENTS) else {
        return mend_checksums(input);
    };
    let mut documents = split_documents(list);
    let mut known: Vec<(String, usize)> = vec![Default::default(); documents.len()];
    for index in (0..documents.len()).rev() {
        let (name, body) = &mut documents[index];
        if name.last() == Some(&b'~') {
            name.pop();
            *body = mend_checksums(body);
        } else {
            *body = fill_in(body, &known);
        }
        known[index] = (Digest::of(body).hex(), body.len());
        if let Some(at) = name.iter().position(|&byte| byte == b'@') {
            name.splice(at..=at, known[index].0.bytes());
        }
    }
    tar_of(&documents)
}

fn split_documents(list: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    const MARK: &[u8] = b"--- ";
    let starts: Vec<usize> = (0..list.len())
        .filter(|&at| list[at..].starts_with(MARK) && (at == 0 || list[at - 1] == b'\n'))
        .take(64)
        .collect();
    let ends = starts.iter().skip(1).map(|&at| at - 1).chain([list.len()]);
    let part = |(start, end): (&usize, usize)| {
        let part = &list[start + MARK.len()..end.max(start + MARK.len())];
        let line = part.iter().position(|&byte| byte == b'\n').unwrap_or(part.len());
        (part[..line].to_vec(), part.get(line + 1..).unwrap_or_default().to_vec())
    };
    starts.iter().zip(ends).map(part).collect()
}

fn fill_in(text: &[u8], known: &[(String, usize)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let end = after.iter().take(3).position(|&byte| byte == first);
        let number = end.and_then(|end| std::str::from_utf8(&after[..end]).ok()?.parse().ok());
        let found = number.and_then(|number: usize| known.get(number));
        match (first, found, end) {
            (b'@', Some((digest, _)), Some(end)) => {
                out.extend_from_slice(digest.as_bytes());
                rest = &after[end + 1..];
            }
            (b'#', Some((_, length)), Some(end)) => {
                out.extend_from_slice(length.to_string().as_bytes());
                rest = &after[end + 1..];
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// A tar of files; a body of `-> TARGET` makes a symlink.
fn tar_of(documents: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, body) in documents {
        let mut header = tar::Header::new_gnu();
        let name = &name[..name.len().min(100)];
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let target = body.strip_prefix(b"-> ");
        let body: &[u8] = if target.is_some() { b"" } else { body };
        if let Some(target) = target {
            let target = &target[..target.len().min(100)];
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
            header.set_entry_type(tar::EntryType::Symlink);
        }
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(body);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_name_each_other() {
        let list =
            b"documents\n--- a/@\n{\"digest\":\"@1@\",\"size\":#1#,\"x\":\"@9@ # \"}\n--- b\nhello";
        let tar = archive(list);
        let mut archive = tar::Archive::new(&tar[..]);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            found.push((name, text));
        }
        let hello = Digest::of(b"hello").hex();
        let first = format!("{{\"digest\":\"{hello}\",\"size\":5,\"x\":\"@9@ # \"}}");
        assert_eq!(found[0], (format!("a/{}", Digest::of(first.as_bytes()).hex()), first));
        assert_eq!(found[1], ("b".to_owned(), "hello".to_owned()));
    }

    #[test]
    fn spoilt_checksums_are_mended_and_right_ones_stay() {
        let tar = archive(b"documents\n--- a\nhello\n--- b\nyou");
        assert_eq!(mend_checksums(&tar), tar);
        let mut spoilt = tar.clone();
        spoilt[0] = b'x';
        spoilt[1024] = b'y';
        let mended = mend_checksums(&spoilt);
        let names: Vec<_> = tar::Archive::new(&mended[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["x", "y"]);
    }
}
