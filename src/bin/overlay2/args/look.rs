//! The command line of what looks into containers and images.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use overlay2::changeset::{DiffOptions, Times as TimesOf, View};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 diff web                            what the container changed
  overlay2 diff --sizes app:1..app:2           how two images differ
  overlay2 diff app:1..web                     how a container differs from an image
  overlay2 diff --tar app:1..app:2 -o up.tar   what makes app:2 of app:1, as a layer")]
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
    /// Print no progress
    #[arg(short, long, requires = "write")]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) tar: Tar,
}

/// How a changeset is written.
#[derive(Debug, Args)]
pub(crate) struct Tar {
    /// Leave out what was copied up, but equals what lies below (A..B always
    /// does, but for files with several names)
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
    // Years of four digits: what else there is can be written by nobody's RFC 3339.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-62_135_596_800..=253_402_300_799))]
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
Layers are numbered from the lowest, 0; a container's own directory is on top. A symlink is looked
at itself, those on the way to it are followed. The status is 1 where nothing shows at the path.")]
pub(crate) struct Which {
    /// A container or an image; a stack by its chain ID
    pub(crate) name: String,
    /// The path
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 ls web                     the root of a container
  overlay2 ls -la app:1:/etc          all of /etc in an image, with its attributes
A mounted container is read where its files lie. Symlinks stay inside the tree. Names are printed as
they are into a pipe; on a terminal, what it cannot show is escaped (\\xFF).")]
pub(crate) struct Ls {
    /// What to list
    #[arg(required = true, value_name = "NAME[:PATH]")]
    pub(crate) places: Vec<OsString>,
    /// Names that begin with a dot too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Mode, links, owner, size and time too
    #[arg(short, long)]
    pub(crate) long: bool,
    /// A directory itself, not what it holds
    #[arg(short, long)]
    pub(crate) directory: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 cat web:/etc/passwd
  overlay2 cat app:1:/usr/lib/os-release web:/etc/hostname")]
pub(crate) struct Cat {
    /// The files
    #[arg(required = true, value_name = "NAME:PATH")]
    pub(crate) places: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 stat web:/usr/bin/ping
  overlay2 stat -L app:1:/bin/sh              what the symlink leads to
The layers that supply it are shown, the topmost first.")]
pub(crate) struct Stat {
    /// The files; a symlink is shown itself
    #[arg(required = true, value_name = "NAME[:PATH]")]
    pub(crate) places: Vec<OsString>,
    /// Show what a symlink leads to
    #[arg(short = 'L', long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 tree app:1                 the layers of an image
  overlay2 tree -L 2 app:1:/          its files, two levels deep
  overlay2 tree -s web:/etc           with sizes, those of directories being of all they hold")]
pub(crate) struct Tree {
    /// What to draw
    #[arg(value_name = "NAME[:PATH]")]
    pub(crate) place: OsString,
    /// How many levels are shown
    #[arg(short = 'L', long, value_name = "LEVELS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) depth: Option<u32>,
    /// Show sizes
    #[arg(short, long)]
    pub(crate) sizes: bool,
    /// Names that begin with a dot too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Directories alone
    #[arg(short, long)]
    pub(crate) directories: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 cp site/. web:/srv/www          what a directory holds, into a container
  overlay2 cp web:/var/log ./logs          a directory out of a container
  overlay2 cp app:1:/etc/ssl web:/etc      from an image into a container
  overlay2 cp web:/etc - | tar -t          as a tar
  tar -c conf | overlay2 cp - web:/etc     from a tar, plain or compressed
Paths that begin with / or . and those without a colon are of this host. Where files go is what
docker cp does: into a directory that exists; SRC/. means what SRC holds. Files keep modes, times,
attributes, holes, symlinks and hard links; with another owner they are set-user-ID no more. To a device or FIFO of this host a file is written; nothing
else takes the place of one. A container that is mounted is read, but not written to:
copy to where it is mounted instead, where a symlink of the container's leads into the host as any does.
The status is 1 where something could not be made.")]
pub(crate) struct Cp {
    /// Where from: NAME:PATH in a container or image, a path of the host, or - for a tar
    #[arg(value_name = "SRC")]
    pub(crate) from: OsString,
    /// Where to: NAME:PATH in a container, a path of the host, or - for a tar
    #[arg(value_name = "DST")]
    pub(crate) to: OsString,
    /// Keep owners: else files from the host become root's, and files to the host one's own
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what SRC leads to where it is a symlink
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
