//! One changeset at a time.

use std::io::{self, Read};
use std::path::Path;

use overlay2::{Driver, Watch};

use crate::args::upkeep::Layer;
use crate::output::{Output, short, size};
use crate::progress::Bars;
use crate::upkeep::free_space;
use crate::{Failure, each};

/// A file to read; standard input for `-`.
pub(crate) fn input(file: &Path) -> io::Result<Box<dyn Read>> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = std::fs::OpenOptions::new().read(true).open(file);
    let opened = opened.map_err(|error| {
        io::Error::new(error.kind(), format!("open {}: {error}", file.display()))
    })?;
    Ok(Box::new(opened))
}

pub(crate) fn run(driver: &Driver, out: &Output, layer: &Layer) -> Result<(), Failure> {
    match layer {
        Layer::Apply { parent, file, quiet } => {
            let bars = Bars::new(*quiet || out.is_json());
            let watch = Watch::new().observer(&bars);
            let parent = parent.as_ref().map(|parent| driver.chain_id(parent)).transpose()?;
            let applied = driver.apply(parent.as_ref(), input(file)?, watch)?;
            drop(bars);
            for lost in &applied.unkept {
                crate::complain(&format!("not kept: {lost}"), None, 0);
            }
            let lines = match quiet {
                true => vec![applied.chain_id.to_string()],
                false => vec![
                    format!("DiffID: {}", applied.diff_id),
                    format!("ChainID: {}", applied.chain_id),
                ],
            };
            Ok(out.lines(&applied, &lines)?)
        }
        Layer::Ls { quiet } => {
            let layers = driver.layers()?;
            if *quiet {
                let chains: Vec<_> = layers.iter().map(|one| one.chain_id.to_string()).collect();
                return Ok(out.lines(&layers, &chains)?);
            }
            let rows = layers.iter().map(|one| {
                vec![
                    short(&one.chain_id),
                    short(&one.diff_id),
                    one.parent.map_or_else(|| "-".to_owned(), |parent| short(&parent)),
                    one.depth.to_string(),
                    size(one.size),
                ]
            });
            let header = ["CHAIN ID", "DIFF ID", "PARENT", "DEPTH", "SIZE"];
            Ok(out.table(&layers, &header, rows.collect())?)
        }
        Layer::Rm { chains } => {
            let mut removed = Vec::new();
            let result = each(chains, |chain| {
                let chain = driver.chain_id(chain)?;
                driver.remove_layer(&chain, Watch::new())?;
                removed.push(chain.to_string());
                Ok(())
            });
            if result.is_ok() || !removed.is_empty() {
                out.lines(&removed, &removed)?;
            }
            free_space(driver, result)
        }
    }
}
