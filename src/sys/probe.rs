//! [`KernelFeatures`]: what the kernel, the file system and this process's rights allow, by trying.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};
use rustix::thread::CapabilitySet;

use super::dir::{Dir, SysResult};
use super::mount::Context as Overlay;
use super::xattr::{self, Target};
use super::{mount, quota, remove, userns};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::inode::Device;
use crate::namespace::Namespace;

/// What can be done in a directory, here and now; found out by doing it.
///
/// The answers hold for the kernel, the file system of the directory and the rights of the process
/// together: the same directory can give others to another user. They are printed by
/// `overlay2 info`, and say in an error what is missing.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KernelFeatures {
    /// The kernel's release, such as `6.18.2-generic`; for people, nothing is decided by it.
    pub release: String,
    /// The file system's type, such as `ext4`; one that has no name here is its magic in hex.
    pub filesystem: String,
    /// In the user namespace of the boot; in any other, overlays need `userxattr` (Linux 5.11).
    pub initial_user_namespace: bool,
    /// How many user ids there are; with one alone, other owners are only recorded in attributes.
    pub mapped_ids: u64,
    /// Overlays with `trusted.overlay.*` can be mounted (root, Linux 3.18); else with `userxattr`.
    pub overlay_trusted: bool,
    /// Overlays with `userxattr` can be mounted (Linux 5.11); without either, nothing is mounted.
    pub overlay_user: bool,
    /// Mounts are made by `fsopen` (Linux 5.2); else by `mount(2)`, options within one page.
    pub fsopen: bool,
    /// Layers are added one by one by `lowerdir+` (Linux 6.8); else all in one `lowerdir`.
    pub lowerdir_plus: bool,
    /// Layers are handed over as descriptors (Linux 6.13); else by path.
    pub layer_descriptors: bool,
    /// A whiteout can be a 0:0 device (root, or Linux 5.8); else layers that delete cannot be kept.
    pub whiteout_device: bool,
    /// `trusted.*` attributes can be set (root of the boot's namespace); else `user.overlay.*`.
    pub trusted_xattrs: bool,
    /// `user.*` attributes can be set (on tmpfs Linux 6.6); without them, no rootless layers.
    pub user_xattrs: bool,
    /// Files share blocks by `FICLONE` (Linux 4.5; btrfs, xfs, …); else contents are copied.
    pub reflink: bool,
    /// Files are made without a name, and named when whole (Linux 3.11); else renamed into place.
    pub unnamed_files: bool,
    /// A rename can leave a whiteout (Linux 3.18); without it overlayfs takes no upper directory.
    pub rename_whiteout: bool,
    /// Two names can be exchanged (Linux 3.15); without it a replaced name is missing for a moment.
    pub rename_exchange: bool,
    /// Paths are resolved beneath a directory by `openat2` (Linux 5.6); else component by component.
    pub openat2: bool,
    /// Attributes of a name in a directory by `setxattrat` (Linux 6.13); else by way of `/proc`.
    pub xattrat: bool,
    /// Containers can be limited by project quotas (Linux 5.14; XFS, and ext4 with the features
    /// `project` and `quota`, mounted with `prjquota`); else a quota is refused.
    pub project_quotas: bool,
}

impl KernelFeatures {
    /// Tries everything in a scratch directory beneath `dir`, which is gone afterwards.
    ///
    /// It takes a few milliseconds. Nothing is mounted anywhere: overlays are tried detached.
    ///
    /// # Errors
    /// Where no directory can be made in `dir`: it is read-only, or not the caller's. A feature
    /// that is missing is no error.
    pub fn probe(dir: &Dir) -> Result<Self> {
        in_scratch(dir, Self::probe_in)
    }

    fn probe_in(dir: &Dir) -> Result<Self> {
        let (uids, _) = userns::current_maps()?;
        let trusted_xattrs = sets_attribute(dir, b"trusted.overlay2.probe");
        let user_xattrs = sets_attribute(dir, b"user.overlay2.probe");
        // Without them it mounts all the same, and fails at the first directory that it replaces.
        let overlay_trusted = trusted_xattrs && overlays(dir, Namespace::Trusted);
        let overlay_user = user_xattrs && overlays(dir, Namespace::User);
        let namespace = if overlay_trusted { Namespace::Trusted } else { Namespace::User };
        let by_path = |overlay: &Overlay, layer: &Dir| {
            overlay.string("lowerdir+", xattr::proc_path(layer.as_fd()).as_bytes())
        };
        let by_descriptor =
            |overlay: &Overlay, layer: &Dir| overlay.descriptor("lowerdir+", layer.as_fd());
        let file = dir.open(b"file", OFlags::RDWR | OFlags::CREATE, 0o600);
        let file = file.during("create", "a file to probe with")?;
        Ok(Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            filesystem: filesystem(dir).during("examine", "the file system")?,
            initial_user_namespace: userns::in_initial_namespace(),
            mapped_ids: uids.count(),
            overlay_trusted,
            overlay_user,
            fsopen: Overlay::overlay().is_ok(),
            lowerdir_plus: takes(dir, namespace, by_path),
            layer_descriptors: takes(dir, namespace, by_descriptor),
            whiteout_device: makes_whiteout(dir).is_ok(),
            trusted_xattrs,
            user_xattrs,
            reflink: shares_blocks(dir, &file).is_ok(),
            unnamed_files: names_unnamed(dir).is_ok(),
            rename_exchange: exchanges(dir).is_ok(),
            rename_whiteout: dir.rename(b"file", dir, b"moved", RenameFlags::WHITEOUT).is_ok(),
            openat2: resolves_beneath(dir).is_ok(),
            xattrat: xattr::has_at_calls(dir, b"moved"),
            project_quotas: quota::is_enforced(dir).unwrap_or(false),
        })
    }
}

/// The namespace of the marks that overlays of this process have: [`Namespace::Trusted`] for root
/// of the boot's user namespace with CAP_SYS_ADMIN, which alone sees `trusted.*` attributes.
pub(crate) fn default_namespace() -> Namespace {
    let root = rustix::process::geteuid().is_root();
    if root && sees_trusted() { Namespace::Trusted } else { Namespace::User }
}

/// Whether this process sees `trusted.*` attributes: others are told that there are none.
pub(crate) fn sees_trusted() -> bool {
    has(CapabilitySet::SYS_ADMIN) && userns::in_initial_namespace()
}

/// Whether files can be given to other owners: as user 0 with more than one id.
///
/// # Errors
/// Where nothing can be told, though `/proc` is there.
pub(crate) fn can_chown() -> Result<bool> {
    if !rustix::process::geteuid().is_root() || !has(CapabilitySet::CHOWN) {
        return Ok(false);
    }
    // Which has all ids, each as itself.
    if userns::in_initial_namespace() {
        return Ok(true);
    }
    match userns::current_maps() {
        Ok((uids, gids)) => Ok(uids.count() > 1 && gids.count() > 1),
        // Without /proc: what the capability says.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether devices other than whiteouts can be made: with CAP_MKNOD, in the boot's user namespace.
pub(crate) fn can_make_devices() -> bool {
    has(CapabilitySet::MKNOD) && userns::in_initial_namespace()
}

/// Whether this thread has a capability, in the user namespace that it is in.
pub(super) fn has(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Does something in a new directory beneath `parent`, and removes it with all that is in it.
fn in_scratch<T>(parent: &Dir, act: impl FnOnce(&Dir) -> Result<T>) -> Result<T> {
    let subject = || parent.ambient_path().unwrap_or_else(|| "directory".into());
    let name = make_scratch(parent).map_err(|error| {
        Error::os(error, "create a directory to probe with in", &subject())
            .hint("probing needs a directory in which the process may write")
    })?;
    let done = parent.child(&name).during("open", &name).and_then(|dir| act(&dir));
    let removed = remove::remove_tree(parent, &name).during("remove", &name);
    let value = done.map_err(|error| error.within(format!("probe {}", subject().display())))?;
    removed.map(|()| value)
}

fn make_scratch(parent: &Dir) -> SysResult<Vec<u8>> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".overlay2-probe-{}-{number}", std::process::id()).into_bytes();
        match parent.make_dir(&name, 0o700) {
            Ok(()) => return Ok(name),
            // Left by a process of that id that was killed, or of another pid namespace.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether an overlay can be mounted, and a directory of a lower layer replaced in it.
fn overlays(dir: &Dir, namespace: Namespace) -> bool {
    let works = |flags: &[&str]| {
        let act = |dir: &Dir| match try_overlay(dir, flags) {
            Err(Errno::NOSYS) => try_classic(dir, flags).during("mount", "an overlay"),
            other => other.during("mount", "an overlay"),
        };
        in_scratch(dir, act).is_ok()
    };
    let own = flags_of(namespace);
    // To unmount it would sync the whole file system, but for `volatile` (Linux 5.10).
    works(&[own, &["volatile"]].concat()) || works(own)
}

fn flags_of(namespace: Namespace) -> &'static [&'static str] {
    match namespace {
        Namespace::Trusted => &[],
        Namespace::User => &["userxattr"],
    }
}

/// Whether two layers can be mounted that `add` adds one by one; by `fsopen`, and only to be read.
fn takes(dir: &Dir, namespace: Namespace, add: impl Fn(&Overlay, &Dir) -> SysResult<()>) -> bool {
    let mount = |dir: &Dir| {
        let parts = Parts::make(dir)?;
        let overlay = Overlay::overlay()?;
        flags_of(namespace).iter().try_for_each(|flag| overlay.flag(flag))?;
        parts.lower.iter().try_for_each(|layer| add(&overlay, layer))?;
        overlay.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
    };
    in_scratch(dir, |dir| mount(dir).during("mount", "an overlay")).is_ok()
}

/// The directories of an overlay: two lower layers, the upper, and the kernel's own.
struct Parts {
    lower: [Dir; 2],
    upper: Dir,
    work: Dir,
}

impl Parts {
    fn make(dir: &Dir) -> SysResult<Self> {
        let make = |name: &[u8]| {
            dir.make_dir(name, 0o700)?;
            dir.child(name)
        };
        let parts = Self {
            lower: [make(b"above")?, make(b"below")?],
            upper: make(b"upper")?,
            work: make(b"work")?,
        };
        let [_, below] = &parts.lower;
        below.make_dir(b"replaced", 0o700)?;
        Ok(parts)
    }

    /// The options as texts. Descriptors stand for the paths, since those need no escaping.
    fn options(&self) -> [(&'static str, String); 3] {
        let path = |dir: &Dir| xattr::proc_path(dir.as_fd());
        let [above, below] = &self.lower;
        let lower = format!("{}:{}", path(above), path(below));
        [("lowerdir", lower), ("upperdir", path(&self.upper)), ("workdir", path(&self.work))]
    }
}

fn try_overlay(dir: &Dir, flags: &[&str]) -> SysResult<()> {
    let overlay = Overlay::overlay()?;
    let parts = Parts::make(dir)?;
    for (key, value) in parts.options() {
        overlay.string(key, value.as_bytes())?;
    }
    flags.iter().try_for_each(|flag| overlay.flag(flag))?;
    let mount = overlay.mount(MountAttrFlags::empty())?;
    replace_in(&mount)
}

/// As kernels before Linux 5.2 mount: in the scratch directory, which nobody else can enter, and
/// gone from there again before anything else is done.
fn try_classic(dir: &Dir, flags: &[&str]) -> SysResult<()> {
    let parts = Parts::make(dir)?;
    let options = parts.options().map(|(key, value)| format!("{key}={value}"));
    let flags = flags.iter().map(|flag| (*flag).to_owned());
    let options = options.into_iter().chain(flags).collect::<Vec<_>>().join(",");
    dir.make_dir(b"merged", 0o700)?;
    let target = dir.ambient_path().ok_or(Errno::NOENT)?.join("merged");
    mount::classic(&target, MountFlags::empty(), options.as_bytes())?;
    let merged = dir.child(b"merged");
    mount::detach(&target)?;
    replace_in(&merged?)
}

/// Replaces a directory of a lower layer: needs a whiteout, and after it an opaque mark.
fn replace_in(merged: &impl AsFd) -> SysResult<()> {
    rustix::fs::unlinkat(merged, c"replaced", AtFlags::REMOVEDIR)?;
    rustix::fs::mkdirat(merged, c"replaced", Mode::RWXU)
}

fn sets_attribute(dir: &Dir, name: &[u8]) -> bool {
    xattr::set(Target::open(dir), name, b"y").is_ok()
}

fn makes_whiteout(dir: &Dir) -> SysResult<()> {
    dir.make_node(b"whiteout", FileType::CharacterDevice, 0, Device::ZERO)
}

fn shares_blocks(dir: &Dir, file: &File) -> SysResult<()> {
    rustix::io::pwrite(file, &[b'x'; 4096], 0)?;
    let copy = dir.open(b"clone", OFlags::WRONLY | OFlags::CREATE, 0o600)?;
    rustix::fs::ioctl_ficlone(copy, file)
}

fn names_unnamed(dir: &Dir) -> SysResult<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, c".", flags, Mode::RUSR | Mode::WUSR)?;
    dir.link_unnamed(b"named", file.as_fd())
}

fn exchanges(dir: &Dir) -> SysResult<()> {
    dir.make_symlink(b"other", b"nowhere")?;
    // Back as it was, where that worked.
    dir.rename(b"file", dir, b"other", RenameFlags::EXCHANGE)?;
    dir.rename(b"other", dir, b"file", RenameFlags::EXCHANGE)
}

fn resolves_beneath(dir: &Dir) -> SysResult<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, c".", flags, Mode::empty(), ResolveFlags::BENEATH).map(drop)
}

/// The name of the file system that a directory lies on.
fn filesystem(dir: &Dir) -> SysResult<String> {
    // The width and sign of the field differ between architectures; magics have 32 bits.
    let magic = u64::try_from(rustix::fs::fstatfs(dir)?.f_type & 0xffff_ffff).unwrap_or(0);
    let known = FILESYSTEMS.iter().find(|(known, _)| *known == magic);
    Ok(known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned()))
}

/// The magics of `statfs(2)`.
const FILESYSTEMS: [(u64, &str); 24] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x8584_58f6, "ramfs"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x7366_746e, "ntfs"),
    (0x0102_1997, "9p"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0xe0f5_e1e2, "erofs"),
    (0x7371_7368, "squashfs"),
    (0x3434, "nilfs2"),
    (0x3153_464a, "jfs"),
    (0xf15f, "ecryptfs"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_agrees_with_itself_and_nothing_is_left() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        let start = std::time::Instant::now();
        let features = KernelFeatures::probe(&dir).unwrap();
        eprintln!("{features:#?} in {:?}", start.elapsed());
        assert!(dir.entries().unwrap().is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(temporary.path().to_str().unwrap()));
        assert!(!features.overlay_trusted || features.trusted_xattrs && features.fsopen);
        assert!(!features.overlay_user || features.user_xattrs);
        assert!(features.lowerdir_plus || !features.layer_descriptors);
        assert_eq!(features.initial_user_namespace, userns::in_initial_namespace());
        if default_namespace() == Namespace::Trusted {
            assert!(features.trusted_xattrs && features.initial_user_namespace);
        }
        assert_eq!(serde_json::to_value(&features).unwrap()["reflink"], features.reflink);
    }

    #[test]
    fn other_owners_are_possible_exactly_where_it_is_said() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        dir.open(b"f", OFlags::WRONLY | OFlags::CREATE, 0o600).unwrap();
        // Every namespace with several ids has 1.
        assert_eq!(dir.chown(b"f", 1, 1).is_ok(), can_chown().unwrap());
    }

    #[test]
    fn the_old_way_to_mount_finds_the_same() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        let classic = |namespace| {
            let classic =
                |dir: &Dir| try_classic(dir, flags_of(namespace)).during("mount", "overlay");
            in_scratch(&dir, classic).is_ok()
        };
        let features = KernelFeatures::probe(&dir).unwrap();
        assert_eq!(classic(Namespace::User), features.overlay_user);
        if features.trusted_xattrs {
            assert_eq!(classic(Namespace::Trusted), features.overlay_trusted);
        }
        assert!(dir.entries().unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_a_clear_error() {
        // Nothing can be made there, by root neither.
        let dir = Dir::open_ambient("/proc/self").unwrap();
        let error = KernelFeatures::probe(&dir).unwrap_err();
        assert!(error.to_string().contains("/proc/"), "{error}");
        assert!(error.help().is_some());
    }
}
