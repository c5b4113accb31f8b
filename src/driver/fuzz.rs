//! What fuzzing tries here: whole archives into a store and out of it.
#![allow(clippy::unwrap_used, reason = "compiled for tests and fuzzing alone")]

use super::{ArchiveFormat, Driver, DriverOptions, LoadOptions, LoadedImage, SaveOptions};
use crate::compression::Compression;
use crate::error::Result;
use crate::fuzz_bed::{self, Scratch};
use crate::namespace::Namespace;
use crate::sys::durable::Durability;
use crate::watch::Watch;

fn open(scratch: &Scratch, name: &str) -> Driver {
    let options = DriverOptions {
        durability: Durability::None,
        namespace: Some(Namespace::User),
        ..DriverOptions::default()
    };
    Driver::open_with(scratch.path().join(name), &options).unwrap()
}

fn load(driver: &Driver, archive: &[u8]) -> Result<Vec<LoadedImage>> {
    let mut options =
        LoadOptions { name: Some("fuzz:x".to_owned()), threads: 1, ..Default::default() };
    options.limits.file_bytes = 1 << 20;
    options.limits.bytes = 1 << 24;
    driver.load_stream(archive, &options, Watch::new())
}

/// What a store holds, but for what is on its way out.
fn content(driver: &Driver) -> Vec<String> {
    driver.store().empty_trash(&Watch::new()).unwrap();
    let mut found = Vec::new();
    for place in ["layers", "chains", "images", "names", "containers", "staging", "trash"] {
        let entries = std::fs::read_dir(driver.store().path().join(place)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        found.extend(names.map(|name| format!("{place}/{name}")));
    }
    found
}

/// Any bytes as what comes on standard input: a call that fails leaves nothing, and an image that
/// was loaded is saved with the layers that it had.
pub(crate) fn loaded(data: &[u8]) {
    let archive = fuzz_bed::archive(data);
    let scratch = Scratch::new();
    let driver = open(&scratch, "store");
    let images = match load(&driver, &archive) {
        Ok(images) => images,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(content(&driver), Vec::<String>::new(), "left behind by: {error}");
            return;
        }
    };
    let again: Vec<_> =
        load(&driver, &archive).unwrap().into_iter().map(|image| image.id).collect();
    assert!(images.iter().map(|image| image.id).eq(again));
    for image in &images {
        let id = image.id.to_string();
        let about = driver.inspect(&id).unwrap();
        driver.history(&id).unwrap();
        for format in [ArchiveFormat::Oci, ArchiveFormat::Docker] {
            let mut saved = Vec::new();
            let options = SaveOptions { format, compression: Compression::None };
            driver.save(&id, &mut saved, &options, Watch::new()).unwrap();
            let other = open(&scratch, &format!("other-{format:?}"));
            let mut limits = LoadOptions { name: Some("fuzz:x".to_owned()), ..Default::default() };
            let config = driver.store().image_config(&image.id).unwrap();
            let platform = crate::image::parse_config(&config).unwrap();
            limits.read = limits.read.platform((&platform).into());
            let loaded = other.load_stream(&saved[..], &limits, Watch::new()).unwrap();
            assert!(loaded.iter().any(|other| other.id == image.id), "another image came out");
            assert_eq!(other.inspect(&id).unwrap().root_fs.layers, about.root_fs.layers);
        }
    }
    for image in &images {
        for name in image.names.iter() {
            let _ = driver.remove_image(name, Watch::new());
        }
        let _ = driver.remove_image(&image.id.to_string(), Watch::new());
    }
    assert_eq!(content(&driver), Vec::<String>::new(), "left behind by removing all images");
}
