//! What the machine can do, what the store takes, and a namespace to work in.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use overlay2::userns::UserNamespace;
use overlay2::{Driver, UsageRow};
use serde_json::{Value, json};

use crate::Failure;
use crate::output::{Output, size, text_of};
use crate::style::ids;

pub(crate) fn df(driver: &Driver, out: &Output) -> Result<(), Failure> {
    let usage = driver.usage()?;
    let mut rows = Vec::new();
    for (kind, list) in
        [("layer", &usage.layers), ("image", &usage.images), ("container", &usage.containers)]
    {
        let row = |one: &UsageRow| {
            let name = one.name.strip_prefix("sha256:").unwrap_or(&one.name);
            vec![kind.to_owned(), ids(name, ""), one.inodes.to_string(), size(one.size)]
        };
        rows.extend(list.iter().map(row));
    }
    let total = |list: &[UsageRow]| size(list.iter().map(|one| one.size).sum());
    rows.push(vec!["total".to_owned(), "layers".to_owned(), String::new(), total(&usage.layers)]);
    rows.push(vec![
        "total".to_owned(),
        "containers".to_owned(),
        String::new(),
        total(&usage.containers),
    ]);
    Ok(out.table(&usage, &["KIND", "NAME", "INODES", "SIZE"], rows)?)
}

pub(crate) fn info(driver: &Driver, out: &Output) -> Result<(), Failure> {
    let features = driver.features()?;
    let store = driver.store();
    let value = json!({
        "root": text_of(store.path()),
        "namespace": store.namespace(),
        "durability": store.durability(),
        "version": env!("CARGO_PKG_VERSION"),
        "features": features,
    });
    let mut lines = Vec::new();
    flatten("", &value, &mut lines);
    Ok(out.lines(&value, &lines)?)
}

/// A line for each leaf of a JSON value.
fn flatten(name: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(name, value, lines));
        }
        Value::String(text) => lines.push(format!("{name}: {text}")),
        Value::Bool(true) => lines.push(format!("{name}: yes")),
        Value::Bool(false) => lines.push(format!("{name}: no")),
        other => lines.push(format!("{name}: {other}")),
    }
}

pub(crate) fn unshare(command: &[OsString]) -> Result<(), Failure> {
    let shell = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut words = command.iter();
    let mut run = std::process::Command::new(words.next().cloned().unwrap_or_else(shell));
    run.args(words);
    finish(UserNamespace::plan()?.run(run)?)
}

/// Ends with the status of a command that was run.
pub(crate) fn finish(status: ExitStatus) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Err(Failure::Status(u8::try_from(code).unwrap_or(1)))
}
