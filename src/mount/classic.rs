//! The old way: `mount(2)`, with all options in one page.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::mount::{MountAttrFlags, MountFlags};

use super::act::{Layer, Upper, refused};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::mount;

/// Mounts an overlay in a directory of its own and takes it from there at once, so that here too
/// the mount is attached nowhere.
pub(super) fn overlay(
    layers: &[Layer<'_>],
    upper: Option<Upper<'_>>,
    list: &[(&'static str, Option<&'static str>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let options = options(layers, upper, list);
    let limit = mount::page_size() - 1;
    if options.len() > limit {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("the options of the mount take {} bytes, and {limit} fit", options.len()),
        )
        .hint("this kernel takes all options in one page: use shorter paths, or Linux 6.5"));
    }
    let place = tempfile_dir()?;
    let flags = MountFlags::from_bits_truncate(u32::try_from(attributes.bits()).unwrap_or(0) & 0xf);
    let mounted = mount::classic(&place, flags, &options)
        .map_err(|error| refused(error, "mount overlay at", &place))
        .and_then(|()| {
            let dir = mount::open_target(&place).during("open", &place)?;
            let tree = mount::clone_tree(&dir).during("clone mount at", &place);
            drop(dir);
            mount::detach(&place).during("unmount", &place)?;
            tree
        });
    // Only the mount point, which is empty; never anything beneath it.
    let removed = std::fs::remove_dir(&place);
    let tree = mounted?;
    removed.during("remove", &place)?;
    Ok(tree)
}

/// An empty directory that nobody else has.
fn tempfile_dir() -> Result<std::path::PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let parent = std::env::temp_dir();
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("overlay2-mount-{}-{number}", std::process::id()));
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => return other.during("create directory", &path).map(|()| path),
        }
    }
}

fn options(
    layers: &[Layer<'_>],
    upper: Option<Upper<'_>>,
    list: &[(&'static str, Option<&'static str>)],
) -> Vec<u8> {
    let mut text = b"lowerdir=".to_vec();
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 {
            text.push(b':');
        }
        text.extend(escape(layer.path.as_os_str().as_bytes(), b":\\,"));
    }
    if let Some(Upper { upper, work }) = upper {
        for (key, layer) in [(",upperdir=", upper), (",workdir=", work)] {
            text.extend_from_slice(key.as_bytes());
            text.extend(escape(layer.path.as_os_str().as_bytes(), b"\\,"));
        }
    }
    for (key, value) in list {
        text.push(b',');
        text.extend_from_slice(key.as_bytes());
        if let Some(value) = value {
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
        }
    }
    text
}

/// The spelling of an UpperDir or WorkDir, in which the kernel resolves backslashes.
pub(super) fn escape_upper(path: &[u8]) -> Vec<u8> {
    escape(path, b"\\")
}

fn escape(path: &[u8], special: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        if special.contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}
