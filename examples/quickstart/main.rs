//! From an image archive to a container's root filesystem and back, on this machine, in a moment:
//! `cargo run --example quickstart`, with or without root.
//!
//! It makes an image of six small layers, loads it into a store in a temporary directory, makes two
//! containers from it, changes one, commits what was changed as a new image, and removes all of it.
//! Where the process may not mount, it starts itself again inside a user namespace, in which it may;
//! where that is forbidden too, the layers are merged in userspace.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a walk-through is to be read")]

mod image;
mod root;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, ExitCode};

use overlay2::changeset::View;
use overlay2::userns::{UserNamespace, in_initial_namespace};
use overlay2::{CommitOptions, Digest, Driver, LoadOptions, Watch};
use root::{Merging, Root};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const IMAGE: &str = "example/gateway:latest";
const CHANGED: &str = "example/gateway:changed";
const CONFIG: &str = "app/config.yaml";
const LOG: &str = "app/gateway.log";
const CURL: &str = "usr/bin/curl";
const NGINX: &str = "etc/nginx/nginx.conf";

/// The argument of the process that runs inside the namespace, which starts no other.
const INSIDE: &str = "--inside-user-namespace";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quickstart: {error}");
            if let Some(help) = error.downcast_ref::<overlay2::Error>().and_then(|e| e.help()) {
                eprintln!("hint: {help}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let inside = std::env::args_os().nth(1).is_some_and(|argument| argument == INSIDE);
    if can_mount()? {
        let place = match in_initial_namespace() {
            true => "in this process's own right",
            false => "in a user namespace, without root",
        };
        println!("The kernel merges the layers: overlayfs is mounted {place}.");
        return walk_through(Merging::Kernel);
    }
    let refusal = if inside {
        "no overlay can be mounted in a user namespace either".to_owned()
    } else {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(INSIDE);
        match UserNamespace::plan()?.run(command) {
            Ok(status) if status.success() => return Ok(ExitCode::SUCCESS),
            // It has said why.
            Ok(_) => return Ok(ExitCode::FAILURE),
            Err(error) => error.to_string(),
        }
    };
    println!(
        "Nothing can be mounted here ({refusal}): overlay2::merged merges the layers instead."
    );
    walk_through(Merging::Userspace)
}

/// Whether this process may mount an overlay; found out by doing it.
fn can_mount() -> Result<bool> {
    let scratch = tempfile::tempdir()?;
    let features = overlay2::KernelFeatures::probe(&overlay2::Dir::open_ambient(scratch.path())?)?;
    Ok(features.overlay_trusted || features.overlay_user)
}

/// All steps, in a directory that is removed whatever happens.
fn walk_through(merging: Merging) -> Result<ExitCode> {
    let scratch = tempfile::Builder::new().prefix("overlay2-quickstart-").tempdir()?;
    let driver = Driver::open(scratch.path().join("store"))?;

    step("1. Load an image: a docker-archive of six layers, made in memory");
    let archive = image::archive()?;
    for image in driver.load_stream(archive.as_slice(), &LoadOptions::default(), Watch::new())? {
        println!("   Loaded image: {} ({})", image.names.join(", "), short(&image.id));
    }
    show_layers(&driver)?;
    show_history(&driver)?;
    change_and_commit(&driver, merging)?;
    remove_all(&driver)?;

    drop(driver);
    let path = scratch.path().to_path_buf();
    scratch.close()?;
    println!("   {} is removed.", path.display());
    Ok(ExitCode::SUCCESS)
}

fn step(title: &str) {
    println!("\n{title}");
}

/// As much of a digest as a person reads.
fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

fn show_layers(driver: &Driver) -> Result<()> {
    let inspection = driver.inspect(IMAGE)?;
    let (diff_ids, data) = (inspection.root_fs.layers, inspection.graph_driver.data);
    step("2. Inspect it: RootFS.Layers counts from the bottom, the directories from the top");
    // A layer's directory is named after its diff ID.
    let layer_of = |directory: &Path| {
        let text = directory.to_string_lossy();
        let index = diff_ids.iter().position(|id| text.contains(&id.digest().hex()));
        index.map_or_else(|| text.to_string(), |index| format!("layer {}", index + 1))
    };
    let lower = data.lower_dir.unwrap_or_default();
    let lower: Vec<&str> = lower.split(':').collect();
    // Of an image, this is the topmost layer, which nobody writes.
    let upper = data.upper_dir.iter().map(|directory| ("UpperDir", layer_of(directory)));
    let below = lower.iter().map(|directory| ("LowerDir", layer_of(Path::new(directory))));
    for (index, (diff_id, (name, layer))) in diff_ids.iter().zip(upper.chain(below)).enumerate() {
        let diff_id = short(diff_id.digest());
        println!("   RootFS.Layers {}: sha256:{diff_id}...   {name}: {layer}", index + 1);
    }
    println!("   {} diff IDs = {} lower directories + 1 upper.", diff_ids.len(), lower.len());
    Ok(())
}

fn show_history(driver: &Driver) -> Result<()> {
    step("3. Its history: chmod stored the whole file again, and a step may make no layer");
    for row in driver.history(IMAGE)? {
        let layer = row.diff_id.map_or("(no layer)".into(), |id| short(id.digest()));
        let created_by = row.created_by.unwrap_or_default();
        println!("   {:>4} B  {layer:12}  {created_by}", row.size);
    }
    Ok(())
}

/// Two containers of one image; one is changed, and what it changed becomes an image.
fn change_and_commit(driver: &Driver, merging: Merging) -> Result<()> {
    step("4. Two containers from it: the lower layers are shared, each has an UpperDir of its own");
    for name in ["first", "second"] {
        driver.create(&IMAGE.into(), Some(name))?;
    }
    let first = Root::open(driver, "first", merging)?;
    let second = Root::open(driver, "second", merging)?;
    println!("   ls /     {}", first.names(".")?.join(" "));
    println!("   ls /app  {}", first.names("app")?.join(" "));

    step("5. In the first: create a file, write to one, chmod one, delete one; both are copied up");
    first.append(LOG, "started\n")?;
    first.append(CONFIG, "  debug: true\n")?;
    first.chmod(CURL, 0o700)?;
    first.remove(NGINX)?;
    show_upper(driver, "first")?;
    show_files("first", &first)?;
    show_files("second", &second)?;

    step("6. What the first changed, as docker diff has it: added, changed, deleted");
    for change in driver.changes("first", View::Kernel, Watch::new())? {
        println!("   {change}");
    }

    step("7. Commit it: those changes become a seventh layer, of a new image");
    let image = driver.commit("first", CHANGED, &CommitOptions::default(), Watch::new())?;
    let layers = driver.inspect(CHANGED)?.root_fs.layers.len();
    println!("   {CHANGED} ({}) has {layers} layers", short(&image.id));
    driver.create(&CHANGED.into(), Some("third"))?;
    show_files("third", &Root::open(driver, "third", merging)?)
}

/// What lies in a container's UpperDir: only what differs from the image.
fn show_upper(driver: &Driver, container: &str) -> Result<()> {
    let data = driver.inspect(container)?.graph_driver.data;
    let upper = data.upper_dir.ok_or("a container has an UpperDir")?;
    println!("   The UpperDir of {container}:");
    let mut pending = vec![upper.clone()];
    let mut lines = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory)? {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            let name = path.strip_prefix(&upper)?.display().to_string();
            if metadata.is_dir() {
                pending.push(path);
            } else if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                lines.push(format!("{name:22} a whiteout: character device 0:0"));
            } else {
                lines.push(format!("{name:22} {:>3} B", metadata.len()));
            }
        }
    }
    lines.sort();
    lines.iter().for_each(|line| println!("     {line}"));
    Ok(())
}

/// What a container sees of the files that the first one changes.
fn show_files(container: &str, root: &Root<'_>) -> Result<()> {
    let config = root.read(CONFIG)?.unwrap_or_default();
    let log = if root.exists(LOG)? { "is there" } else { "is not there" };
    let nginx = if root.exists(NGINX)? { "is there" } else { "is deleted" };
    println!("   {container} sees:");
    println!("     /{CONFIG}: {}", config.split_whitespace().collect::<Vec<_>>().join(" "));
    println!("     /{CURL} has mode {:04o}, /{NGINX} {nginx}, /{LOG} {log}", root.mode(CURL)?);
    Ok(())
}

fn remove_all(driver: &Driver) -> Result<()> {
    step("8. Remove the containers, then the images; the other order is refused");
    match driver.remove_image(IMAGE, Watch::new()) {
        Ok(_) => return Err("an image in use was removed".into()),
        Err(error) => println!("   rmi {IMAGE}: {error}"),
    }
    for container in driver.containers()? {
        driver.remove_container(&container.name, Watch::new())?;
        println!("   rm {}", container.name);
    }
    for image in [IMAGE, CHANGED] {
        driver.remove_image(image, Watch::new())?;
        let layers = driver.usage()?.layers.len();
        println!("   rmi {image}: {layers} layers stay");
    }
    let (containers, images) = (driver.containers()?.len(), driver.images()?.len());
    println!("   The store holds {containers} containers and {images} images.");
    Ok(())
}
