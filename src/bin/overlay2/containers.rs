//! Containers: made, listed, mounted, compared, committed, removed.

use std::io;
use std::os::unix::ffi::OsStrExt;

use overlay2::image::ConfigChanges;
use overlay2::mount::{MountAccess, MountOptions, Syncing};
use overlay2::{
    Base, CommitOptions, Container, CreateOptions, Driver, Quota, Timestamp, TornUpper, Watch,
};
use serde_json::json;

use crate::args::containers::{Commit, Config, Create, Export, Mount, Recover, Remove, ShowQuota};
use crate::output::{Output, Target, short, size, visible};
use crate::progress::Bars;
use crate::style::{ids, time};
use crate::upkeep::free_space;
use crate::{Failure, each, note};

pub(crate) fn create(driver: &Driver, out: &Output, create: &Create) -> Result<(), Failure> {
    let base = match (&create.chain, &create.image) {
        (Some(chain), _) => Base::Chain(driver.chain_id(chain)?),
        (None, image) => Base::Image(image.clone().unwrap_or_default()),
    };
    let mut options = CreateOptions::default();
    options.name.clone_from(&create.name);
    if create.volatile {
        options.syncing = Syncing::Volatile;
    }
    options.quota = create.limits.instead_of(Quota::default());
    let container = driver.create_with(&base, &options)?;
    Ok(out.lines(&container, std::slice::from_ref(&container.name))?)
}

pub(crate) fn quota(driver: &Driver, out: &Output, quota: &ShowQuota) -> Result<(), Failure> {
    let name = &quota.container;
    let none = || {
        let message = format!("container {name} has no quota, or none is kept any more");
        io::Error::new(io::ErrorKind::Unsupported, message)
    };
    let mut used = driver.quota(name)?.ok_or_else(none)?;
    if quota.limits.is_given() {
        driver.set_quota(name, &quota.limits.instead_of(used.limits))?;
        used = driver.quota(name)?.ok_or_else(none)?;
    }
    let limit = |limit: Option<String>| limit.unwrap_or_else(|| "-".to_owned());
    let row = vec![
        name.clone(),
        size(used.bytes),
        limit(used.limits.bytes.map(size)),
        used.inodes.to_string(),
        limit(used.limits.inodes.map(|inodes| inodes.to_string())),
    ];
    let header = ["CONTAINER", "SIZE", "LIMIT", "INODES", "LIMIT"];
    Ok(out.table(&used, &header, vec![row])?)
}

pub(crate) fn list(driver: &Driver, out: &Output, quiet: bool) -> Result<(), Failure> {
    let containers = driver.containers()?;
    if quiet {
        let names: Vec<String> = containers.iter().map(|one| one.name.clone()).collect();
        return Ok(out.lines(&containers, &names)?);
    }
    let rows = containers.iter().map(|one| {
        let base = one.image.clone().or(one.chain_id.map(|chain| short(&chain)));
        let mounted =
            one.mounted.as_ref().map(|path| ids(&visible(path.as_os_str().as_bytes()), "…"));
        vec![
            short(&one.id),
            base.unwrap_or_default(),
            time(&one.created),
            mounted.unwrap_or_else(|| unmounted(one).to_owned()),
            one.name.clone(),
        ]
    });
    let header = ["CONTAINER ID", "IMAGE", "CREATED", "MOUNTED", "NAME"];
    Ok(out.table(&containers, &header, rows.collect())?)
}

/// What a list says of a container that is not mounted.
fn unmounted(container: &Container) -> &'static str {
    match (container.torn, container.lost) {
        (true, true) => "(lost, torn)",
        (true, false) => "(torn)",
        (_, true) => "(lost)",
        _ => "-",
    }
}

pub(crate) fn mount(driver: &Driver, out: &Output, mount: &Mount) -> Result<(), Failure> {
    let mut options = MountOptions::default();
    if mount.read_only {
        options.access = MountAccess::ReadOnly;
    }
    if mount.volatile {
        options.syncing = Syncing::Volatile;
    }
    let point = driver.mount(&mount.container, mount.target.as_deref(), &options)?;
    Ok(out.path(&point.target, |path| json!({"container": mount.container, "target": path}))?)
}

pub(crate) fn unmount(driver: &Driver, out: &Output, names: &[String]) -> Result<(), Failure> {
    done(out, names, |name| Ok(driver.unmount(name)?))
}

pub(crate) fn recover(driver: &Driver, out: &Output, recover: &Recover) -> Result<(), Failure> {
    let torn = if recover.accept { TornUpper::Accept } else { TornUpper::Discard };
    let was_torn = driver.recover(&recover.container, torn)?;
    if !was_torn {
        let name = &recover.container;
        note(&format!("container {name} was not torn: its files stay as they are"), None);
    }
    let value = json!({"container": recover.container, "torn": was_torn});
    Ok(out.lines(&value, std::slice::from_ref(&recover.container))?)
}

pub(crate) fn commit(driver: &Driver, out: &Output, commit: &Commit) -> Result<(), Failure> {
    let mut options = CommitOptions::default();
    options.author.clone_from(&commit.author);
    options.message.clone_from(&commit.message);
    options.diff = commit.tar.options();
    options.created = commit.tar.times.source_date_epoch.map(Timestamp::from_seconds);
    options.config = changes(&commit.config)?;
    let bars = Bars::new(commit.quiet || out.is_json());
    let watch = Watch::new().observer(&bars);
    let image = driver.commit(&commit.container, &commit.name, &options, watch)?;
    drop(bars);
    Ok(out.lines(&image, &[image.id.to_string()])?)
}

/// What the command line says of an image's process.
pub(crate) fn changes(config: &Config) -> Result<ConfigChanges, Failure> {
    let words = |words: &[String]| match words {
        [] => None,
        words => Some(words.iter().filter(|word| !word.is_empty()).cloned().collect()),
    };
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is no NAME=VALUE"))),
    };
    let mut changes = ConfigChanges::default();
    changes.entrypoint = words(&config.entrypoint);
    changes.cmd = words(&config.cmd);
    changes.env = config.env.iter().map(pair).collect::<io::Result<_>>()?;
    changes.labels = config.label.iter().map(pair).collect::<io::Result<_>>()?;
    changes.working_dir.clone_from(&config.workdir);
    changes.user.clone_from(&config.user);
    Ok(changes)
}

pub(crate) fn export(driver: &Driver, export: &Export) -> Result<(), Failure> {
    let options = export.times.options();
    let bars = Bars::new(export.quiet);
    Target::new(&export.output).fill(driver.store().durability(), |mut out| {
        let watch = Watch::new().observer(&bars);
        driver.export(&export.container, &mut out, &options, watch)?;
        Ok(())
    })
}

pub(crate) fn remove(driver: &Driver, out: &Output, remove: &Remove) -> Result<(), Failure> {
    let removed = done(out, &remove.containers, |name| {
        if remove.force && driver.container(name)?.mounted.is_some() {
            driver.unmount(name)?;
        }
        Ok(driver.remove_container(name, Watch::new())?)
    });
    free_space(driver, removed)
}

/// Does something to each container and prints the names of those for which it was done.
fn done(
    out: &Output,
    names: &[String],
    mut act: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut lines = Vec::new();
    let result = each(names, |name| {
        act(name)?;
        lines.push(name.clone());
        Ok(())
    });
    if result.is_ok() || !lines.is_empty() {
        out.lines(&lines, &lines)?;
    }
    result
}
