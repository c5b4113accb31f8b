//! The store looked after: checked, repaired, cleaned.

use overlay2::{CheckLevel, CheckOptions, Driver, Finding, GcMode, RepairFrom, Watch};

use crate::args::upkeep::{Check, Gc, Repair};
use crate::output::{Output, size};
use crate::progress::Bars;
use crate::{Failure, note};

pub(crate) fn check(driver: &Driver, out: &Output, check: &Check) -> Result<(), Failure> {
    let bars = Bars::new(check.quiet || out.is_json());
    let mut options = CheckOptions::default();
    options.threads = check.threads.count;
    if check.quick {
        options.level = CheckLevel::Quick;
    }
    let found = driver.check(&options, Watch::new().observer(&bars))?;
    drop(bars);
    if found.is_clean() {
        let layers = if found.layers == 1 { "layer" } else { "layers" };
        let line = format!("{} {layers} checked: nothing is wrong", found.layers);
        out.lines(&found, if check.quiet { &[] } else { std::slice::from_ref(&line) })?;
        return Ok(());
    }
    out.table(&found, &["OBJECT", "PATH", "KIND", "DETAIL"], table(&found.findings))?;
    Err(Failure::Status(1))
}

pub(crate) fn repair(driver: &Driver, out: &Output, repair: &Repair) -> Result<(), Failure> {
    let bars = Bars::new(repair.quiet || out.is_json());
    let from = match &repair.from {
        Some(path) => RepairFrom::Path(path),
        None => RepairFrom::Store,
    };
    let store = driver.store();
    let layers = repair.layers.iter().map(|text| store.layer_called(text));
    let layers = layers.collect::<overlay2::Result<Vec<_>>>()?;
    let done = driver.repair(&from, &layers, Watch::new().observer(&bars))?;
    drop(bars);
    for (layer, why) in &done.failed {
        crate::complain(&format!("layer {layer} is not repaired: {why}"), None, 1);
    }
    let lines: Vec<_> = done.repaired.iter().map(|key| format!("Repaired: {key}")).collect();
    out.lines(&done, &lines)?;
    if done.remaining.is_clean() {
        return Ok(());
    }
    if !out.is_json() {
        let rows = table(&done.remaining.findings);
        out.table(&done, &["OBJECT", "PATH", "KIND", "DETAIL"], rows)?;
    }
    Err(Failure::Status(1))
}

pub(crate) fn gc(driver: &Driver, out: &Output, gc: &Gc) -> Result<(), Failure> {
    let mode = if gc.dry_run { GcMode::DryRun } else { GcMode::Remove };
    let found = driver.gc(mode, Watch::new())?;
    let kind = |kind: &overlay2::GarbageKind| format!("{kind:?}").to_lowercase();
    let mut rows: Vec<_> = found
        .items
        .iter()
        .map(|one| vec![kind(&one.kind), one.place.clone(), one.inodes.to_string(), size(one.size)])
        .collect();
    let (inodes, total) = (found.inodes.to_string(), size(found.size));
    rows.push(vec!["total".to_owned(), String::new(), inodes, total]);
    Ok(out.table(&found, &["KIND", "PLACE", "INODES", "SIZE"], rows)?)
}

fn table(findings: &[Finding]) -> Vec<Vec<String>> {
    let row = |finding: &Finding| {
        let path = finding.path.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        vec![finding.object.clone(), path, finding.kind.to_string(), finding.detail.clone()]
    };
    findings.iter().map(row).collect()
}

/// Deletes what was removed, once that was told: whoever types a command wants the space back, and
/// a store that nobody opens again would keep it. Where it is stopped, others go on later; where it
/// cannot be done, what was removed is removed all the same.
pub(crate) fn free_space(driver: &Driver, removed: Result<(), Failure>) -> Result<(), Failure> {
    if let Err(error) = driver.empty_trash(Watch::new()) {
        note(&format!("what was removed still takes room: {error}"), error.help());
    }
    removed
}
