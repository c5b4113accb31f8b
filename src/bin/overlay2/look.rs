//! Files of containers and images: listed, written out, described.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use overlay2::merged::{EntryKind, Metadata, Tree};
use overlay2::{Driver, LayerOrigin, LayerPath, escape_bytes};
use serde_json::{Map, Value, json};

use crate::args::look::{Cat, Ls, Stat};
use crate::output::{Output, name, short, visible};
use crate::place::Place;
use crate::{Failure, each};

/// One file that is shown.
struct Shown {
    /// Its name, or the path that was asked for.
    name: Vec<u8>,
    path: PathBuf,
    metadata: Metadata,
    /// Where a symlink leads.
    target: Option<Vec<u8>>,
}

pub(crate) fn ls(driver: &Driver, out: &Output, ls: &Ls) -> Result<(), Failure> {
    let (mut values, mut lines) = (Vec::new(), Vec::new());
    let result = each(&ls.places, |typed| {
        let place = Place::find(driver, typed)?;
        let opened = driver.read_tree(&place.name)?;
        let listed = list(opened.tree(), &place.path(), ls)?;
        if ls.places.len() > 1 && !out.is_json() {
            let gap: &[u8] = if lines.is_empty() { b"" } else { b"\n" };
            lines.push([gap, &name(typed.as_bytes()), b":"].concat());
        }
        if ls.long {
            lines.extend(long(&listed));
        } else {
            lines.extend(listed.iter().map(|one| name(&one.name)));
        }
        values.extend(listed.iter().map(|one| Value::Object(value(one))));
        Ok(())
    });
    if result.is_ok() || !values.is_empty() {
        out.raw_lines(&values, &lines)?;
    }
    result
}

fn list(tree: &Tree, path: &Path, ls: &Ls) -> Result<Vec<Shown>, Failure> {
    // As `ls` does: a symlink to a directory is gone into, unless it is to be described.
    let follow = !ls.directory && !ls.long || path.as_os_str().as_bytes().ends_with(b"/");
    let metadata = if follow { tree.metadata(path)? } else { tree.symlink_metadata(path)? };
    if ls.directory || !metadata.is_dir() {
        let itself = tree.symlink_metadata(path)?;
        let name = path.as_os_str().as_bytes().to_vec();
        return Ok(vec![shown(tree, name, path.to_path_buf(), itself)?]);
    }
    let mut listed = Vec::new();
    for entry in tree.read_dir(path)? {
        if entry.name_bytes().starts_with(b".") && !ls.all {
            continue;
        }
        let full = path.join(entry.file_name());
        let metadata = tree.symlink_metadata(&full)?;
        listed.push(shown(tree, entry.name_bytes().to_vec(), full, metadata)?);
    }
    Ok(listed)
}

fn shown(tree: &Tree, name: Vec<u8>, path: PathBuf, metadata: Metadata) -> Result<Shown, Failure> {
    let target = match metadata.is_symlink() {
        true => Some(tree.read_link(&path)?.into_os_string().as_bytes().to_vec()),
        false => None,
    };
    Ok(Shown { name, path, metadata, target })
}

/// Lines as `ls -l` prints them, with numbers for owners and times in UTC.
fn long(listed: &[Shown]) -> Vec<Vec<u8>> {
    let columns: Vec<[String; 4]> = listed
        .iter()
        .map(|Shown { metadata, .. }| {
            let size = match metadata.kind() {
                EntryKind::CharDevice | EntryKind::BlockDevice => {
                    metadata.device().to_string().replace(':', ", ")
                }
                _ => metadata.len().to_string(),
            };
            let links = metadata.nlink().to_string();
            [links, metadata.uid().to_string(), metadata.gid().to_string(), size]
        })
        .collect();
    let mut widths = [0; 4];
    for row in &columns {
        widths.iter_mut().zip(row).for_each(|(width, text)| *width = text.len().max(*width));
    }
    let mut lines = Vec::new();
    for (one, row) in listed.iter().zip(&columns) {
        let mut line = mode_text(&one.metadata).into_bytes();
        for (width, text) in widths.iter().zip(row) {
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
        lines.push(line);
    }
    lines
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
    put("path", absolute(&one.path).into());
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
    let one = shown(
        tree,
        path.as_os_str().as_bytes().to_vec(),
        path.clone(),
        tree.symlink_metadata(&path)?,
    )?;
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
