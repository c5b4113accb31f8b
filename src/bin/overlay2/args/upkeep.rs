//! The command line of the store's upkeep, and of single changesets.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 check                              reads every file of every layer
  overlay2 check --quick
  overlay2 check -q || overlay2 repair --from app.tar")]
pub(crate) struct Check {
    /// Read no contents: records, names, owners, modes, times and attributes alone
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) threads: Threads,
    /// Print nothing where nothing is wrong, and no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 repair                             from what is sound in the store
  overlay2 repair --from app.tar
  overlay2 repair --from layer.tar.gz 40912cfc0fb4")]
pub(crate) struct Repair {
    /// A changeset, an OCI layout or a docker-archive that has the layers
    /// [default: what is sound in the store]
    #[arg(long, value_name = "FILE-or-DIR")]
    pub(crate) from: Option<PathBuf>,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The layers, as check names them; all where none is given
    #[arg(value_name = "LAYER")]
    pub(crate) layers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 gc --dry-run
  overlay2 gc")]
pub(crate) struct Gc {
    /// List it, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Layer {
    /// Apply a changeset; print its diff ID and the chain ID of the stack
    #[command(after_help = "\
Examples:
  tar -C base -c . | overlay2 layer apply
  overlay2 layer apply --parent 599de7dacafd app.tar.gz
  overlay2 create --chain $(overlay2 layer apply -q base.tar)")]
    Apply {
        /// The stack to apply it on
        #[arg(long, value_name = "CHAIN-ID")]
        parent: Option<String>,
        /// A tar, plain or compressed with gzip or zstd; - for standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Print the chain ID alone, and no progress
        #[arg(short, long)]
        quiet: bool,
    },
    /// List the stacks and their topmost layers
    #[command(after_help = "\
Examples:
  overlay2 layer ls
  overlay2 layer ls -q                        whole chain IDs alone")]
    Ls {
        /// Print chain IDs alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove stacks that were applied one layer at a time
    #[command(after_help = "\
Examples:
  overlay2 layer rm b6d355b1916a 599de7dacafd     the topmost first")]
    Rm {
        /// Their chain IDs
        #[arg(required = true, value_name = "CHAIN-ID")]
        chains: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Threads {
    /// How many layers are worked on at once; of load, how many threads make files too [default: as
    /// many as there are processors]
    #[arg(
        long = "threads",
        value_name = "N",
        env = "OVERLAY2_THREADS",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) count: usize,
}
