//! The command line.

pub(crate) mod containers;
pub(crate) mod images;
pub(crate) mod look;
pub(crate) mod run;
pub(crate) mod upkeep;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Images into layers, layers into containers, containers into images: overlay2 without a daemon.
#[derive(Debug, Parser)]
#[command(name = "overlay2", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  overlay2 load -i app.tar                   an archive of docker save, or an OCI layout
  overlay2 create --name web app:1           a container of its image
  cd $(overlay2 mount web)                   its files
  overlay2 diff web                          what was changed in them
  cd - && overlay2 unmount web
  overlay2 commit -m 'new port' web app:2    the changes as one more layer
  overlay2 save -o app2.tar app:2
  overlay2 rm web && overlay2 rmi app:2

Wherever an image, a container or a stack is named, the beginning of its ID is enough where no other
begins so. The exit status is 0 where all was done, 1 where something was not, 2 for a command line
that makes no sense, 141 for an archive that nobody read to its end. Colours are left out where
NO_COLOR is set. `overlay2 man` is the manual.")]
pub(crate) struct Cli {
    /// The directory of the store
    /// [default: /var/lib/overlay2 for root, $XDG_DATA_HOME/overlay2 for others]
    #[arg(long, global = true, env = "OVERLAY2_ROOT", hide_env_values = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// How results are printed; docs/json.md tells of every field
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
    /// One JSON document; errors too, on standard error
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
    Load(images::Load),
    /// Make an image of one changeset, such as a tar of a root file system
    Import(images::Import),
    /// List images
    Images(images::List),
    /// Show the steps of an image, the last one first
    History(images::History),
    /// Show all that is known of images or containers, as JSON
    Inspect(images::Inspect),
    /// Give an image one more name
    Tag(images::Tag),
    /// Write an image to an archive
    Save(images::Save),
    /// Remove images, and the layers that nothing else uses
    Rmi(images::Remove),
    /// Make a container
    Create(containers::Create),
    /// List containers
    Ps(containers::List),
    /// Mount a container and print the directory
    Mount(containers::Mount),
    /// Unmount containers
    #[command(visible_alias = "umount")]
    Unmount(containers::Unmount),
    /// Run a command in a new container by an OCI runtime, and remove the container
    Run(run::Run),
    /// Run a command in a container that is there, by an OCI runtime
    Exec(run::Exec),
    /// Write the config.json of an OCI runtime for a container, mounted at DIR/rootfs
    Bundle(run::Bundle),
    /// Make an image of a container's changes
    Commit(containers::Commit),
    /// Write a container's whole tree as a tar
    Export(containers::Export),
    /// Make a container usable that was mounted volatile when the machine stopped
    Recover(containers::Recover),
    /// Show what a container holds and may hold, or change that
    Quota(containers::ShowQuota),
    /// Remove containers
    Rm(containers::Remove),
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
    /// One changeset at a time
    #[command(subcommand)]
    Layer(upkeep::Layer),
    /// Find out whether anything in the store was changed or lost; fails where something was
    Check(upkeep::Check),
    /// Make damaged layers what they were
    Repair(upkeep::Repair),
    /// Remove what nothing refers to, and delete what was removed before
    Gc(upkeep::Gc),
    /// Show disk use
    #[command(after_help = "Examples:
  overlay2 df
  overlay2 df --format json | jq '[.layers[].size] | add'")]
    Df,
    /// Show what this kernel and file system can do
    #[command(after_help = "Examples:
  overlay2 info
  overlay2 info --format json | jq .features.overlay_user    may a plain user mount here?")]
    Info,
    /// Run a command in a user namespace in which mounting works without root
    Unshare(run::Unshare),
    /// Print what a shell needs to complete commands
    Completions(Completions),
    /// Print the manual, or write it into a directory
    Man(Man),
}

/// What a list shows.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// Print IDs of images, or names of containers, alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// All are shown anyway
    #[arg(short, long, hide = true)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 completions bash > /etc/bash_completion.d/overlay2
  overlay2 completions zsh > /usr/local/share/zsh/site-functions/_overlay2
  overlay2 completions fish > ~/.config/fish/completions/overlay2.fish
  source <(overlay2 completions bash)         for this shell alone")]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 man | man -l -                     the page of the whole command
  overlay2 man /usr/local/share/man/man1      a page of each command, such as overlay2-load.1
  man overlay2-load")]
pub(crate) struct Man {
    /// Where to write a page of each command; it has to be there
    pub(crate) dir: Option<PathBuf>,
}
