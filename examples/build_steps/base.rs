//! The root file system that both stages begin with, as a tar: made of this machine, no network.

use std::io;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::Result;

/// What the shell of the base can do.
const APPLETS: [&str; 9] = ["sh", "cat", "chmod", "echo", "head", "id", "ls", "mkdir", "yes"];

/// The static busybox of this machine.
pub(crate) fn busybox() -> Option<PathBuf> {
    let known = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"].map(PathBuf::from);
    // A dynamic one names its loader near the beginning, and would not run without it.
    let is_static = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let head = bytes.get(..4096).unwrap_or(&bytes);
        bytes.starts_with(b"\x7fELF") && !head.windows(4).any(|part| part == b"/ld-")
    };
    known.into_iter().find(is_static)
}

/// The directories of a Unix, and busybox; without one, this very program as an example of a file.
pub(crate) fn rootfs() -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let names = "bin dev etc home lib media mnt opt proc root run sbin srv sys tmp usr usr/bin var";
    for name in names.split(' ') {
        let mode = if name == "tmp" { 0o1777 } else { 0o755 };
        let mut header = header(EntryType::Directory, mode, 0);
        tar.append_data(&mut header, format!("{name}/"), io::empty())?;
    }
    put(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    match busybox() {
        Some(path) => {
            put(&mut tar, "bin/busybox", 0o755, &std::fs::read(path)?)?;
            for applet in APPLETS {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut header, format!("bin/{applet}"), Path::new("busybox"))?;
            }
        }
        None => put(&mut tar, "bin/build_steps", 0o755, &std::fs::read(std::env::current_exe()?)?)?,
    }
    Ok(tar.into_inner()?)
}

fn put(tar: &mut Builder<Vec<u8>>, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Regular, mode, bytes.len()), name, bytes)
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_767_225_600);
    header.set_size(size as u64);
    header
}
