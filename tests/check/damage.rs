//! Ways to damage a layer, each of which has to be found as what it is.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use overlay2::FindingKind;
use proptest::prelude::*;

use crate::common::need;

#[derive(Clone, Debug)]
pub enum Damage {
    Byte(prop::sample::Index),
    /// Of a byte that no block holds.
    ByteInHole(prop::sample::Index),
    /// A hole becomes blocks of zeros: nothing that a changeset says.
    FilledHole,
    ModeBit(u32),
    DirectoryModeBit(u32),
    Owner,
    DirectoryOwner,
    NewXattr,
    LostXattr,
    ChangedXattr,
    Rename,
    Remove,
    Extra,
    /// A file has one name more.
    ExtraLink,
    Time,
    Type,
    Retarget,
    BreakLink,
    Record(&'static str, prop::sample::Index),
}

/// The ways to do damage, and how often each is to be taken.
pub fn damages() -> Vec<(u32, BoxedStrategy<Damage>)> {
    let index = any::<prop::sample::Index>;
    vec![
        (4, index().prop_map(Damage::Byte).boxed()),
        (3, (0..12u32).prop_map(Damage::ModeBit).boxed()),
        (2, index().prop_map(Damage::ByteInHole).boxed()),
        (1, Just(Damage::FilledHole).boxed()),
        (2, (0..12u32).prop_map(Damage::DirectoryModeBit).boxed()),
        (1, Just(Damage::Owner).boxed()),
        (1, Just(Damage::DirectoryOwner).boxed()),
        (2, Just(Damage::NewXattr).boxed()),
        (1, Just(Damage::LostXattr).boxed()),
        (2, Just(Damage::ChangedXattr).boxed()),
        (2, Just(Damage::Rename).boxed()),
        (2, Just(Damage::Remove).boxed()),
        (1, Just(Damage::Extra).boxed()),
        (1, Just(Damage::ExtraLink).boxed()),
        (2, Just(Damage::Time).boxed()),
        (1, Just(Damage::Type).boxed()),
        (1, Just(Damage::Retarget).boxed()),
        (1, Just(Damage::BreakLink).boxed()),
        (
            2,
            (prop::sample::select(vec!["entries", "changeset", "layer.json"]), index())
                .prop_map(|(name, index)| Damage::Record(name, index))
                .boxed(),
        ),
    ]
}

/// All names in a tree but its root.
fn names(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(names(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn flip(file: &Path, index: prop::sample::Index) {
    let length = fs::metadata(file).unwrap().len();
    let at = index.index(usize::try_from(length).unwrap()) as u64;
    let mut byte = [0];
    File::open(file).unwrap().read_exact_at(&mut byte, at).unwrap();
    overwrite(file, at, &[byte[0] ^ 0x10]);
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let meta = fs::metadata(file).unwrap();
    let handle = File::options().write(true).open(file).unwrap();
    handle.write_all_at(bytes, at).unwrap();
    // Rot leaves no trace in the time, and takes no set-user-ID bit as a write of a plain user does.
    fs::set_permissions(file, meta.permissions()).unwrap();
    handle.set_modified(meta.modified().unwrap()).unwrap();
}

/// Where the first hole of a file begins and ends.
fn hole(path: &Path) -> Option<(u64, u64)> {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).ok()?;
    let length = file.metadata().unwrap().len();
    let start = seek(&file, SeekFrom::Hole(0)).ok().filter(|start| *start < length)?;
    Some((start, seek(&file, SeekFrom::Data(start)).unwrap_or(length)))
}

fn extra_link(path: &Path) -> PathBuf {
    path.with_extension("extra-link")
}

/// Does the damage to one of the names that it can be done to; gives the name, and the kind that it
/// must be found as. `None` where there is no such name, or this user may not do it.
pub fn harm(
    layer: &Path,
    damage: &Damage,
    pick: prop::sample::Index,
) -> Option<(Option<PathBuf>, FindingKind)> {
    let fits = |path: &PathBuf| {
        let meta = path.symlink_metadata().unwrap();
        let (file, dir) = (meta.is_file(), meta.is_dir());
        match damage {
            Damage::Byte(_) => file && meta.len() > 0,
            Damage::ModeBit(_) | Damage::NewXattr => file || dir,
            Damage::Time => file || dir,
            Damage::ByteInHole(_) | Damage::FilledHole => file && hole(path).is_some(),
            Damage::DirectoryModeBit(_) => dir,
            Damage::DirectoryOwner => dir && need::is_root() && need::mapped_ids() > 1,
            Damage::ExtraLink => file,
            Damage::LostXattr | Damage::ChangedXattr => {
                xattr_names(path).iter().any(|name| name.starts_with("user."))
            }
            Damage::Type => file,
            Damage::Retarget => meta.is_symlink(),
            Damage::BreakLink => file && meta.nlink() > 1,
            Damage::Extra => dir,
            // A whiteout is no more than its name.
            Damage::Owner => {
                need::is_root() && need::mapped_ids() > 1 && !meta.file_type().is_char_device()
            }
            Damage::Rename | Damage::Remove => true,
            Damage::Record(..) => false,
        }
    };
    if let Damage::Record(name, index) = damage {
        let file = layer.parent().unwrap().join(name);
        if !file.exists() {
            return None;
        }
        flip(&file, *index);
        return Some((None, FindingKind::Record));
    }
    let candidates: Vec<_> = names(layer).into_iter().filter(fits).collect();
    if candidates.is_empty() {
        return None;
    }
    let path = candidates[pick.index(candidates.len())].clone();
    let (mut named, kind) = (
        path.clone(),
        match damage {
            Damage::Byte(_) | Damage::ByteInHole(_) | Damage::FilledHole => FindingKind::Contents,
            Damage::ModeBit(_) | Damage::DirectoryModeBit(_) => FindingKind::Mode,
            Damage::Owner | Damage::DirectoryOwner => FindingKind::Owner,
            Damage::NewXattr | Damage::LostXattr | Damage::ChangedXattr => FindingKind::Xattrs,
            Damage::Rename | Damage::Remove => FindingKind::Missing,
            Damage::Extra | Damage::ExtraLink => FindingKind::Extra,
            Damage::Time => FindingKind::Time,
            Damage::Type => FindingKind::Type,
            Damage::Retarget => FindingKind::LinkTarget,
            Damage::BreakLink => FindingKind::HardLink,
            Damage::Record(..) => FindingKind::Record,
        },
    );
    if !strike(&path, damage) {
        return None;
    }
    if matches!(damage, Damage::Extra) {
        named = path.join("extra");
    }
    if matches!(damage, Damage::ExtraLink) {
        named = extra_link(&path);
    }
    Some((Some(named.strip_prefix(layer).unwrap().to_owned()), kind))
}

/// Does the damage to a name; `false` where it does not show.
fn strike(path: &Path, damage: &Damage) -> bool {
    match damage {
        Damage::Byte(index) => flip(path, *index),
        Damage::ByteInHole(index) => {
            let (start, end) = hole(path).unwrap();
            let within = index.index(usize::try_from(end - start).unwrap());
            overwrite(path, start + within as u64, b"x");
        }
        Damage::FilledHole => {
            let (start, end) = hole(path).unwrap();
            overwrite(path, start, &vec![0; usize::try_from(end - start).unwrap()]);
        }
        Damage::ModeBit(bit) | Damage::DirectoryModeBit(bit) => {
            let mode = fs::metadata(path).unwrap().mode() & 0o7777;
            fs::set_permissions(path, Permissions::from_mode(mode ^ 1 << bit)).unwrap();
            if fs::metadata(path).unwrap().mode() & 0o7777 == mode {
                // A group that is not the user's own.
                return false;
            }
        }
        Damage::Owner | Damage::DirectoryOwner => {
            let owner = path.symlink_metadata().unwrap();
            let mode = owner.mode();
            std::os::unix::fs::lchown(path, Some(owner.uid() ^ 1), None).unwrap();
            if !owner.is_symlink() {
                fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            }
        }
        Damage::NewXattr => set_xattr(path, "user.rot", b"x"),
        Damage::LostXattr => {
            let name = xattr_names(path).into_iter().find(|name| name.starts_with("user."));
            rustix::fs::lremovexattr(path, name.unwrap()).unwrap();
        }
        Damage::ChangedXattr => {
            let name =
                xattr_names(path).into_iter().find(|name| name.starts_with("user.")).unwrap();
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, &*name, &mut value).unwrap();
            value.truncate(length);
            *value.last_mut().unwrap() ^= 1;
            set_xattr(path, &name, &value);
        }
        Damage::ExtraLink => fs::hard_link(path, extra_link(path)).unwrap(),
        Damage::Rename => fs::rename(path, path.with_extension("renamed")).unwrap(),
        Damage::Remove if path.symlink_metadata().unwrap().is_dir() => {
            fs::remove_dir_all(path).unwrap();
        }
        Damage::Remove => fs::remove_file(path).unwrap(),
        Damage::Extra => {
            fs::write(path.join("extra"), "x").unwrap();
        }
        Damage::Time => {
            let file = File::open(path).unwrap();
            let time = fs::metadata(path).unwrap().modified().unwrap();
            file.set_modified(time + Duration::from_nanos(1000)).unwrap();
        }
        Damage::Type => {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }
        Damage::Retarget => {
            fs::remove_file(path).unwrap();
            symlink("elsewhere", path).unwrap();
        }
        Damage::BreakLink => {
            let copy = path.with_extension("copy");
            // All is the same but the inode.
            need::run(Command::new("cp").arg("-a").args([path, copy.as_path()]));
            fs::rename(&copy, path).unwrap();
        }
        Damage::Record(..) => {}
    }
    true
}

fn xattr_names(path: &Path) -> Vec<String> {
    let mut buffer = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut buffer).unwrap_or(0);
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}
