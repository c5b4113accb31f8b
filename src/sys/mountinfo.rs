//! `/proc/self/mountinfo`: the mounts that the process sees.
//!
//! Source: proc_pid_mountinfo(5).

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::dir::SysResult;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountInfo {
    /// The file system: `MAJOR:MINOR`.
    pub(crate) device: Vec<u8>,
    /// The directory of the file system that is its root.
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) file_system: Vec<u8>,
    /// The options of the file system, commas between them, escaped as the kernel escapes them.
    pub(super) options: Vec<u8>,
}

impl MountInfo {
    /// An overlay, of which the kernel told these options.
    pub(crate) fn of_overlay(target: PathBuf, options: Vec<u8>) -> Self {
        let (device, root) = (Vec::new(), PathBuf::from("/"));
        Self { device, root, target, file_system: b"overlay".to_vec(), options }
    }

    /// The value of an option of the file system.
    pub(crate) fn option(&self, key: &str) -> Option<Vec<u8>> {
        self.options.split(|&byte| byte == b',').find_map(|option| {
            let value = option.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
            Some(unescape(value))
        })
    }

    /// The paths in the options of an overlay; those in which a colon stands are cut there.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let texts = self.options.split(|byte| b":,=".contains(byte));
        let paths = texts.filter(|text| text.contains(&b'/'));
        paths.map(|text| OsString::from_vec(unescape(text)).into())
    }

    /// Whether the file system has an option without a value.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.options.split(|&byte| byte == b',').any(|option| option == flag.as_bytes())
    }
}

/// The mounts that the process sees, in the order of the kernel; where `word` is given, those alone
/// in whose lines it stands, letter by letter.
///
/// The error is ENOENT where `/proc` is not mounted.
pub(crate) fn read(word: Option<&[u8]>) -> SysResult<Vec<MountInfo>> {
    read_of(c"/proc/self/mountinfo", word)
}

/// As [`read`], from the table of another process.
pub(crate) fn read_of(table: &CStr, word: Option<&[u8]>) -> SysResult<Vec<MountInfo>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = retry_on_intr(|| rustix::fs::openat(CWD, table, flags, Mode::empty()))?;
    let mut text = Vec::with_capacity(READ_AT_ONCE);
    loop {
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text)) {
            // A short read is not the end of this file: the kernel gives whole lines.
            Ok(0) => break,
            Ok(_) => text.reserve(READ_AT_ONCE),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    let lines = text.split(|&byte| byte == b'\n');
    Ok(lines.filter(|line| word.is_none_or(|word| holds(line, word))).filter_map(parse).collect())
}

/// The tables of mounts of the namespaces that the process is not in: the inode and one process of each,
/// and the path of its table. Those that the caller may not look at are left out.
pub(crate) fn other_tables() -> Vec<(u64, u32, CString)> {
    let mut seen: HashSet<u64> = namespace_of("self").into_iter().collect();
    let others = processes().filter_map(|process| {
        let namespace = namespace_of(&process.to_string())?;
        seen.insert(namespace).then_some((namespace, process))
    });
    others.filter_map(|(namespace, process)| Some((namespace, process, table(process)?))).collect()
}

/// A process in the mount namespace with the inode `namespace`; `None` where there is none that the
/// caller may look at.
pub(crate) fn process_in(namespace: u64) -> Option<u32> {
    processes().find(|process| namespace_of(&process.to_string()) == Some(namespace))
}

/// As [`process_in`], and the path of its table.
pub(crate) fn table_of(namespace: u64) -> Option<(u32, CString)> {
    let process = process_in(namespace)?;
    Some((process, table(process)?))
}

/// The inode of a process's mount namespace.
pub(crate) fn namespace_of(process: &str) -> Option<u64> {
    Some(rustix::fs::stat(format!("/proc/{process}/ns/mnt")).ok()?.st_ino)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn table(process: u32) -> Option<CString> {
    CString::new(format!("/proc/{process}/mountinfo")).ok()
}

/// The kernel gives at most about as much as this by one call, unless a line is longer.
const READ_AT_ONCE: usize = 32 << 10;

fn holds(line: &[u8], word: &[u8]) -> bool {
    word.is_empty() || line.windows(word.len()).any(|window| window == word)
}

fn parse(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let root = fields.next()?;
    let target = fields.next()?;
    // Any number of optional fields, then a dash.
    fields.find(|field| *field == b"-")?;
    let file_system = fields.next()?;
    let options = fields.nth(1)?;
    Some(MountInfo {
        device: device.to_vec(),
        root: OsString::from_vec(unescape(root)).into(),
        target: OsString::from_vec(unescape(target)).into(),
        file_system: file_system.to_vec(),
        options: options.to_vec(),
    })
}

/// Resolves `\` and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let octal = |digits: &&[u8]| digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
        let digits = after.get(..3).filter(|_| first == b'\\').filter(octal);
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => out.push(first),
        }
    }
    out
}

/// Any bytes as the table; and any bytes as a path in it, which must come out as it went in.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(data: &[u8]) {
    for info in data.split(|&byte| byte == b'\n').filter_map(parse) {
        let _ = (info.option("upperdir"), info.has("volatile"));
    }
    // As the kernel escapes them: show_type(), mangle(), seq_show_option().
    let escape = |bytes: &[u8]| -> Vec<u8> {
        let special = b" \t\n\\#,";
        let one = |&byte: &u8| match special.contains(&byte) {
            true => format!("\\{byte:03o}").into_bytes(),
            false => vec![byte],
        };
        bytes.iter().flat_map(one).collect()
    };
    let path = escape(data);
    let line = [b"1 2 0:3 / ", &path[..], b" rw - overlay o rw,upperdir=", &path, b",x"].concat();
    let found = parse(&line);
    assert_eq!(found.as_ref().and_then(|info| info.option("upperdir")).as_deref(), Some(data));
    let target = found.map(|info| info.target.into_os_string().into_vec());
    assert_eq!(target.as_deref(), Some(data));
}

/// A table that a test has as text.
#[cfg(test)]
pub(crate) fn of_text(text: &str) -> Vec<MountInfo> {
    text.as_bytes().split(|&byte| byte == b'\n').filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let info = parse(line).unwrap();
        assert_eq!(info.target, PathBuf::from("/mnt 2"));
        assert_eq!((info.device.as_slice(), info.root.as_path()), (&b"98:0"[..], "/mnt1".as_ref()));
        assert_eq!(info.file_system, b"ext3");
        assert_eq!(info.option("errors").unwrap(), b"continue");
        assert!(info.has("rw") && !info.has("errors"));
        assert_eq!(parse(b""), None);
        assert_eq!(unescape(br"a\134b\012c\x"), b"a\\b\nc\\x");
        assert_eq!(unescape(br"\+12\400"), br"\+12\400");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(read(None).unwrap().iter().any(|info| info.target.as_os_str() == "/"));
    }
}
