//! The command line.

pub(crate) mod look;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use overlay2::ChainId;

/// Images into layers, layers into containers, containers into images: overlay2 without a daemon.
#[derive(Debug, Parser)]
#[command(name = "overlay2", version, about, propagate_version = true)]
pub(crate) struct Cli {
    /// The directory of the store
    /// [default: /var/lib/overlay2 for root, $XDG_DATA_HOME/overlay2 for others]
    #[arg(long, global = true, env = "OVERLAY2_ROOT", value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// What is still there after a power cut
    #[arg(long, global = true, value_enum, default_value_t = Durability::Full)]
    pub(crate) durability: Durability,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines and tables for people
    Text,
    /// One JSON document
    Json,
}

/// What survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// All that was reported as done
    Full,
    /// Whatever the kernel had written by then
    None,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load images from an OCI layout or a docker-archive
    Load(Load),
    /// List images
    Images(Quiet),
    /// Show the steps of an image, the last one first
    History(look::History),
    /// Show all that is known of images or containers, as JSON
    Inspect {
        /// Names or IDs
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make a container
    Create(Create),
    /// List containers
    Ps(Quiet),
    /// Mount a container and print the directory
    Mount(Mount),
    /// Unmount containers
    #[command(alias = "umount")]
    Unmount {
        /// Their names or IDs
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Write the config.json of an OCI runtime for a container, mounted at ROOTFS in the directory
    Bundle(Bundle),
    /// Run a command in a new container by an OCI runtime, and remove the container
    Run(Run),
    /// List what a container changed, or how two trees differ: A added, C changed, D deleted
    Diff(look::Diff),
    /// List directories of containers and images, mounted or not
    Ls(look::Ls),
    /// Write files of containers and images to standard output
    Cat(look::Cat),
    /// Copy files into a container, out of it, or between two, mounted or not
    Cp(look::Cp),
    /// Show all that is known of files of containers and images
    Stat(look::Stat),
    /// Draw a directory of a container or an image; of an image alone, its layers
    Tree(look::Tree),
    /// Tell which layer a path comes from, and what hides the others' copies
    Which(look::Which),
    /// Make an image of a container's changes
    Commit(Commit),
    /// Write an image to an archive
    Save(Save),
    /// Write a container's whole tree as a tar to standard output
    Export(Export),
    /// Make a container usable that was mounted volatile when the machine stopped
    Recover(Recover),
    /// Remove containers
    Rm {
        /// Their names or IDs
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove images
    Rmi {
        /// Their names or IDs
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// One changeset at a time
    #[command(subcommand)]
    Layer(Layer),
    /// Find out whether anything in the store was changed or lost; fails where something was
    Check(Check),
    /// Make damaged layers what they were
    Repair(Repair),
    /// Remove what nothing refers to, and delete what was removed before
    Gc(Gc),
    /// Show disk use
    Df,
    /// Show what this kernel and file system can do
    Info,
    /// Run a command in a user namespace in which mounting works without root
    Unshare {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Quiet {
    /// Print IDs or names alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Read no contents: records, names, owners, modes, times and attributes alone
    #[arg(long)]
    pub(crate) quick: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// A changeset, an OCI layout or a docker-archive that has the layers
    /// [default: what is sound in the store]
    #[arg(long, value_name = "FILE-or-DIR")]
    pub(crate) from: Option<PathBuf>,
    /// The layers, as check names them; all where none is given
    #[arg(value_name = "LAYER")]
    pub(crate) layers: Vec<overlay2::LayerKey>,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// List it, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// An OCI layout (directory or tar) or a docker-archive; - for standard input
    #[arg(short, long, value_name = "FILE-or-DIR", default_value = "-")]
    pub(crate) input: PathBuf,
    /// What the image is called where its archive does not say
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// For which platform, of an image that is there for several: os/architecture[/variant]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Print the names alone, and no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The container's name; one is made up where it is left out
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Stand on this stack of layers instead of an image
    #[arg(long, value_name = "CHAIN-ID", conflicts_with = "image")]
    pub(crate) chain: Option<ChainId>,
    /// Faster mounts, but what was written may be torn after a crash
    #[arg(long)]
    pub(crate) volatile: bool,
    /// The image's name or ID
    #[arg(required_unless_present = "chain")]
    pub(crate) image: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Use the files as they are; some may be empty or half written
    #[arg(long, required_unless_present = "discard", conflicts_with = "discard")]
    pub(crate) accept: bool,
    /// Throw away what was changed in the container
    #[arg(long)]
    pub(crate) discard: bool,
    /// The container's name or ID
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct Bundle {
    /// The container's name or ID
    pub(crate) container: String,
    /// The directory, made where it does not exist
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) process: Process,
    /// The command, in the place of the image's, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  overlay2 run example/app:latest
  overlay2 run -t debian -- bash
  overlay2 run --keep --name web --runtime runc example/web -- /bin/sh -c 'id; ls /'

The exit status is the command's own; 128 and the signal's number where it was killed. A user other
than root runs all of it inside a user namespace.")]
pub(crate) struct Run {
    /// The OCI runtime: its name or path [default: the first of crun, runc, youki that is installed]
    #[arg(long, env = "OVERLAY2_RUNTIME", value_name = "PROGRAM")]
    pub(crate) runtime: Option<PathBuf>,
    /// Keep the container, unmounted
    #[arg(long)]
    pub(crate) keep: bool,
    /// The container's name; one is made up where it is left out
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) process: Process,
    /// The image's name or ID
    pub(crate) image: String,
    /// The command, in the place of the image's, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// What is to be otherwise than the image says.
#[derive(Debug, Args)]
pub(crate) struct Process {
    /// Set a variable, NAME=VALUE; take one away, NAME
    #[arg(short, long, value_name = "VARIABLE")]
    pub(crate) env: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// The user: USER[:GROUP], names or numbers
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Takes the place of the image's entrypoint; "" leaves it out
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// What the machine is called inside
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// The network that is seen inside
    #[arg(long, value_enum, default_value_t = Network::None)]
    pub(crate) network: Network,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Let the command not write to the root filesystem
    #[arg(long)]
    pub(crate) read_only: bool,
}

/// The network that is seen inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// A loopback device alone
    None,
    /// The host's
    Host,
}

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// The container's name or ID
    pub(crate) container: String,
    /// Where; the container's own directory where it is left out
    pub(crate) target: Option<PathBuf>,
    /// Mount read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Faster, but what was written may be torn after a crash
    #[arg(long)]
    pub(crate) volatile: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// The container's name or ID
    pub(crate) container: String,
    /// What the new image is called
    pub(crate) name: String,
    /// Who made it
    #[arg(short, long)]
    pub(crate) author: Option<String>,
    /// What it is
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) tar: look::Tar,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The image's name or ID
    pub(crate) image: String,
    /// The file to write; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// The kind of archive
    #[arg(long = "format-archive", value_enum, default_value_t = Archive::Oci)]
    pub(crate) archive: Archive,
    /// How the layers are compressed
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub(crate) compression: Compression,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// The kind of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Archive {
    /// An OCI image layout as a tar
    Oci,
    /// A docker-archive, as `docker save` writes it
    Docker,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// Not at all
    None,
    /// gzip
    Gzip,
    /// Zstandard
    Zstd,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The container's name or ID
    pub(crate) container: String,
    /// The file to write; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) times: look::Times,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Layer {
    /// Apply a changeset; print its diff ID and the chain ID of the stack
    Apply {
        /// The stack to apply it on
        #[arg(long, value_name = "CHAIN-ID")]
        parent: Option<ChainId>,
        /// A tar, plain or compressed with gzip or zstd; - for standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Print no progress
        #[arg(short, long)]
        quiet: bool,
    },
    /// List the stacks and their topmost layers
    Ls(Quiet),
    /// Remove stacks that were applied one layer at a time
    Rm {
        /// Their chain IDs
        #[arg(required = true, value_name = "CHAIN-ID")]
        chains: Vec<ChainId>,
    },
}
