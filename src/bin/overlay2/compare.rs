//! What differs, and where it comes from.

use std::os::unix::ffi::OsStrExt;

use overlay2::changeset::{Change, DiffSummary};
use overlay2::{Driver, ErrorKind, HiddenBy, LayerPath, LayerSays, Provenance, Watch};
use serde_json::json;

use crate::Failure;
use crate::args::look::{Diff, Which};
use crate::look::resolved;
use crate::output::{Output, Target, name, short, size, text_of};
use crate::progress::Bars;
use crate::style::{self, one_line};

pub(crate) fn diff(driver: &Driver, out: &Output, diff: &Diff) -> Result<(), Failure> {
    let pair = between(driver, &diff.what)?;
    if !diff.write {
        let changes = match pair {
            Some((from, to)) => driver.changes_between(from, to, Watch::new())?,
            None => driver.changes(&diff.what, diff.tar.view(), Watch::new())?,
        };
        return list(out, &changes, diff.sizes);
    }
    let options = diff.tar.options();
    let bars = Bars::new(diff.quiet || out.is_json());
    let watch = Watch::new().observer(&bars);
    let done = Target::new(&diff.output).fill(driver.store().durability(), |mut tar| {
        Ok(match pair {
            Some((from, to)) => driver.diff_between(from, to, &mut tar, &options, watch)?,
            None => driver.diff(&diff.what, &mut tar, &options, watch)?,
        })
    })?;
    drop(bars);
    if diff.output == std::path::Path::new("-") {
        return Ok(());
    }
    let DiffSummary { entries, whiteouts, opaques, sockets, data, bytes, .. } = done;
    let value = json!({
        "file": text_of(&diff.output), "entries": entries, "whiteouts": whiteouts, "opaques": opaques,
        "sockets": sockets, "data": data, "bytes": bytes,
    });
    Ok(out.lines(&value, &[])?)
}

/// The two sides of `A..B`, unless a container has that name.
fn between<'a>(driver: &Driver, what: &'a str) -> Result<Option<(&'a str, &'a str)>, Failure> {
    let Some((from, to)) = what.split_once("..") else { return Ok(None) };
    match driver.container(what) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some((from, to))),
        Err(error) => Err(error.into()),
    }
}

fn list(out: &Output, changes: &[Change], sizes: bool) -> Result<(), Failure> {
    let coloured = style::colours(&std::io::stdout());
    let line = |change: &Change| {
        let letter = change.kind.letter();
        let style = match letter {
            'A' => style::GOOD,
            'D' => style::BAD,
            _ => style::CHANGED,
        };
        let letter = style::paint(&letter.to_string(), style, coloured);
        let mut line = format!("{letter} ").into_bytes();
        if sizes {
            line.extend(format!("{:>8} ", size(change.size)).into_bytes());
        }
        line.push(b'/');
        line.extend(name(change.path.as_bytes()));
        line
    };
    let value = |change: &Change| {
        let (kind, path) = (change.kind.letter(), change.path.escaped());
        json!({"kind": kind, "path": path, "size": change.size})
    };
    let values: Vec<_> = changes.iter().map(value).collect();
    Ok(out.raw_lines(&values, &changes.iter().map(line).collect::<Vec<_>>())?)
}

pub(crate) fn which(driver: &Driver, out: &Output, which: &Which) -> Result<(), Failure> {
    let typed = LayerPath::parse(which.path.as_os_str().as_bytes())?;
    // As the tree has it now; of what is gone with its directory, as it was typed.
    let opened = driver.read_tree(&which.name)?;
    let path = match resolved(opened.tree(), &which.path, false) {
        Ok(path) => LayerPath::parse(path.as_os_str().as_bytes())?,
        Err(_) => typed.clone(),
    };
    drop(opened);
    let told = driver.which(&which.name, &path)?;
    let mut lines: Vec<Vec<u8>> = Vec::new();
    if path != typed {
        lines.push([b"/".as_slice(), &name(path.as_bytes()), b":"].concat());
    }
    for says in &told.layers {
        lines.push(line(says).into_bytes());
        if let Some(command) = &says.layer.created_by {
            lines.push(format!("    {}", one_line(command)).into_bytes());
        }
        let Some(hides) = &says.hides else { continue };
        let by = match hides.by {
            HiddenBy::Whiteout => "the whiteout of",
            HiddenBy::Opaque => "the opaque directory",
            HiddenBy::Redirect => "the renamed directory",
            _ => "its own",
        };
        let mut line = format!("    hides {}: {by} /", numbers(&hides.positions)).into_bytes();
        line.extend(name(hides.at.as_bytes()));
        lines.push(line);
    }
    if told.layers.is_empty() {
        lines.push([b"no layer has /", name(told.path.as_bytes()).as_slice()].concat());
    }
    out.raw_lines(&told, &lines)?;
    match told {
        Provenance { shows: true, .. } => Ok(()),
        _ => Err(Failure::Status(1)),
    }
}

/// What a layer has at a path, in one line.
fn line(says: &LayerSays) -> String {
    let layer = match &says.layer.diff_id {
        Some(diff_id) => format!("{:>3}  {}", says.layer.position, short(diff_id)),
        None => format!("{:>3}  {:12}", says.layer.position, "(container)"),
    };
    let has = match says.kind {
        Some("file") => format!("file, {}", size(says.size)),
        Some(kind) => kind.to_owned(),
        None => String::new(),
    };
    let role = match (says.supplies, says.kind) {
        (true, None) => "supplies it under another name",
        (true, _) => "supplies it",
        (false, Some(_)) => "hidden",
        (false, None) => "hides it",
    };
    if has.is_empty() { format!("{layer}  {role}") } else { format!("{layer}  {has}: {role}") }
}

fn numbers(positions: &[usize]) -> String {
    let list: Vec<String> = positions.iter().map(ToString::to_string).collect();
    let layers = if list.len() == 1 { "layer" } else { "layers" };
    format!("{layers} {}", list.join(", "))
}
