//! A damaged layer directory made what it was, file by file, from one that was built anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::rc::Rc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::checksum::Checksum;
use super::copy_tree::put;
use super::entries::{Entries, FILE, Listed};
use super::split::{self, copy_run, open_beneath, reassemble_with};
use super::verify::{Contents, Difference, VerifyOptions, verify};
use crate::digest::Digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::finding::FindingKind;
use crate::inode::FileKind;
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::dir::{SysResult, atime_of};
use crate::sys::remove::remove_tree;
use crate::sys::xattr::{self, Target};
use crate::sys::{Dir, inode_io, random};
use crate::watch::Watch;

/// How often a layer is compared and mended before that is given up: files first, then the
/// attributes of the directories around them.
const ROUNDS: usize = 4;

/// Two directories of a layer: the one that is mounted, and the one around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) layer: &'a Dir,
    pub(crate) side: &'a Dir,
}

/// Makes the layer `damaged` what `sound` is, which has the same changeset; what is right already
/// is not touched.
///
/// Each file is replaced in one step, by a second name of the one in `sound`; directories stay, and
/// are given their attributes. What is kept beside the layer directory is replaced too.
pub(crate) fn restore(
    damaged: Pair<'_>,
    sound: Pair<'_>,
    options: &VerifyOptions<'_>,
) -> Result<()> {
    let entries = Entries::read(sound.side, options.namespace)?;
    let mut groups: HashMap<*const Listed, Vec<LayerPath>> = HashMap::new();
    for (path, name) in &entries.names {
        if Rc::strong_count(&name.file) > 1 {
            let path = LayerPath::parse(path)?;
            groups.entry(Rc::as_ptr(&name.file)).or_default().push(path);
        }
    }
    let (spare, damaged_layer) = (sound.side, damaged.layer);
    let restore = Restore { damaged: damaged_layer, sound: sound.layer, spare, entries, groups };
    let mut how = VerifyOptions { contents: Contents::Read, ..*options };
    for _ in 0..ROUNDS {
        let found = verify(damaged.layer, sound.side, &how)?;
        if found.is_empty() {
            return sides(damaged.side, sound.side);
        }
        restore.round(&found, &options.watch)?;
        how.contents = Contents::Skip;
    }
    Err(Error::new(ErrorKind::Corrupt, "the layer does not become what it was")
        .hint("the file system may be at fault: remove the image and load it again"))
}

/// What is kept beside a layer directory.
fn sides(damaged: &Dir, sound: &Dir) -> Result<()> {
    for name in [FILE, split::FILE, split::REPLACED] {
        let name = name.as_bytes();
        if sound.stat_if_exists(name).during("look for", name)?.is_some() {
            exchange(sound, name, damaged, name).during("replace", name)?;
        } else {
            remove_tree(damaged, name).during("remove", name)?;
        }
    }
    Ok(())
}

struct Restore<'a> {
    damaged: &'a Dir,
    sound: &'a Dir,
    /// Where what is replaced goes, on the same file system: with it, it goes away.
    spare: &'a Dir,
    entries: Entries,
    /// The names of each file that has several.
    groups: HashMap<*const Listed, Vec<LayerPath>>,
}

impl Restore<'_> {
    fn round(&self, found: &[Difference], watch: &Watch<'_>) -> Result<()> {
        let listed =
            |path: &LayerPath| self.entries.names.get(path.as_bytes()).map(|name| &name.file);
        let is_directory =
            |path: &LayerPath| listed(path).is_some_and(|file| file.kind.is_directory());
        let told = found.iter().filter_map(|one| one.path.as_ref());
        let mut directories: BTreeSet<_> =
            told.filter(|path| is_directory(path)).cloned().collect();
        // Before anything else, and those above first: what is closed hides what lies in it.
        for path in &directories {
            self.open_up(path)?;
        }
        let mut files = BTreeSet::new();
        for Difference { path, kind, .. } in found {
            let Some(path) = path else { continue };
            match (kind, listed(path)) {
                (FindingKind::Extra, _) | (_, None) => self.remove(path)?,
                (_, Some(file)) if file.kind.is_directory() => {}
                (_, Some(file)) => match self.groups.get(&Rc::as_ptr(file)) {
                    Some(names) => files.extend(names.iter().cloned()),
                    None => drop(files.insert(path.clone())),
                },
            }
            // What is there instead of a directory, or nothing: all beneath it is missing too.
            if matches!(kind, FindingKind::Missing | FindingKind::Type) && is_directory(path) {
                self.make_directory(path, *kind)?;
                for (path, name) in self.entries.beneath(path) {
                    let path = LayerPath::parse(path)?;
                    match name.file.kind.is_directory() {
                        true => {
                            self.make_directory(&path, FindingKind::Missing)?;
                            directories.insert(path);
                        }
                        false => match self.groups.get(&Rc::as_ptr(&name.file)) {
                            Some(names) => files.extend(names.iter().cloned()),
                            None => drop(files.insert(path)),
                        },
                    }
                }
            }
        }
        for path in files {
            watch.check()?;
            self.file(&path)?;
        }
        // What lies beneath comes first: it changes the time of what is around it.
        for path in directories.into_iter().rev() {
            self.directory(&path)?;
        }
        Ok(())
    }

    fn remove(&self, path: &LayerPath) -> Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let dir = self.damaged.descend(&parent).during("open directory", &parent)?;
        remove_tree(&dir, name).during("remove", path)
    }

    /// Gives a name to the sound file; what has it now goes.
    fn file(&self, path: &LayerPath) -> Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let dir = match self.damaged.descend(&parent) {
            Ok(dir) => dir,
            // What is around it is missing, and is told as that.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error).during("open directory", &parent),
        };
        let from = self.sound.descend(&parent).during("open directory", &parent)?;
        self.replace(&dir, name, &from).during("replace", path)
    }

    fn make_directory(&self, path: &LayerPath, kind: FindingKind) -> Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let dir = self.damaged.descend(&parent).during("open directory", &parent)?;
        if kind == FindingKind::Type {
            match dir.child_as_path(name) {
                // One that only could not be read is opened again.
                Ok(_) => return dir.chmod(name, 0o700).during("set mode of", path),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    remove_tree(&dir, name).during("remove", path)?;
                }
                Err(error) => return Err(error).during("open directory", path),
            }
        }
        match dir.make_dir(name, 0o700) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.open_up(path),
            Err(error) => Err(error).during("create directory", path),
        }
    }

    /// Puts a second name of the sound file in place of `name`, in one step. Whoever dies on the way
    /// leaves nothing in the layer.
    fn replace(&self, dir: &Dir, name: &[u8], from: &Dir) -> SysResult<()> {
        let temporary = format!("replaced-{}", random::hex::<8>()?);
        let temporary = temporary.as_bytes();
        self.spare.make_link(temporary, from, name)?;
        let renamed = exchange(self.spare, temporary, dir, name);
        // What stood there before, or what could not be put there.
        remove_tree(self.spare, temporary)?;
        renamed
    }

    /// Lets the owner of a directory into it until it is given its mode.
    fn open_up(&self, path: &LayerPath) -> Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let open = || {
            let dir = self.damaged.descend_as_path(&parent)?;
            // To be sure that it is one, and no link elsewhere.
            dir.child_as_path(name)?;
            let mode = dir.stat(name)?.st_mode & 0o7777;
            if mode & 0o700 == 0o700 { Ok(()) } else { dir.chmod(name, mode | 0o700) }
        };
        match open() {
            // It is missing, and is told as that.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            other => other.during("set mode of", path),
        }
    }

    /// Gives a directory its attributes.
    fn directory(&self, path: &LayerPath) -> Result<()> {
        let from = self.sound.descend(path).during("open directory", path)?;
        let stat = from.stat_self().during("stat", path)?;
        let inode = inode_io::read_self(&from).during("read", path)?;
        let give = || {
            let dir = self.damaged.descend(path)?;
            let target = Target::open(&dir);
            for name in xattr::list(target)? {
                if !inode.xattrs.contains_key(&name) {
                    match xattr::remove(target, &name) {
                        // A label that the system gives.
                        Err(Errno::PERM | Errno::ACCESS) => {}
                        other => other?,
                    }
                }
            }
            put(target, (&inode, atime_of(&stat)))
        };
        give().during("give attributes to", path)
    }
}

/// Moves `new` to where `old` is, and `old`, where it is there, to where `new` was.
fn exchange(from: &Dir, new: &[u8], to: &Dir, old: &[u8]) -> SysResult<()> {
    match from.rename(new, to, old, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => from.rename(new, to, old, RenameFlags::NOREPLACE),
        other => other,
    }
}

/// The content of a file by its length and checksum.
pub(crate) type Content = (u64, u32);

/// The files of a layer whose content is not what it was, as `found` names them, and what each has
/// to hold.
pub(crate) fn unsound(
    side: &Dir,
    namespace: Namespace,
    found: &[(FindingKind, LayerPath)],
) -> Result<BTreeMap<LayerPath, Content>> {
    let entries = Entries::read(side, namespace)?;
    let mut wanted = BTreeMap::new();
    for (kind, path) in found {
        if !matches!(kind, FindingKind::Missing | FindingKind::Type | FindingKind::Contents) {
            continue;
        }
        let own = entries.names.get(path.as_bytes()).map(|name| (path.as_bytes(), name));
        let beneath = entries.beneath(path).map(|(path, name)| (path.as_slice(), name));
        for (path, name) in own.into_iter().chain(beneath) {
            if let FileKind::Regular { size } = name.file.kind {
                wanted.insert(LayerPath::parse(path)?, (size, name.file.checksum));
            }
        }
    }
    Ok(wanted)
}

/// Finds files of a layer that hold one of the contents in `wanted`, and reads them to be sure.
pub(crate) fn supply(
    layer: &Dir,
    side: &Dir,
    namespace: Namespace,
    wanted: &HashSet<Content>,
) -> Result<Vec<(Content, File)>> {
    let entries = match Entries::read(side, namespace) {
        Ok(entries) => entries,
        // It is damaged itself.
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(_) => return Ok(Vec::new()),
    };
    let (mut supplied, mut done) = (Vec::new(), HashSet::new());
    for (path, name) in &entries.names {
        let FileKind::Regular { size } = name.file.kind else { continue };
        let content = (size, name.file.checksum);
        if !wanted.contains(&content) || done.contains(&content) {
            continue;
        }
        let Ok(file) = open_beneath(layer, &LayerPath::parse(path)?) else { continue };
        let is_whole = file.metadata().is_ok_and(|stat| stat.len() == size);
        if is_whole && Checksum::of_file(&file, size) == Ok(content.1) {
            done.insert(content);
            supplied.push((content, file));
        }
    }
    Ok(supplied)
}

/// Writes the changeset again, with other files in place of those that `substitutes` names.
pub(crate) fn reassemble_from(
    layer: &Dir,
    side: &Dir,
    substitutes: &BTreeMap<LayerPath, &File>,
    out: &mut dyn Write,
    watch: &Watch<'_>,
) -> Result<Digest> {
    let written = reassemble_with(side, out, &mut |_, _| watch.check(), &mut |payload, out| {
        let path = &payload.path;
        let own;
        let file = match substitutes.get(path).filter(|_| payload.replaced.is_none()) {
            Some(file) => *file,
            None => {
                own = payload.open(layer, side)?;
                &own
            }
        };
        payload.runs.iter().try_for_each(|run| copy_run(file, *run, out, path))
    });
    written.map(|(digest, _)| digest)
}
