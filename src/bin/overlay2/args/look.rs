//! The command line of what looks into containers and images.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use overlay2::changeset::{DiffOptions, Times as TimesOf, View};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 history app:1
  overlay2 history --wasted app:1     what each layer holds that later ones hide
With --wasted, JSON is {steps: [{…, wasted_bytes, wasted_files}], wasted_bytes, wasted_files}.")]
pub(crate) struct History {
    /// The image's name or ID
    pub(crate) image: String,
    /// Show how many bytes of each layer later layers overwrite or delete
    #[arg(long)]
    pub(crate) wasted: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 diff web                            what the container changed
  overlay2 diff --sizes app:1..app:2           how two images differ
  overlay2 diff app:1..web                     how a container differs from an image
  overlay2 diff --tar app:1..app:2 -o up.tar   what makes app:2 of app:1, as a layer
JSON is a list of {kind: A|C|D, path, size}; with --tar it tells what was written.")]
pub(crate) struct Diff {
    /// A container; or A..B, what has to be done to the tree of A to make it that of B, each a
    /// container, an image or the chain ID of a stack
    #[arg(value_name = "CONTAINER|A..B")]
    pub(crate) what: String,
    /// Print the size of each file too
    #[arg(short, long, conflicts_with = "write")]
    pub(crate) sizes: bool,
    /// Write a changeset, a tar with whiteouts, instead of a list
    #[arg(long = "tar")]
    pub(crate) write: bool,
    /// The file to write; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-", requires = "write")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) tar: Tar,
}

/// How a changeset is written.
#[derive(Debug, Args)]
pub(crate) struct Tar {
    /// Leave out what was copied up, but equals what lies below (A..B always does)
    #[arg(long)]
    pub(crate) pruned: bool,
    #[command(flatten)]
    pub(crate) times: Times,
}

/// How times are written.
#[derive(Debug, Args)]
pub(crate) struct Times {
    /// How exact times in the tar are
    #[arg(long, value_enum, default_value_t = Exactness::Nanoseconds)]
    pub(crate) times: Exactness,
    /// Write later times in the tar as this one, in seconds since 1970; a new image has it too
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<i64>,
}

/// How exact times are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Exactness {
    /// To the nanosecond
    Nanoseconds,
    /// To the second, rounded down
    Seconds,
}

impl Times {
    pub(crate) fn options(&self) -> DiffOptions {
        let mut options = DiffOptions::default();
        options.times = match self.times {
            Exactness::Nanoseconds => TimesOf::Nanoseconds,
            Exactness::Seconds => TimesOf::Seconds,
        };
        options.source_date_epoch = self.source_date_epoch;
        options
    }
}

impl Tar {
    pub(crate) fn view(&self) -> View {
        if self.pruned { View::Pruned } else { View::Kernel }
    }

    pub(crate) fn options(&self) -> DiffOptions {
        let mut options = self.times.options();
        options.view = self.view();
        options
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 which app:1 /etc/passwd
  overlay2 which web /usr/lib        every layer that has a part of a directory
Layers are numbered from the lowest, 0; a container's own directory is on top. No symlink is
followed. The status is 1 where nothing shows at the path. JSON is {path, shows, layers: [{position,
diff_id, created_by, kind, size, supplies, hides: {by, at, positions}}]}.")]
pub(crate) struct Which {
    /// A container or an image; a stack by its chain ID
    pub(crate) name: String,
    /// The path
    pub(crate) path: PathBuf,
}
