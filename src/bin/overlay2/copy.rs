//! Files copied into containers and out of them.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use overlay2::copy::{
    CopyLinks, CopyOptions, CopyOwners, CopySource, CopySummary, CopyTarget, copy,
};
use overlay2::{ContainerTree, Driver, ErrorKind, Quota, ReadTree, Watch};
use serde_json::json;

use crate::Failure;
use crate::args::look::Cp;
use crate::output::{Output, visible};
use crate::place::Place;
use crate::progress::Bars;

/// One end of a copy, as it was typed.
enum End {
    Stream,
    Host(PathBuf),
    Inside(Place),
}

impl End {
    fn find(driver: &Driver, typed: &OsStr) -> Result<Self, Failure> {
        let bytes = typed.as_bytes();
        let is_host = bytes.starts_with(b"/") || bytes.starts_with(b".") || !bytes.contains(&b':');
        Ok(match bytes {
            b"-" => Self::Stream,
            _ if is_host => Self::Host(PathBuf::from(typed)),
            _ => Self::Inside(Place::find(driver, typed)?),
        })
    }
}

/// The tree that is read: the one that is written, where they are the same.
enum From<'t> {
    Same(&'t ContainerTree),
    Other(ReadTree),
}

pub(crate) fn cp(driver: &Driver, out: &Output, args: &Cp) -> Result<(), Failure> {
    let (from, to) = (End::find(driver, &args.from)?, End::find(driver, &args.to)?);
    if !matches!((&from, &to), (End::Inside(_), _) | (_, End::Inside(_))) {
        let message = "one side has to be a container: NAME:PATH";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message).into());
    }
    let mut options = CopyOptions::default();
    if args.archive {
        options.owners = CopyOwners::Keep;
    }
    if args.follow_link {
        options.links = CopyLinks::Follow;
    }
    let held = match &to {
        End::Inside(place) => {
            let tree = driver.tree(&place.name)?;
            // Root is held to it as anybody is.
            if driver.quota(&place.name).is_ok_and(|used| used.is_some()) {
                Quota::hold_this_thread()?;
            }
            Some(tree)
        }
        _ => None,
    };
    let read = match (&from, &to, &held) {
        (End::Inside(from), End::Inside(to), Some(held)) if same(driver, from, to)? => {
            Some(From::Same(held))
        }
        (End::Inside(from), ..) => Some(From::Other(driver.read_tree(&from.name)?)),
        _ => None,
    };
    let (inside, into) = (path_of(&from), path_of(&to));
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let source = match &read {
        Some(From::Same(held)) => CopySource::Tree(held.tree(), &inside),
        Some(From::Other(opened)) => CopySource::Tree(opened.tree(), &inside),
        None if matches!(from, End::Stream) => CopySource::Tar(&mut input),
        None => CopySource::Host(&inside),
    };
    let is_stream = matches!(to, End::Stream);
    let target = match &held {
        Some(held) => CopyTarget::Tree(held.tree(), &into),
        None if is_stream => CopyTarget::Tar(&mut output),
        None => CopyTarget::Host(&into),
    };
    let bars = Bars::new(args.quiet || out.is_json());
    let summary = copy(source, target, &options, Watch::new().observer(&bars))?;
    drop(bars);
    output.flush()?;
    drop(output);
    told(out, &summary, is_stream)
}

/// Whether two names are those of one container.
fn same(driver: &Driver, one: &Place, other: &Place) -> Result<bool, Failure> {
    let id = |place: &Place| match driver.container(&place.name) {
        Ok(container) => Ok(Some(container.id)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let one = id(one)?;
    Ok(one.is_some() && one == id(other)?)
}

fn path_of(end: &End) -> PathBuf {
    match end {
        End::Stream => PathBuf::new(),
        End::Host(path) => path.clone(),
        End::Inside(place) => place.path(),
    }
}

fn told(out: &Output, summary: &CopySummary, is_stream: bool) -> Result<(), Failure> {
    let CopySummary { entries, bytes, unkept, skipped, .. } = summary;
    let mut err = io::stderr().lock();
    // Where even this cannot be written there is nobody to tell.
    if *unkept > 0 {
        let _ = writeln!(err, "overlay2: {unkept} owners or attributes could not be kept");
    }
    for path in skipped {
        let path = visible(path.as_bytes());
        let _ = writeln!(err, "overlay2: /{path} could not be made");
    }
    if !is_stream {
        let skipped: Vec<String> = skipped.iter().map(|path| path.escaped()).collect();
        let value =
            json!({"entries": entries, "bytes": bytes, "unkept": unkept, "skipped": skipped});
        out.lines(&value, &[])?;
    }
    if skipped.is_empty() { Ok(()) } else { Err(Failure::Status(1)) }
}
