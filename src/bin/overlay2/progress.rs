//! Progress bars on a terminal, one for each layer that is worked on.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use overlay2::{Observer, Phase, Progress};

/// Draws bars on standard error, where that is a terminal.
pub(crate) struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
    shown: bool,
}

impl Bars {
    pub(crate) fn new(quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        Self { all: MultiProgress::new(), bars: Mutex::default(), shown }
    }
}

impl Observer for Bars {
    fn progress(&self, progress: &Progress<'_>) {
        if !self.shown {
            return;
        }
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(progress.subject.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::no_length());
            let template = match progress.total_bytes {
                Some(_) => {
                    "{prefix:>12.bold} [{bar:18}] {bytes:>10}/{total_bytes:<10} \
                     {bytes_per_sec:>12} {eta:>3} {msg}"
                }
                None => "{prefix:>12.bold} {spinner} {bytes:>10} {bytes_per_sec:>12} {msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(shortened(progress.subject));
            bar
        });
        if let Some(total) = progress.total_bytes {
            bar.set_length(total);
        }
        bar.set_position(progress.bytes);
        match progress.phase {
            Phase::Exists => bar.finish_with_message("already there"),
            Phase::Done => bar.finish_with_message("done"),
            _ => bar.set_message(format!("{} entries", progress.entries)),
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // Results stand alone: nothing is left of a terminal's bars.
        let _ = self.all.clear();
    }
}

/// A digest shortened to what tells it apart.
fn shortened(subject: &str) -> String {
    match subject.split_once("sha256:") {
        Some((_, digits)) => digits.chars().take(12).collect(),
        None => subject.chars().take(24).collect(),
    }
}
