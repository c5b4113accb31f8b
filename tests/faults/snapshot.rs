//! All that is in a store and around it, as lines that are the same whenever the same was done.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::store::mounts_beneath;

/// What depends on when something was made, not on what.
const MOMENTS: [&str; 3] = ["created", "loaded", "boot_id"];

/// What is written down of mounts, which counts for nothing where there is none: the mounts
/// themselves are listed.
const OF_MOUNTS: [&str; 2] = ["mount.json", "unsynced.json"];

/// The files of the directory `root`, and what is mounted in it. Identities that are made up anew
/// each time (of containers, and of images that hold a time) are replaced by names.
pub fn snapshot(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mounts = mounts_beneath(root);
    for mount in &mounts {
        lines.push(format!("mounted: {}", mount.strip_prefix(root).unwrap().display()));
    }
    walk(root, root, &mounts, &mut lines);
    let names = made_up(&root.join("store"));
    for line in &mut lines {
        for (id, name) in &names {
            if line.contains(id) {
                *line = line.replace(id, name);
            }
        }
    }
    lines.sort();
    lines
}

fn walk(root: &Path, directory: &Path, mounts: &[std::path::PathBuf], lines: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        // What is thrown away goes bit by bit: how much of it is left is a matter of time.
        let thrown_away = name.starts_with("store/trash/");
        // Room is held back where there is some, and is nobody's loss where there is none.
        let held_back = name == "store/ballast";
        if thrown_away || held_back || OF_MOUNTS.iter().any(|file| path.ends_with(file)) {
            continue;
        }
        let found = path.symlink_metadata().unwrap();
        let (mode, uid, gid) = (found.mode(), found.uid(), found.gid());
        let mut line = format!("{name} {mode:o} {uid}:{gid} {:x}", found.rdev());
        if found.is_symlink() {
            line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if found.is_file() {
            // The list of what is on disk has the times of whiteouts, which are made when unpacked.
            let made_up = name == "store/overlay2.json" || name.ends_with("/entries");
            line += &if made_up { String::new() } else { content(&path) };
        }
        if found.is_file() && name.starts_with("store/layers/") && name.contains("/diff/") {
            line += &format!(" {}.{}", found.mtime(), found.mtime_nsec());
        }
        lines.push(line);
        // The kernel keeps what it likes in a WorkDir; a mount shows what is elsewhere.
        let foreign = path.ends_with("work/work") || mounts.contains(&path);
        if found.is_dir() && !foreign {
            walk(root, &path, mounts, lines);
        }
    }
}

fn content(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    " ".to_owned()
        + &match serde_json::from_slice::<Value>(&bytes) {
            Ok(mut value) if value.is_object() => {
                without_moments(&mut value);
                value.to_string()
            }
            _ => hex::encode(Sha256::digest(&bytes)),
        }
}

fn without_moments(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !MOMENTS.contains(&name.as_str()));
            fields.values_mut().for_each(without_moments);
        }
        Value::Array(items) => items.iter_mut().for_each(without_moments),
        _ => {}
    }
}

/// Identities by what people call them.
fn made_up(store: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(store.join("container-names")).into_iter().flatten() {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        let id = target.file_name().unwrap().to_str().unwrap().to_owned();
        found.insert(id, format!("ID-OF-{}", entry.file_name().to_str().unwrap()));
    }
    for entry in fs::read_dir(store.join("names")).into_iter().flatten() {
        let entry = entry.unwrap();
        let Ok(record) = serde_json::from_slice::<Value>(&fs::read(entry.path()).unwrap()) else {
            continue;
        };
        let id = record["image"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        found.insert(id, format!("ID-OF-{}", entry.file_name().to_str().unwrap()));
    }
    found
}
