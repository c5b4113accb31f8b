//! The old way: `mount(2)`, with all options in one page.

use std::borrow::Cow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
    let limit = mount::page_size() - 1;
    // Paths as far as they fit, since people and tools will read them in the table of mounts.
    let spellings = [Spelling::Paths, Spelling::LayersByNumber, Spelling::Numbers];
    let spelled = spellings.map(|spelling| options(layers, upper, list, spelling));
    let [.., shortest] = &spelled;
    let length = shortest.len();
    let Some(options) = spelled.into_iter().find(|options| options.len() <= limit) else {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("the options of the mount take {length} bytes, and {limit} fit"),
        )
        .hint("this kernel takes all options in one page: use fewer layers, or Linux 6.8"));
    };
    let place = tempfile_dir()?;
    let flags = MountFlags::from_bits_truncate(attributes.bits() & 0xf);
    let mounted = mount::open_target(&place)
        .and_then(|target| mount::classic_of_open(&target, flags, &options))
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

/// How directories are named in the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// By path, where that means the directory and no other.
    Paths,
    /// UpperDir and WorkDir so, layers by the number of their descriptor.
    LayersByNumber,
    /// All by the number of their descriptor.
    Numbers,
}

fn options(
    layers: &[Layer<'_>],
    upper: Option<Upper<'_>>,
    list: &[(&'static str, Option<&'static str>)],
    spelling: Spelling,
) -> Vec<u8> {
    let mut text = b"lowerdir=".to_vec();
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 {
            text.push(b':');
        }
        text.extend_from_slice(&name(layer, b"\\\",:", spelling == Spelling::Paths));
    }
    if let Some(Upper { upper, work }) = upper {
        for (key, layer) in [(",upperdir=", upper), (",workdir=", work)] {
            text.extend_from_slice(key.as_bytes());
            text.extend_from_slice(&name(&layer, b"\\\",", spelling != Spelling::Numbers));
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

/// The text in each spelling.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz_options(
    layers: &[Layer<'_>],
    upper: Option<Upper<'_>>,
    list: &[(&'static str, Option<&'static str>)],
) -> [Vec<u8>; 3] {
    [Spelling::Paths, Spelling::LayersByNumber, Spelling::Numbers]
        .map(|spelling| options(layers, upper, list, spelling))
}

/// `special` is what would have to be escaped where this name stands.
fn name<'a>(layer: &Layer<'a>, special: &[u8], by_path: bool) -> Cow<'a, [u8]> {
    let path = plain_path(layer, special).filter(|_| by_path);
    let number = || layer.dir.as_fd().as_raw_fd().to_string().into_bytes().into();
    path.map_or_else(number, Cow::Borrowed)
}

/// The directory's path, where it leads to the directory and holds no `special` byte, which would
/// have to be escaped.
pub(super) fn plain_path<'a>(layer: &Layer<'a>, special: &[u8]) -> Option<&'a [u8]> {
    let path = layer.path.as_os_str().as_bytes();
    let plain = layer.path.is_absolute() && !path.iter().any(|byte| special.contains(byte));
    (plain && mount::leads_to(layer.path, layer.dir)).then_some(path)
}
