//! Laws that hold between the merged tree and changesets, on random layers.

use crate::changeset::{self, ApplyOptions, DiffOptions, RootEntry};
use crate::format::lookup::{Redirects, Stack};
use crate::merged::tests::{Scene, random_scenes};
use crate::sys::Dir;
use crate::watch::Watch;

fn stack(scene: &Scene, layers: Vec<Dir>) -> Stack {
    Stack::new(layers, scene.namespace(), Redirects::Follow)
}

fn options() -> DiffOptions {
    DiffOptions { root: RootEntry::Always, ..DiffOptions::default() }
}

/// What a layer does to those below it, as a tar.
fn diff(scene: &Scene, mut layers: Vec<Dir>) -> Result<Vec<u8>, String> {
    let upper = layers.remove(0);
    let mut tar = Vec::new();
    let below = stack(scene, layers);
    changeset::write_diff(&upper, &below, &mut tar, &options(), "layer", &Watch::new())
        .map_err(|error| error.to_string())?;
    Ok(tar)
}

fn apply(scene: &Scene, tar: &[u8], name: &str) -> Result<Dir, String> {
    let dir = scene.new_dir(name);
    changeset::apply(tar, &dir, &ApplyOptions::new(scene.namespace()))
        .map_err(|error| error.to_string())?;
    Ok(dir)
}

#[test]
fn the_diff_applied_over_the_layers_shows_the_merged_tree() {
    random_scenes("the_diff_applied_over_the_layers_shows_the_merged_tree", |scene| {
        let before = scene.shown(scene.layers());
        let mut layers = scene.layers();
        layers[0] = apply(scene, &diff(scene, scene.layers())?, "applied")?;
        Scene::same("the diff applied", &scene.shown(layers), &before)
    });
}

#[test]
fn the_view_as_one_flat_layer_shows_the_same() {
    random_scenes("the_view_as_one_flat_layer_shows_the_same", |scene| {
        let before = scene.shown(scene.layers());
        let (mut tar, all) = (Vec::new(), stack(scene, scene.layers()));
        changeset::export(&all, &mut tar, &options(), "view", &Watch::new())
            .map_err(|error| error.to_string())?;
        let flat = apply(scene, &tar, "flat")?;
        Scene::same("the flat layer", &scene.shown(vec![flat]), &before)
    });
}

/// Each layer, whatever the spelling of its marks, becomes a tar and a layer again: the new ones
/// show the same, and are the same tars.
#[test]
fn marks_survive_the_way_through_a_changeset() {
    random_scenes("marks_survive_the_way_through_a_changeset", |scene| {
        let old = scene.layers();
        let before = scene.shown(scene.layers());
        let mut names: Vec<String> = Vec::new();
        let reopen = |names: &[String]| -> Vec<Dir> {
            names.iter().rev().map(|name| scene.dir(name)).collect()
        };
        for index in (0..old.len()).rev() {
            let tar = diff(scene, scene.layers().split_off(index))?;
            let name = format!("new{index}");
            apply(scene, &tar, &name)?;
            names.push(name);
            // Once marks that say nothing are left out, the tar is one that stays as it is.
            let tar = diff(scene, reopen(&names))?;
            let last = names.len() - 1;
            apply(scene, &tar, &format!("again{index}"))?;
            let mut layers = reopen(&names[..last]);
            layers.insert(0, scene.dir(&format!("again{index}")));
            if diff(scene, layers)? != tar {
                return Err(format!("layer {index} is another tar each time"));
            }
        }
        Scene::same("the layers made again", &scene.shown(reopen(&names)), &before)
    });
}
