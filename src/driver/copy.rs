//! Files copied into the tree of a container, out of it, between two, or as a tar.

mod place;
mod source;
mod standing;
mod target;

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::changeset::{ApplyLimits, ArchiveWriter, read_archive};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::merged::Tree;
use crate::pipe::Through;
use crate::watch::Watch;

use place::{HostPlace, Place, TreePlace};
use source::Source;
use target::{Receiver, Target};

/// Where files are copied from. A symlink itself is copied, unless the options say else.
#[non_exhaustive]
pub enum CopySource<'a> {
    /// A path of a tree. With a last component `.` what a directory holds is copied, and not the
    /// directory.
    Tree(&'a Tree, &'a Path),
    /// A path of the host; with a last component `.` likewise.
    Host(&'a Path),
    /// A tar, plain or compressed, whose names are taken from the target directory on.
    Tar(&'a mut dyn Read),
}

/// Where files are copied to. A symlink at the end of a path is followed.
#[non_exhaustive]
pub enum CopyTarget<'a> {
    /// A path of a tree, which must be a writable one.
    Tree(&'a Tree, &'a Path),
    /// A path of the host.
    Host(&'a Path),
    /// A tar of all that is copied.
    Tar(&'a mut dyn Write),
}

impl fmt::Debug for CopySource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(_, path) => f.debug_tuple("Tree").field(path).finish(),
            Self::Host(path) => f.debug_tuple("Host").field(path).finish(),
            Self::Tar(_) => f.write_str("Tar"),
        }
    }
}

impl fmt::Debug for CopyTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(_, path) => f.debug_tuple("Tree").field(path).finish(),
            Self::Host(path) => f.debug_tuple("Host").field(path).finish(),
            Self::Tar(_) => f.write_str("Tar"),
        }
    }
}

/// How files are copied. The default: owned by whoever they come to, symlinks themselves.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Who owns the copies.
    pub owners: CopyOwners,
    /// What becomes of a source that is a symlink.
    pub links: CopyLinks,
}

/// Who owns copies.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CopyOwners {
    /// What comes from the host into a tree belongs to root, user 0 and group 0; what comes from a
    /// tree to the host belongs to the process. A file that is given to somebody else so is set-user-ID and
    /// set-group-ID no more, and has no capabilities. Between two trees, and from and to tars, owners
    /// stay.
    #[default]
    Receiver,
    /// The same user and group ids as before.
    Keep,
}

/// What becomes of a source that is a symlink. Those that a directory holds stay symlinks.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CopyLinks {
    /// It is copied itself.
    #[default]
    Keep,
    /// What it leads to is copied.
    Follow,
}

/// What was copied.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopySummary {
    /// Files, directories and other entries.
    pub entries: u64,
    /// Bytes of content, holes left out.
    pub bytes: u64,
    /// Owners and attributes that the process may not set, or the file system does not keep.
    pub unkept: u64,
    /// What could not be made at all: devices that the process may not create, and sockets that a
    /// tar cannot carry; from the root of what was copied.
    pub skipped: Vec<LayerPath>,
}

/// What is copied, before it is known to where.
struct Root {
    is_dir: bool,
    /// What it holds is copied, and not the directory itself.
    contents: bool,
    /// What it is called, where it has a name.
    name: Option<Vec<u8>>,
}

/// Copies files with all that is known of them: content with its holes, modes, times, attributes,
/// symlinks, hard links, devices.
///
/// Where they go is what `docker cp` does. Into a directory that exists a file or directory is
/// copied under its own name, and what a directory holds (`DIR/.`) without it. A file takes the
/// place of another, and of a path that does not exist the parent must. A directory becomes one
/// that does not exist, and joins one of its name: what lies there stays, and so do the attributes
/// of directories that exist. Files and directories do not take each other's places.
///
/// On the host only what lies beneath the target is touched: symlinks that stand there in the way
/// of what is copied are an error. Devices, FIFOs and sockets that are there are no copy's place: a
/// file that is copied to the path of a device or FIFO itself is written to it, as by `cp`, and all
/// else is an error but the same node once more, which stays. In a tree they are replaced, as
/// unpacking a tar does, and never written to: a container may have made a device that is the host's
/// disk.
///
/// A file takes the place of another once it is whole, which takes the room of both: one that cannot
/// be copied leaves what was there, and nothing of itself. Where it fails, what was copied until then
/// stays.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_stage.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let stage = Stage::new();
/// # let (driver, site) = (stage.driver(), stage.path("site"));
/// # std::fs::create_dir(&site)?;
/// # std::fs::write(site.join("index.html"), "<p>")?;
/// # driver.create(&"example".into(), Some("web"))?;
/// use overlay2::Watch;
/// use overlay2::copy::{CopyOptions, CopySource, CopyTarget, copy};
///
/// let held = driver.tree("web")?;
/// let from = CopySource::Host(&site);
/// let to = CopyTarget::Tree(held.tree(), "/srv/www".as_ref());
/// copy(from, to, &CopyOptions::default(), Watch::new())?;
/// assert!(held.tree().exists("/srv/www/index.html"));
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`ErrorKind::NotFound`] where the source, or the target's parent, is missing;
/// [`ErrorKind::InvalidInput`] where something were to be copied into itself, and from the host to
/// the host.
pub fn copy(
    from: CopySource<'_>,
    to: CopyTarget<'_>,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopySummary> {
    let found = source::find(from, options.links)?;
    let keeps = options.owners == CopyOwners::Keep;
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match to {
        CopyTarget::Tar(out) => pack(found, out, &watch),
        CopyTarget::Tree(tree, path) => {
            let place = TreePlace { tree };
            let base = destination(found.root(), &place, path)?;
            refuse_itself(&found, tree, &base)?;
            let resets = !keeps && matches!(found, Source::Host(_));
            let receiver = Receiver { owner: (0, 0), there: own };
            unpack(found, &place, base, resets.then_some(receiver), &watch)
        }
        CopyTarget::Host(path) => {
            if matches!(found, Source::Host(_)) {
                let message = "copies are made into a tree, or out of one";
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            let (place, path) = HostPlace::open(path)?;
            let base = destination(found.root(), &place, &path)?;
            let resets = !keeps && matches!(found, Source::Tree(..));
            let receiver = Receiver { owner: own, there: (0, 0) };
            unpack(found, &place, base, resets.then_some(receiver), &watch)
        }
    }
}

fn pack(found: Source<'_>, out: &mut dyn Write, watch: &Watch<'_>) -> Result<CopySummary> {
    let mut summary = CopySummary::default();
    let mut out = Through(out);
    let mut writer = ArchiveWriter::new(&mut out, watch, "archive");
    let top = match found.root() {
        Some(Root { contents: false, name: Some(name), .. }) => LayerPath::root().join(name),
        _ => LayerPath::root(),
    };
    found.each(watch, &mut |mut file, pieces| {
        if file.inode.kind == crate::inode::FileKind::Socket {
            summary.skipped.push(file.path);
            return Ok(());
        }
        file.path = top.join_path(&file.path);
        file.link = file.link.map(|first| top.join_path(&first));
        summary.entries += 1;
        writer.put(&file, pieces)
    })?;
    summary.bytes = writer.finish()?;
    Ok(summary)
}

fn unpack(
    found: Source<'_>,
    place: &impl Place,
    base: PathBuf,
    receiver: Option<Receiver>,
    watch: &Watch<'_>,
) -> Result<CopySummary> {
    let mut target = Target::new(place, base, receiver);
    let copied = found.each(watch, &mut |file, pieces| target.put(file, pieces));
    // What was copied before an error is whole, directories too.
    let finished = target.finish();
    copied.and(finished)
}

/// Which path the root of what is copied comes to.
fn destination(root: Option<&Root>, place: &impl Place, to: &Path) -> Result<PathBuf> {
    let typed = to.as_os_str().as_bytes();
    let wants_dir = typed.ends_with(b"/") || typed.ends_with(b"/.");
    let exists = place.resolve(to)?;
    let Some(Root { is_dir, contents, name }) = root else {
        return match exists {
            Some((path, true)) => Ok(path),
            Some((_, false)) => Err(Errno::NOTDIR).during("unpack the archive into", to),
            None => Err(Errno::NOENT).during("unpack the archive into", to),
        };
    };
    match exists {
        Some((path, true)) => Ok(match name {
            Some(name) if !contents => path.join(std::ffi::OsStr::from_bytes(name)),
            _ => path,
        }),
        Some(_) if *is_dir => Err(Errno::NOTDIR).during("copy a directory to", to),
        Some(_) if wants_dir => Err(Errno::NOTDIR).during("copy to", to),
        Some((path, false)) => Ok(path),
        None if wants_dir && !is_dir => Err(Errno::NOENT).during("copy into", to),
        None => {
            let name = to.file_name().ok_or(Errno::NOENT).during("copy to", to)?;
            let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            match place.resolve(parent)? {
                Some((parent, true)) => place.end_of_links(parent.join(name)),
                Some((_, false)) => Err(Errno::NOTDIR).during("copy into", parent),
                None => Err(Errno::NOENT).during("copy into", parent),
            }
        }
    }
}

/// Fails where something is to be copied onto itself, or a directory into itself, which would never
/// end.
fn refuse_itself(found: &Source<'_>, tree: &Tree, base: &Path) -> Result<()> {
    let (from, is_itself) = match found {
        Source::Tree(other, source, _) if other.is_same(tree) => {
            // A symlink that is copied to where it leads would lead to itself.
            let leads_there = tree.canonicalize(source).is_ok_and(|real| real == base);
            (source.as_path(), leads_there || base.starts_with(source))
        }
        Source::Host(source) => {
            let upper = tree.upper_path().and_then(|path| std::fs::canonicalize(path).ok());
            (source.shown(), upper.is_some_and(|upper| source.holds(&upper)))
        }
        _ => return Ok(()),
    };
    if !is_itself {
        return Ok(());
    }
    let message = format!("cannot copy {} into itself, to {}", from.display(), base.display());
    Err(Error::new(ErrorKind::InvalidInput, message))
}

/// Takes the files of a tar.
fn each_of_tar(input: &mut dyn Read, watch: &Watch<'_>, take: &mut source::Take<'_>) -> Result<()> {
    read_archive(&mut watch.reading(input), &ApplyLimits::default(), watch, take)
}
