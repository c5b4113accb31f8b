//! Carries a plan out; decides nothing but which of the kernel's ways is there.

use std::borrow::{Borrow, Cow};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::classic;
use super::find::Source;
use super::options::{MountAccess, Restrictions, Way};
use super::plan::{Kind, MountPlan};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::mount::{self, Context, LONGEST_TEXT};
use crate::sys::xattr::proc_path;

/// A directory of a stack.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// The directory, open.
    pub dir: &'a Dir,
    /// The path by which messages, and kernels before 6.13, know it.
    pub path: &'a Path,
}

/// The directories that are written.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// What is changed, and the marks of what is deleted.
    pub upper: Layer<'a>,
    /// The kernel's own, on the same file system.
    pub work: Layer<'a>,
}

/// A mount that is attached nowhere: only whoever holds this can reach it, and it goes when this is
/// dropped.
#[derive(Debug)]
pub struct Mounted(OwnedFd);

impl MountPlan {
    /// Mounts the layers, topmost first, with or without an UpperDir as was planned.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] where the process may not mount; what else the kernel
    /// answers, with its own words where it has any; [`ErrorKind::NoSpace`] where the kernel would
    /// have mounted an UpperDir read-only, since nothing can be made in the WorkDir.
    pub fn mount(&self, layers: &[Layer<'_>], upper: Option<Upper<'_>>) -> Result<Mounted> {
        let planned = match &self.kind {
            Kind::Overlay { upper, .. } => *upper,
            Kind::Bind => false,
        };
        if layers.len() != self.layers || upper.is_some() != planned {
            return Err(Error::new(ErrorKind::InvalidInput, "other parts than were planned"));
        }
        let attributes = attributes(self.options.restrict, self.options.access);
        match &self.kind {
            Kind::Bind => bind(layers, attributes).map(Mounted),
            Kind::Overlay { list, .. } => {
                let mounted = overlay(layers, upper, list, self.options.way, attributes)?;
                self.writable(Mounted(mounted), upper)
            }
        }
    }
}

impl MountPlan {
    /// As [`mount`](Self::mount), with layers that are opened one after the other: `open` is called
    /// with 0 for the topmost and so on, and may give one that is only held (`O_PATH`); `path` tells
    /// the path of each, where it is needed. Where the kernel takes descriptors (Linux 6.13) no more
    /// than one layer is open at a time, so that a stack of hundreds fits a small limit of open
    /// files; else all are opened first.
    ///
    /// # Errors
    /// As [`mount`](Self::mount); as `open`.
    pub fn mount_each<D: Borrow<Dir>>(
        &self,
        mut open: impl FnMut(usize) -> Result<D>,
        path: impl Fn(usize) -> PathBuf,
        upper: Option<Upper<'_>>,
    ) -> Result<Mounted> {
        let mut opened = Vec::new();
        if let Kind::Overlay { upper: planned, list } = &self.kind
            && *planned == upper.is_some()
            && matches!(self.options.way, Way::Best | Way::Descriptors)
            && let Ok(context) = Context::overlay()
        {
            let first = open(0)?;
            match context.descriptor("lowerdir+", first.borrow().as_fd()) {
                Ok(()) => {
                    drop(first);
                    for index in 1..self.layers {
                        let dir = open(index)?;
                        context.descriptor("lowerdir+", dir.borrow().as_fd()).map_err(|error| {
                            failed(&context, error).within(path(index).display())
                        })?;
                    }
                    let attributes = attributes(self.options.restrict, self.options.access);
                    return hand_over_upper(&context, upper)
                        .and_then(|()| finish(&context, upper, list, attributes))
                        .map_err(|error| failed(&context, error))
                        .and_then(|mounted| self.writable(Mounted(mounted), upper));
                }
                // Another way, or the same error once more, with all that is said of it.
                Err(_) => opened.push(first),
            }
        }
        for index in opened.len()..self.layers {
            opened.push(open(index)?);
        }
        let paths: Vec<_> = (0..opened.len()).map(path).collect();
        let layers = opened.iter().map(D::borrow).zip(&paths);
        let layers: Vec<_> = layers.map(|(dir, path)| Layer { dir, path }).collect();
        self.mount(&layers, upper)
    }

    /// Fails where a mount is read-only that was not to be: where the kernel can make nothing in the
    /// WorkDir, it goes on without a word to the caller.
    fn writable(&self, mounted: Mounted, upper: Option<Upper<'_>>) -> Result<Mounted> {
        let Some(Upper { work, .. }) = upper else { return Ok(mounted) };
        let to_be_read = self.options.access == MountAccess::ReadOnly;
        if to_be_read || !mount::is_read_only(&mounted.0).during("stat", "mount")? {
            return Ok(mounted);
        }
        let probe = format!("probe-{}", std::process::id()).into_bytes();
        let made = work.dir.make_dir(&probe, 0o700);
        let _ = made.and_then(|()| work.dir.remove_dir(&probe));
        Err(refused(made.err().unwrap_or(Errno::ROFS), "write to", work.path))
    }
}

impl Mounted {
    /// The root of the mounted tree, which stays mounted as long as anything in it is open.
    ///
    /// # Errors
    /// Where no more descriptors can be had.
    pub fn root(&self) -> Result<Dir> {
        let dir = self.0.try_clone().during("duplicate", "mount")?;
        // A mount's own descriptor is one that only resolves; this one can be read.
        Dir::from_fd(dir)
            .descend(&crate::layer_path::LayerPath::root())
            .during("open", "root of the mount")
    }

    /// Puts the mount at the directory `target`, where it stays when the process ends.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such directory.
    pub fn attach(self, target: &Path) -> Result<()> {
        let at = mount::open_target(target).during("open mount point", target)?;
        mount::attach(self.0.as_fd(), &at).during("attach mount at", target)
    }
}

impl AsFd for Mounted {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Mounted> for OwnedFd {
    fn from(mounted: Mounted) -> Self {
        mounted.0
    }
}

/// How long a mount may be busy: whoever asks for its attributes holds it for a moment.
const BUSY: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// Unmounts what is mounted at `target`; the directory itself stays.
///
/// # Errors
/// [`ErrorKind::InUse`] where a process works in it or has a file of it open;
/// [`ErrorKind::NotFound`] where nothing is mounted there.
pub fn unmount(target: &Path) -> Result<()> {
    let mut ended = mount::unmount(target);
    for milliseconds in BUSY {
        if ended != Err(Errno::BUSY) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        ended = mount::unmount(target);
    }
    match ended {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(Error::os(Errno::BUSY, "unmount", target).hint(
            "a process has its working directory or an open file in it, or something is mounted \
             inside: fuser -vm tells which",
        )),
        Err(Errno::INVAL) => Err(Error::new(
            ErrorKind::NotFound,
            format!("unmount {}: nothing is mounted there", target.display()),
        )),
        Err(error) => Err(error).during("unmount", target),
    }
}

/// Whether any mount writes to an UpperDir: also one in another mount namespace, or one that was
/// taken out of the tree while it was busy.
///
/// The kernel is asked for a mount that it cannot make, since its WorkDir is its UpperDir; told to
/// keep an index, it first refuses an UpperDir that is in use. Where it cannot be asked, the answer
/// is no.
pub(crate) fn is_in_use(upper: &Dir, namespace: Namespace) -> bool {
    let mut answer = ask_for_impossible(upper, namespace);
    for milliseconds in BUSY {
        // A mount whose last user is gone takes the kernel a moment.
        if answer != Err(Errno::BUSY) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        answer = ask_for_impossible(upper, namespace);
    }
    answer == Err(Errno::BUSY)
}

fn ask_for_impossible(upper: &Dir, namespace: Namespace) -> Result<(), Errno> {
    let context = Context::overlay()?;
    let path = proc_path(upper.as_fd());
    for key in ["lowerdir", "upperdir", "workdir"] {
        context.string(key, path.as_bytes())?;
    }
    context.string("index", b"on")?;
    if namespace == Namespace::User {
        context.flag("userxattr")?;
    }
    context.mount(MountAttrFlags::empty()).map(drop)
}

/// Takes what is mounted at `target` out of the tree at once; it goes when its last user does.
///
/// # Errors
/// As the kernel answers.
pub fn detach(target: &Path) -> Result<()> {
    mount::detach(target).during("unmount", target)
}

fn attributes(restrict: Restrictions, access: MountAccess) -> MountAttrFlags {
    let mut flags = MountAttrFlags::empty();
    for (wanted, flag) in [
        (restrict.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (restrict.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (restrict.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (access == MountAccess::ReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    flags
}

fn bind(layers: &[Layer<'_>], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let layer = layers.first().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no layer"))?;
    let tree = mount::clone_tree(layer.dir).map_err(|error| refused(error, "bind", layer.path))?;
    mount::set_attributes(tree.as_fd(), attributes)
        .during("set attributes of mount of", layer.path)?;
    Ok(tree)
}

type List = [(&'static str, Option<&'static str>)];

fn overlay(
    layers: &[Layer<'_>],
    upper: Option<Upper<'_>>,
    list: &List,
    way: Way,
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    if way == Way::Classic {
        return classic::overlay(layers, upper, list, attributes);
    }
    let context = match Context::overlay() {
        Ok(context) => context,
        Err(Errno::NOSYS) if way == Way::Best => {
            return classic::overlay(layers, upper, list, attributes);
        }
        Err(error) => return Err(refused(error, "mount", Path::new("overlay"))),
    };
    let by_descriptor = match way {
        Way::Strings => false,
        _ => match first_layer(&context, layers) {
            Ok(()) => true,
            Err(Errno::INVAL | Errno::OPNOTSUPP) if way == Way::Best => false,
            Err(error) => return Err(failed(&context, error)),
        },
    };
    let configured = if by_descriptor {
        hand_over(&context, layers, upper)
    } else if way == Way::Best && !Context::overlay_checks_options() {
        return classic::overlay(layers, upper, list, attributes);
    } else {
        match name(&context, layers, upper) {
            // Before Linux 6.8 layers could not be named one by one.
            Err(Errno::INVAL) if way == Way::Best => {
                return classic::overlay(layers, upper, list, attributes);
            }
            other => other,
        }
    };
    configured
        .and_then(|()| finish(&context, upper, list, attributes))
        .map_err(|error| failed(&context, error))
}

/// Sets the options and makes the mount.
fn finish(
    context: &Context,
    upper: Option<Upper<'_>>,
    list: &List,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    if let Some(Upper { upper, .. }) = upper {
        let volatile = list.iter().any(|(key, _)| *key == "volatile");
        let source = Source::of(&upper.dir.stat_self()?).text(volatile);
        context.string("source", source.as_bytes())?;
    }
    list.iter().try_for_each(|(key, value)| match value {
        Some(value) => context.string(key, value.as_bytes()),
        None => context.flag(key),
    })?;
    context.mount(attributes)
}

fn first_layer(context: &Context, layers: &[Layer<'_>]) -> Result<(), Errno> {
    let first = layers.first().ok_or(Errno::INVAL)?;
    context.descriptor("lowerdir+", first.dir.as_fd())
}

/// Hands over what is left after the first layer.
fn hand_over(
    context: &Context,
    layers: &[Layer<'_>],
    upper: Option<Upper<'_>>,
) -> Result<(), Errno> {
    for layer in layers.iter().skip(1) {
        context.descriptor("lowerdir+", layer.dir.as_fd())?;
    }
    hand_over_upper(context, upper)
}

fn hand_over_upper(context: &Context, upper: Option<Upper<'_>>) -> Result<(), Errno> {
    let Some(Upper { upper, work }) = upper else { return Ok(()) };
    context.descriptor("upperdir", upper.dir.as_fd())?;
    context.descriptor("workdir", work.dir.as_fd())
}

fn name(context: &Context, layers: &[Layer<'_>], upper: Option<Upper<'_>>) -> Result<(), Errno> {
    for layer in layers {
        context.string("lowerdir+", &text(layer))?;
    }
    let Some(Upper { upper, work }) = upper else { return Ok(()) };
    context.string("upperdir", &text(&upper))?;
    context.string("workdir", &text(&work))
}

/// A directory's path where it fits and needs no escape; else the name of its descriptor.
fn text<'a>(layer: &Layer<'a>) -> Cow<'a, [u8]> {
    let path = classic::plain_path(layer, b"\\").filter(|path| path.len() <= LONGEST_TEXT);
    path.map_or_else(|| proc_path(layer.dir.as_fd()).into_bytes().into(), Cow::Borrowed)
}

/// An error with what the kernel said of it.
fn failed(context: &Context, error: Errno) -> Error {
    let messages = context.messages();
    let error = refused(error, "mount", Path::new("overlay"));
    if messages.is_empty() {
        return error;
    }
    let told = messages.join("; ");
    // As the kernel has said it since it says why: on another overlay, as in a container, on NFS or FUSE.
    let unfit = told.contains("not supported as upperdir");
    let error = error.within(told);
    match unfit {
        true => error.hint(
            "the store's file system cannot hold what an overlay writes: keep the store on ext4, XFS, \
             btrfs or tmpfs (in a container: on a volume); without a mount, ls, cp, diff and commit work",
        ),
        false => error,
    }
}

/// An error with what would help.
pub(super) fn refused(error: Errno, doing: &str, what: &Path) -> Error {
    let help = match error {
        Errno::PERM | Errno::ACCESS => {
            Some("mounting needs root, or a user namespace: run it through overlay2 unshare")
        }
        Errno::NODEV => Some("this kernel has no overlayfs: load the module overlay"),
        Errno::BUSY => Some("another mount uses the same UpperDir or WorkDir"),
        Errno::LOOP => Some("the same directory stands in the stack twice"),
        Errno::NOSPC | Errno::DQUOT => {
            Some("the kernel mounts read-only where it can make nothing in the WorkDir: free space")
        }
        Errno::STALE => Some("the UpperDir was used with other layers before"),
        _ => None,
    };
    let error = Error::os(error, doing, what);
    match help {
        Some(help) => error.hint(help),
        None => error,
    }
}
