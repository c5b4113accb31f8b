//! The command line of images.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 load -i app.tar
  docker save app:1 | overlay2 load
  overlay2 load -i layout/ --name app:1       an OCI layout that gives its image no name
  overlay2 load -i multi.tar --platform linux/arm64/v8

Layers that are in the store already are not read.")]
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
    #[command(flatten)]
    pub(crate) threads: super::upkeep::Threads,
    /// Memory for layers in hand, 8M each; zstd's window comes on top [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = super::containers::bytes)]
    pub(crate) memory: Option<u64>,
    /// Print the names alone, and no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mmdebstrap --variant=minbase bookworm | overlay2 import - debian
  overlay2 import --cmd /bin/sh rootfs.tar.gz base:1")]
pub(crate) struct Import {
    /// A tar, plain or compressed with gzip or zstd; - for standard input
    pub(crate) file: PathBuf,
    /// What the image is called
    pub(crate) name: String,
    /// What it is
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    #[command(flatten)]
    pub(crate) config: super::containers::Config,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 images
  overlay2 images --format json | jq -r '.[].names[]'
  overlay2 rmi $(overlay2 images --format json | jq -r '.[].names[]')")]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) shown: super::Shown,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 history app:1
  overlay2 history --wasted app:1             what each layer holds that later ones hide")]
pub(crate) struct History {
    /// The image's name or ID
    pub(crate) image: String,
    /// Show how many bytes of each layer later layers overwrite or delete
    #[arg(long)]
    pub(crate) wasted: bool,
    /// Print the diff IDs of the layers alone
    #[arg(short, long, conflicts_with = "wasted")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 inspect app:1
  overlay2 inspect web | jq -r '.[0].GraphDriver.Data.UpperDir'

It is what docker inspect prints: LowerDir with the topmost layer first, RootFS.Layers with the
lowest first.")]
pub(crate) struct Inspect {
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE|CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 tag app:1 app:stable
  overlay2 tag 5d567190be78 registry.example/team/app:1")]
pub(crate) struct Tag {
    /// The image's name or ID
    pub(crate) image: String,
    /// The new name; the image that had it loses it
    pub(crate) name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 save -o app.tar app:1
  overlay2 save --format-archive docker app:1 | docker load
  overlay2 save --compression zstd -o app.tar app:1")]
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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 rmi app:1
  overlay2 rmi 5d56                           by the beginning of its ID

An image with several names loses the one that is given, and goes with the last; by its ID it goes
where it has one name at most. What a container uses stays.")]
pub(crate) struct Remove {
    /// Their names or IDs
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
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
