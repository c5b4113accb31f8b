//! Trees as pictures in text.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use overlay2::merged::{EntryKind, Tree};
use overlay2::{Driver, HistoryStep, escape_bytes};
use serde_json::{Map, Value};

use crate::Failure;
use crate::args::look;
use crate::look::kind_name;
use crate::output::{Output, name, short, size};
use crate::place::Place;
use crate::style::one_line;

/// How wide the bar of the largest layer is.
const BAR: usize = 20;

/// A file that is drawn, with all that lies in it.
struct Branch {
    name: Vec<u8>,
    kind: EntryKind,
    /// Its own bytes, and those of all files in it.
    size: u64,
    target: Option<Vec<u8>>,
    entries: Vec<Branch>,
}

#[derive(Default)]
struct Count {
    directories: u64,
    files: u64,
}

pub(crate) fn tree(driver: &Driver, out: &Output, args: &look::Tree) -> Result<(), Failure> {
    let place = Place::find(driver, &args.place)?;
    if place.path.is_none() && driver.container(&place.name).is_err() {
        // What is no image is a stack, of which there is no history.
        if let Ok(steps) = driver.history(&place.name) {
            return layers(out, &place.name, &steps);
        }
    }
    let opened = driver.read_tree(&place.name)?;
    let path = place.path();
    let metadata = opened.tree().metadata(&path)?;
    let mut count = Count::default();
    let mut root = Branch {
        name: path.as_os_str().as_bytes().to_vec(),
        kind: metadata.kind(),
        size: if metadata.is_file() { metadata.len() } else { 0 },
        target: None,
        entries: Vec::new(),
    };
    if metadata.is_dir() {
        let depth = args.depth.unwrap_or(u32::MAX);
        root.entries = grow(opened.tree(), &path, depth, args, &mut count)?;
        root.size = root.entries.iter().map(|one| one.size).sum();
    }
    if out.is_json() {
        return Ok(out.json(&value(&root))?);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    draw(&mut out, &root, args.sizes)?;
    let Count { directories, files } = count;
    let sum = if args.sizes { format!(", {}", size(root.size)) } else { String::new() };
    writeln!(out, "\n{directories} directories, {files} files{sum}")?;
    Ok(out.flush()?)
}

/// Reads what lies in a directory; below `depth` levels only its sizes, if those are wanted.
fn grow(
    tree: &Tree,
    path: &Path,
    depth: u32,
    args: &look::Tree,
    count: &mut Count,
) -> Result<Vec<Branch>, Failure> {
    let mut branches = Vec::new();
    for entry in tree.read_dir(path)? {
        let hidden = entry.name_bytes().starts_with(b".") && !args.all;
        let full = path.join(entry.file_name());
        let metadata = tree.symlink_metadata(&full)?;
        if hidden || (args.directories && !metadata.is_dir()) {
            continue;
        }
        let mut branch = Branch {
            name: entry.name_bytes().to_vec(),
            kind: metadata.kind(),
            size: if metadata.is_file() { metadata.len() } else { 0 },
            target: None,
            entries: Vec::new(),
        };
        match metadata.kind() {
            EntryKind::Directory => {
                count.directories += 1;
                if depth > 1 {
                    branch.entries = grow(tree, &full, depth - 1, args, count)?;
                    branch.size = branch.entries.iter().map(|one| one.size).sum();
                } else if args.sizes {
                    branch.size = weigh(tree, &full)?;
                }
            }
            EntryKind::Symlink => {
                count.files += 1;
                branch.target = Some(tree.read_link(&full)?.as_os_str().as_bytes().to_vec());
            }
            _ => count.files += 1,
        }
        branches.push(branch);
    }
    Ok(branches)
}

/// The bytes of all files beneath a directory.
fn weigh(tree: &Tree, path: &Path) -> Result<u64, Failure> {
    let mut sum = 0;
    for entry in tree.walk(path)? {
        let entry = entry?;
        if entry.metadata().is_file() {
            sum += entry.metadata().len();
        }
    }
    Ok(sum)
}

fn value(branch: &Branch) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), escape_bytes(&branch.name).into());
    fields.insert("kind".to_owned(), kind_name(branch.kind).into());
    fields.insert("size".to_owned(), branch.size.into());
    if let Some(target) = &branch.target {
        fields.insert("target".to_owned(), escape_bytes(target).into());
    }
    if branch.kind == EntryKind::Directory {
        fields.insert("entries".to_owned(), branch.entries.iter().map(value).collect());
    }
    Value::Object(fields)
}

/// Draws a tree with no recursion, however deep it is.
fn draw(out: &mut impl Write, root: &Branch, sizes: bool) -> io::Result<()> {
    label(out, root, sizes)?;
    let mut levels = vec![root.entries.iter().peekable()];
    while let Some(level) = levels.last_mut() {
        let Some(branch) = level.next() else {
            levels.pop();
            continue;
        };
        let (last, before) = levels
            .split_last_mut()
            .map_or((None, &mut [][..]), |(last, rest)| (Some(last.peek().is_none()), rest));
        for level in before {
            let more = level.peek().is_some();
            out.write_all(if more { "│   " } else { "    " }.as_bytes())?;
        }
        out.write_all(if last == Some(true) { "└── " } else { "├── " }.as_bytes())?;
        label(out, branch, sizes)?;
        levels.push(branch.entries.iter().peekable());
    }
    Ok(())
}

fn label(out: &mut impl Write, branch: &Branch, sizes: bool) -> io::Result<()> {
    if sizes {
        write!(out, "[{:>7}] ", size(branch.size))?;
    }
    out.write_all(&name(&branch.name))?;
    if let Some(target) = &branch.target {
        out.write_all(b" -> ")?;
        out.write_all(&name(target))?;
    }
    out.write_all(b"\n")
}

/// Draws the layers of an image, the last one on top, as they lie on each other.
fn layers(out: &Output, image: &str, steps: &[HistoryStep]) -> Result<(), Failure> {
    let largest = steps.iter().map(|step| step.size).max().unwrap_or(0).max(1);
    let total: u64 = steps.iter().map(|step| step.size).sum();
    let count = steps.iter().filter(|step| step.diff_id.is_some()).count();
    let mut lines = vec![format!("{image}: {count} layers, {}", size(total))];
    for (index, step) in steps.iter().enumerate() {
        let fork = if index + 1 == steps.len() { "└──" } else { "├──" };
        let command = step.created_by.as_deref().or(step.comment.as_deref()).unwrap_or_default();
        let what = match &step.diff_id {
            Some(diff_id) => format!(
                "{} {:>7} {:BAR$}",
                short(diff_id),
                size(step.size),
                bar(step.size, largest)
            ),
            None => format!("{:12} {:>7} {:BAR$}", "(no layer)", "-", ""),
        };
        lines.push(format!("{fork} {what} {}", one_line(command)).trim_end().to_owned());
    }
    Ok(out.lines(&steps, &lines)?)
}

/// A bar of blocks; every layer that holds anything has one.
fn bar(size: u64, largest: u64) -> String {
    let width = u128::from(size) * BAR as u128 / u128::from(largest);
    let width = usize::try_from(width).unwrap_or(BAR).max(usize::from(size > 0));
    "█".repeat(width)
}
