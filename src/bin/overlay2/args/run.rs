//! The command line of what runs commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 bundle web ./bundle -- /bin/sh -c 'id; ls /'
  crun run --bundle ./bundle web
  overlay2 unmount web")]
pub(crate) struct Bundle {
    /// The container's name or ID
    pub(crate) container: String,
    /// The directory, made where it does not exist
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) process: Process,
    /// The command, in the place of the image's, with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 run example/app:latest
  overlay2 run -t debian bash
  overlay2 run --keep --name web --runtime runc example/web /bin/sh -c 'id; ls /'

The exit status is the command's own; 128 and the signal's number where it was killed. A user other
than root runs all of it inside a user namespace.")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) runtime: Runtime,
    /// Keep the container, unmounted
    #[arg(long)]
    pub(crate) keep: bool,
    /// The container goes anyway, unless --keep is given
    #[arg(long, hide = true, conflicts_with = "keep")]
    pub(crate) rm: bool,
    /// The container's name; one is made up where it is left out
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) limits: super::containers::Limits,
    #[command(flatten)]
    pub(crate) process: Process,
    /// The image's name or ID
    pub(crate) image: String,
    /// The command, in the place of the image's, with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 exec web ls /app
  overlay2 exec -t web sh

There is no process to join: the container is mounted, where it is not already, the command runs in
namespaces of its own, and what it wrote stays in the container.")]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) runtime: Runtime,
    #[command(flatten)]
    pub(crate) process: Process,
    /// The container's name or ID
    pub(crate) container: String,
    /// The command and its arguments [default: what the image says]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// Which program runs it.
#[derive(Debug, Args)]
pub(crate) struct Runtime {
    /// The OCI runtime: its name or path [default: the first of crun, runc, youki that is installed]
    #[arg(long, env = "OVERLAY2_RUNTIME", hide_env_values = true, value_name = "PROGRAM")]
    pub(crate) runtime: Option<PathBuf>,
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
    /// The command has the standard input anyway
    #[arg(short, long, hide = true)]
    pub(crate) interactive: bool,
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
#[command(after_help = "\
Examples:
  overlay2 unshare                            a shell
  overlay2 unshare sh -c 'ls $(overlay2 mount web)'
  overlay2 unshare overlay2 load -i app.tar   with owners as far as subordinate ids reach

Mounts that are made there are seen there alone, and go with the last process in it.")]
pub(crate) struct Unshare {
    /// The command and its arguments [default: $SHELL]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}
