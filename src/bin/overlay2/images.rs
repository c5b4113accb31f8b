//! Images: loaded, listed, shown, saved, removed.

use std::path::Path;

use overlay2::image::{Platform, ReadOptions};
use overlay2::store::RemovedImage;
use overlay2::{ArchiveFormat, CommitOptions, Driver, LoadOptions, SaveOptions, WastedStep, Watch};
use serde_json::json;

use crate::args::images::{Archive, Compression, History, Import, Load, Save, Tag};
use crate::containers::changes;
use crate::layers::input;
use crate::output::{Output, short, size, text_of};
use crate::progress::Bars;
use crate::style::{command, time};
use crate::upkeep::free_space;
use crate::{Failure, each};

pub(crate) fn load(driver: &Driver, out: &Output, load: &Load) -> Result<(), Failure> {
    let mut options = LoadOptions::default();
    options.threads = load.threads.count;
    options.memory = load.memory.unwrap_or(0);
    options.name.clone_from(&load.name);
    if let Some(platform) = &load.platform {
        options.read = ReadOptions::default().platform(platform.parse::<Platform>()?);
    }
    let bars = Bars::new(load.quiet || out.is_json());
    let watch = Watch::new().observer(&bars);
    let loaded = if load.input == Path::new("-") {
        driver.load_stream(std::io::stdin().lock(), &options, watch)
    } else {
        driver.load(&load.input, &options, watch)
    };
    drop(bars);
    let loaded = loaded.inspect_err(|_| {
        // Layers of whole images before the one that failed; what stays is deleted another time.
        let _ = driver.empty_trash(Watch::new());
    })?;
    let mut lines = Vec::new();
    for image in &loaded {
        let id = image.id.to_string();
        let names = if image.names.is_empty() { vec![id] } else { image.names.clone() };
        let line = |name: &String| match load.quiet {
            true => name.clone(),
            false => format!("Loaded image: {name}"),
        };
        lines.extend(names.iter().map(line));
    }
    Ok(out.lines(&loaded, &lines)?)
}

pub(crate) fn import(driver: &Driver, out: &Output, import: &Import) -> Result<(), Failure> {
    let mut options = CommitOptions::default();
    options.message.clone_from(&import.message);
    options.config = changes(&import.config)?;
    let bars = Bars::new(import.quiet || out.is_json());
    let watch = Watch::new().observer(&bars);
    let image = driver.import(input(&import.file)?, &import.name, &options, watch)?;
    drop(bars);
    Ok(out.lines(&image, &[image.id.to_string()])?)
}

pub(crate) fn list(driver: &Driver, out: &Output, quiet: bool) -> Result<(), Failure> {
    let images = driver.images()?;
    if quiet {
        let ids: Vec<String> = images.iter().map(|image| short(&image.id)).collect();
        return Ok(out.lines(&images, &ids)?);
    }
    let mut rows = Vec::new();
    for image in &images {
        let none = vec!["<none>".to_owned()];
        for name in if image.names.is_empty() { &none } else { &image.names } {
            let (repository, tag) = match name.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => (repository, tag),
                _ => (name.as_str(), "<none>"),
            };
            rows.push(vec![
                repository.to_owned(),
                tag.to_owned(),
                short(&image.id),
                image.created.as_deref().map(time).unwrap_or_default(),
                size(image.size),
            ]);
        }
    }
    Ok(out.table(&images, &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], rows)?)
}

pub(crate) fn history(driver: &Driver, out: &Output, history: &History) -> Result<(), Failure> {
    if history.wasted {
        return wasted(driver, out, &history.image);
    }
    let steps = driver.history(&history.image)?;
    if history.quiet {
        let layers = steps.iter().filter_map(|step| step.diff_id);
        return Ok(out.lines(&steps, &layers.map(|id| id.to_string()).collect::<Vec<_>>())?);
    }
    let row = |step: &overlay2::HistoryStep| {
        vec![
            step.diff_id.map_or_else(|| "<none>".to_owned(), |diff_id| short(&diff_id)),
            step.created.as_deref().map(time).unwrap_or_default(),
            step.created_by.as_deref().map(command).unwrap_or_default(),
            size(step.size),
            step.comment.clone().unwrap_or_default(),
        ]
    };
    let rows = steps.iter().map(row).collect();
    Ok(out.table(&steps, &["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"], rows)?)
}

fn wasted(driver: &Driver, out: &Output, image: &str) -> Result<(), Failure> {
    let steps = driver.history_wasted(image, Watch::new())?;
    let total: u64 = steps.iter().map(|one| one.wasted_bytes).sum();
    let files: u64 = steps.iter().map(|one| one.wasted_files).sum();
    let mut rows = Vec::new();
    for WastedStep { step, wasted_bytes, wasted_files, .. } in &steps {
        rows.push(vec![
            step.diff_id.map_or_else(|| "<none>".to_owned(), |diff_id| short(&diff_id)),
            step.created.as_deref().map(time).unwrap_or_default(),
            step.created_by.as_deref().map(command).unwrap_or_default(),
            size(step.size),
            size(*wasted_bytes),
            wasted_files.to_string(),
        ]);
    }
    let all = size(steps.iter().map(|one| one.step.size).sum());
    let mut last = vec!["total".to_owned(), String::new(), String::new()];
    last.extend([all, size(total), files.to_string()]);
    rows.push(last);
    let value = json!({"steps": steps, "wasted_bytes": total, "wasted_files": files});
    let header = ["LAYER", "CREATED", "CREATED BY", "SIZE", "WASTED", "FILES"];
    Ok(out.table(&value, &header, rows)?)
}

pub(crate) fn inspect(driver: &Driver, out: &Output, names: &[String]) -> Result<(), Failure> {
    let mut found = Vec::new();
    for name in names {
        found.push(driver.inspect(name)?);
    }
    Ok(out.json(&found)?)
}

pub(crate) fn tag(driver: &Driver, out: &Output, tag: &Tag) -> Result<(), Failure> {
    let name = driver.tag(&tag.image, &tag.name)?;
    Ok(out.lines(&json!({"image": tag.image, "name": name}), std::slice::from_ref(&name))?)
}

pub(crate) fn save(driver: &Driver, out: &Output, save: &Save) -> Result<(), Failure> {
    let mut options = SaveOptions::default();
    options.format = match save.archive {
        Archive::Oci => ArchiveFormat::Oci,
        Archive::Docker => ArchiveFormat::Docker,
    };
    options.compression = match save.compression {
        Compression::None => overlay2::Compression::None,
        Compression::Gzip => overlay2::Compression::Gzip,
        Compression::Zstd => overlay2::Compression::Zstd,
    };
    let bars = Bars::new(save.quiet || out.is_json());
    let watch = Watch::new().observer(&bars);
    if save.output == Path::new("-") {
        use std::io::{BufWriter, Write};
        let mut writer = BufWriter::with_capacity(256 << 10, std::io::stdout().lock());
        driver.save(&save.image, &mut writer, &options, watch)?;
        return Ok(writer.flush()?);
    }
    driver.save_to(&save.image, &save.output, &options, watch)?;
    drop(bars);
    let value = json!({"image": save.image, "file": text_of(&save.output)});
    Ok(out.lines(&value, &[])?)
}

pub(crate) fn remove(driver: &Driver, out: &Output, images: &[String]) -> Result<(), Failure> {
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    let result = each(images, |image| {
        match driver.remove_image(image, Watch::new())? {
            RemovedImage::Untagged { name } => {
                lines.push(format!("Untagged: {name}"));
                values.push(json!({"untagged": name}));
            }
            RemovedImage::Removed { id, names, .. } => {
                for name in names {
                    lines.push(format!("Untagged: {name}"));
                    values.push(json!({"untagged": name}));
                }
                lines.push(format!("Deleted: {id}"));
                values.push(json!({"deleted": id}));
            }
        }
        Ok(())
    });
    if result.is_ok() || !lines.is_empty() {
        out.lines(&values, &lines)?;
    }
    free_space(driver, result)
}
