//! Files of containers and images: listed, written out, described.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use overlay2::merged::{EntryKind, Metadata, Tree};
use overlay2::{Driver, LayerOrigin, LayerPath, escape_bytes};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::args::look::{Cat, Ls, Stat};
use crate::output::{Lines, Output, name, short, visible};
use crate::place::Place;
use crate::{Failure, each};

/// One file that is shown.
struct Shown {
    /// Its name, or the path that was asked for.
    name: Vec<u8>,
    /// The directory of that name.
    around: Option<Rc<Path>>,
    metadata: Metadata,
    /// Where a symlink leads.
    target: Option<Vec<u8>>,
}

/// What is listed at a path.
enum Listed {
    /// What lies there itself.
    Itself,
    /// The names in the directory there.
    Names(Vec<OsString>),
}

pub(crate) fn ls(driver: &Driver, out: &Output, ls: &Ls) -> Result<(), Failure> {
    if out.is_json() {
        return ls_as_json(driver, out, ls);
    }
    let mut lines = Lines::new();
    let result = each(&ls.places, |typed| {
        let place = Place::find(driver, typed)?;
        let (opened, path) = (driver.read_tree(&place.name)?, place.path());
        let listed = list(opened.tree(), &path, ls)?;
        let described = match ls.long {
            true => Some(describe_all(opened.tree(), &path, &listed)?),
            false => None,
        };
        if ls.places.len() > 1 {
            lines.heading(&name(typed.as_bytes()));
        }
        match (described, listed) {
            (Some(described), _) => long(&described, &mut lines)?,
            (None, Listed::Itself) => lines.put(&name(path.as_os_str().as_bytes()))?,
            (None, Listed::Names(names)) => {
                names.iter().try_for_each(|one| lines.put(&name(one.as_bytes())))?;
            }
        }
        Ok(())
    });
    lines.end(result.is_ok())?;
    result
}

fn ls_as_json(driver: &Driver, out: &Output, ls: &Ls) -> Result<(), Failure> {
    let mut all = Vec::new();
    let result = each(&ls.places, |typed| {
        let place = Place::find(driver, typed)?;
        let (opened, path) = (driver.read_tree(&place.name)?, place.path());
        let listed = list(opened.tree(), &path, ls)?;
        all.extend(describe_all(opened.tree(), &path, &listed)?);
        Ok(())
    });
    if result.is_ok() || !all.is_empty() {
        out.json(&Values(&all))?;
    }
    result
}

fn list(tree: &Tree, path: &Path, ls: &Ls) -> Result<Listed, Failure> {
    // As `ls` does: a symlink to a directory is gone into, unless it is to be described.
    let follow = !ls.directory && !ls.long || path.as_os_str().as_bytes().ends_with(b"/");
    let metadata = if follow { tree.metadata(path)? } else { tree.symlink_metadata(path)? };
    if ls.directory || !metadata.is_dir() {
        return Ok(Listed::Itself);
    }
    let mut names = tree.read_names(path)?;
    names.retain(|name| ls.all || !name.as_bytes().starts_with(b"."));
    Ok(Listed::Names(names))
}

fn describe_all(tree: &Tree, path: &Path, listed: &Listed) -> Result<Vec<Shown>, Failure> {
    let names = match listed {
        Listed::Itself => return Ok(vec![Shown::at(tree, path)?]),
        Listed::Names(names) => names,
    };
    let around: Rc<Path> = path.into();
    let described = names.iter().map(|name| {
        let (metadata, target) = seen(tree, &path.join(name))?;
        let name = name.as_bytes().to_vec();
        Ok(Shown { name, around: Some(Rc::clone(&around)), metadata, target })
    });
    described.collect()
}

/// The attributes of a path itself, and where it leads if it is a symlink.
fn seen(tree: &Tree, path: &Path) -> Result<(Metadata, Option<Vec<u8>>), Failure> {
    let metadata = tree.symlink_metadata(path)?;
    let target = match metadata.is_symlink() {
        true => Some(tree.read_link(path)?.into_os_string().into_vec()),
        false => None,
    };
    Ok((metadata, target))
}

impl Shown {
    fn at(tree: &Tree, path: &Path) -> Result<Self, Failure> {
        let (metadata, target) = seen(tree, path)?;
        Ok(Self { name: path.as_os_str().as_bytes().to_vec(), around: None, metadata, target })
    }

    fn path(&self) -> PathBuf {
        let name = OsStr::from_bytes(&self.name);
        self.around.as_ref().map_or_else(|| PathBuf::from(name), |around| around.join(name))
    }

    /// What stands in columns of a line: links, owner, group and size.
    fn columns(&self) -> [String; 4] {
        let metadata = &self.metadata;
        let size = match metadata.kind() {
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                metadata.device().to_string().replace(':', ", ")
            }
            _ => metadata.len().to_string(),
        };
        let links = metadata.nlink().to_string();
        [links, metadata.uid().to_string(), metadata.gid().to_string(), size]
    }
}

/// What JSON has of files in a list, made one after the other.
struct Values<'a>(&'a [Shown]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(value))
    }
}

/// Lines as `ls -l` prints them, with numbers for owners and times in UTC.
fn long(listed: &[Shown], lines: &mut Lines) -> io::Result<()> {
    let mut widths = [0; 4];
    for one in listed {
        let columns = one.columns();
        widths.iter_mut().zip(columns).for_each(|(width, text)| *width = text.len().max(*width));
    }
    for one in listed {
        let mut line = mode_text(&one.metadata).into_bytes();
        for (width, text) in widths.iter().zip(one.columns()) {
            line.extend(format!(" {text:>width$}").into_bytes());
        }
        let time = one.metadata.modified().rfc3339();
        let minutes = time.split_once('.').map_or(time.as_str(), |(seconds, _)| seconds);
        line.extend(format!(" {} ", minutes.trim_end_matches('Z').replace('T', " ")).into_bytes());
        line.extend(name(&one.name));
        if let Some(target) = &one.target {
            line.extend(b" -> ");
            line.extend(name(target));
        }
        lines.put(&line)?;
    }
    Ok(())
}

/// Type and permissions as `ls -l` has them: `drwxr-sr-x`.
fn mode_text(metadata: &Metadata) -> String {
    let kind = match metadata.kind() {
        EntryKind::Directory => 'd',
        EntryKind::Regular => '-',
        EntryKind::Symlink => 'l',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
    };
    let mode = metadata.mode();
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, true) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

pub(crate) fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory => "directory",
        EntryKind::Regular => "file",
        EntryKind::Symlink => "symlink",
        EntryKind::CharDevice => "character device",
        EntryKind::BlockDevice => "block device",
        EntryKind::Fifo => "FIFO",
        EntryKind::Socket => "socket",
    }
}

/// What JSON has of a file in a list.
fn value(one: &Shown) -> Map<String, Value> {
    let metadata = &one.metadata;
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    put("path", absolute(&one.path()).into());
    put("name", escape_bytes(&one.name).into());
    put("kind", kind_name(metadata.kind()).into());
    put("mode", format!("{:04o}", metadata.mode()).into());
    put("uid", metadata.uid().into());
    put("gid", metadata.gid().into());
    put("size", metadata.len().into());
    put("links", metadata.nlink().into());
    put("inode", metadata.ino().into());
    put("modified", metadata.modified().rfc3339().into());
    put("target", one.target.as_deref().map(escape_bytes).into());
    let is_device = matches!(metadata.kind(), EntryKind::CharDevice | EntryKind::BlockDevice);
    put("device", is_device.then(|| metadata.device().to_string()).into());
    fields
}

/// A path from the root on, escaped.
fn absolute(path: &Path) -> String {
    let text = escape_bytes(path.as_os_str().as_bytes());
    if text.starts_with('/') { text } else { format!("/{text}") }
}

pub(crate) fn cat(driver: &Driver, cat: &Cat) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    each(&cat.places, |typed| {
        let place = Place::find(driver, typed)?;
        let opened = driver.read_tree(&place.name)?;
        let file = opened.tree().open(place.path())?;
        copy(file, &mut out)
    })?;
    Ok(out.flush()?)
}

fn copy(mut from: impl io::Read, to: &mut impl Write) -> Result<(), Failure> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        match buffer.get(..read) {
            Some(bytes) if read > 0 => to.write_all(bytes)?,
            _ => return Ok(()),
        }
    }
}

pub(crate) fn stat(driver: &Driver, out: &Output, stat: &Stat) -> Result<(), Failure> {
    let (mut values, mut lines) = (Vec::new(), Vec::new());
    let result = each(&stat.places, |typed| {
        let (one, xattrs, layers) = describe(driver, typed, stat.follow)?;
        if !lines.is_empty() {
            lines.push(Vec::new());
        }
        lines.extend(told(&one, &xattrs, &layers));
        let mut fields = value(&one);
        let text = |bytes: &[u8]| Value::from(escape_bytes(bytes));
        let xattrs = xattrs.iter().map(|(name, value)| (escape_bytes(name), text(value)));
        fields.insert("blocks".to_owned(), one.metadata.blocks().into());
        fields.insert("accessed".to_owned(), one.metadata.accessed().rfc3339().into());
        fields.insert("changed".to_owned(), one.metadata.changed().rfc3339().into());
        fields.insert("xattrs".to_owned(), Value::Object(xattrs.collect()));
        fields.insert("layers".to_owned(), json!(layers));
        values.push(Value::Object(fields));
        Ok(())
    });
    if result.is_ok() || !values.is_empty() {
        out.raw_lines(&values, &lines)?;
    }
    result
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A file, its attributes, and the layers that supply it.
fn describe(
    driver: &Driver,
    typed: &OsString,
    follow: bool,
) -> Result<(Shown, Xattrs, Vec<LayerOrigin>), Failure> {
    let place = Place::find(driver, typed)?;
    let opened = driver.read_tree(&place.name)?;
    let tree = opened.tree();
    let path = resolved(tree, &place.path(), follow)?;
    let one = Shown::at(tree, &path)?;
    let mut xattrs = Vec::new();
    for name in tree.xattr_names(&path)? {
        let value = tree.xattr(&path, &name)?.unwrap_or_default();
        xattrs.push((name, value));
    }
    let told = driver.which(&place.name, &LayerPath::parse(path.as_os_str().as_bytes())?)?;
    let layers = told.layers.into_iter().filter(|says| says.supplies);
    Ok((one, xattrs, layers.map(|says| says.layer).collect()))
}

/// The path without symlinks on the way, nor at its end where they are followed, as they are where a
/// slash stands behind.
pub(crate) fn resolved(tree: &Tree, path: &Path, follow: bool) -> Result<PathBuf, Failure> {
    let follow = follow || path.as_os_str().as_bytes().ends_with(b"/");
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !follow => {
            let parent = if parent.as_os_str().is_empty() { Path::new("/") } else { parent };
            Ok(tree.canonicalize(parent)?.join(name))
        }
        _ => Ok(tree.canonicalize(path)?),
    }
}

fn told(one: &Shown, xattrs: &Xattrs, layers: &[LayerOrigin]) -> Vec<Vec<u8>> {
    let metadata = &one.metadata;
    let mut lines = vec![[b"  Path: ".as_slice(), &name(&one.name)].concat()];
    if let Some(target) = &one.target {
        lines.push([b"Target: ".as_slice(), &name(target)].concat());
    }
    let mut line = |text: String| lines.push(text.into_bytes());
    let (kind, bytes, blocks) = (kind_name(metadata.kind()), metadata.len(), metadata.blocks());
    line(format!("  Type: {kind}  Size: {bytes}  Blocks: {blocks}"));
    if matches!(metadata.kind(), EntryKind::CharDevice | EntryKind::BlockDevice) {
        line(format!("Device: {}", metadata.device()));
    }
    let (mode, text) = (metadata.mode(), mode_text(metadata));
    line(format!("Access: {mode:04o}/{text}  Uid: {}  Gid: {}", metadata.uid(), metadata.gid()));
    line(format!(" Inode: {}  Links: {}", metadata.ino(), metadata.nlink()));
    line(format!("Modify: {}", metadata.modified().rfc3339()));
    line(format!("Change: {}", metadata.changed().rfc3339()));
    for (name, value) in xattrs {
        line(format!(" Xattr: {}={}", visible(name), visible(value)));
    }
    for layer in layers {
        let position = layer.position;
        line(match &layer.diff_id {
            Some(diff_id) => format!(" Layer: {position}  {}", short(diff_id)),
            None => format!(" Layer: {position}  (container)"),
        });
    }
    lines
}
