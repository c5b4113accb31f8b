//! The `overlay2` command: translates between words and the library, and decides nothing itself.

mod args;
mod compare;
mod containers;
mod copy;
mod images;
mod layers;
mod look;
mod output;
mod picture;
mod place;
mod progress;
mod run;
mod system;
mod upkeep;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use overlay2::{Driver, DriverOptions};

use args::{Cli, Command, Durability};
use output::Output;

/// The number of the error of a pipe that nobody reads any more.
const EPIPE: i32 = rustix::io::Errno::PIPE.raw_os_error();

/// What ends a command early.
enum Failure {
    Driver(overlay2::Error),
    Io(io::Error),
    /// The status of the command that was run.
    Status(u8),
}

impl From<overlay2::Error> for Failure {
    fn from(error: overlay2::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Status(status)) => ExitCode::from(status),
        // Whoever read our output has enough of it.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Io(error)) => complain(&error.to_string(), None, 1),
        Err(Failure::Driver(error)) if error.raw_os_error() == Some(EPIPE) => ExitCode::SUCCESS,
        Err(Failure::Driver(error)) => complain(&error.to_string(), error.help(), 1),
    }
}

/// Says on standard error what went wrong, and what would help.
fn complain(message: &str, help: Option<&str>, status: u8) -> ExitCode {
    let mut err = io::stderr().lock();
    // Where even this cannot be written there is nobody to tell.
    let _ = writeln!(err, "overlay2: {message}");
    if let Some(help) = help {
        let _ = writeln!(err, "overlay2: hint: {help}");
    }
    ExitCode::from(status)
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let out = Output::new(cli.format);
    if let Command::Unshare { command } = &cli.command {
        return system::unshare(command);
    }
    if let Command::Run(run) = &cli.command
        && run::needs_namespace()
    {
        return run::in_namespace(run);
    }
    raise_descriptor_limit();
    let driver = open(cli)?;
    match &cli.command {
        Command::Load(load) => images::load(&driver, &out, load),
        Command::Images(list) => images::list(&driver, &out, list.quiet),
        Command::History(history) => images::history(&driver, &out, history),
        Command::Inspect { names } => images::inspect(&driver, &out, names),
        Command::Save(save) => images::save(&driver, &out, save),
        Command::Rmi { images } => images::remove(&driver, &out, images),
        Command::Create(create) => containers::create(&driver, &out, create),
        Command::Ps(list) => containers::list(&driver, &out, list.quiet),
        Command::Mount(mount) => containers::mount(&driver, &out, mount),
        Command::Recover(recover) => containers::recover(&driver, &out, recover),
        Command::Unmount { containers } => containers::unmount(&driver, &out, containers),
        Command::Bundle(bundle) => run::bundle(&driver, &out, bundle),
        Command::Run(run) => run::run(&driver, run),
        Command::Diff(diff) => compare::diff(&driver, &out, diff),
        Command::Ls(ls) => look::ls(&driver, &out, ls),
        Command::Cat(cat) => look::cat(&driver, cat),
        Command::Cp(cp) => copy::cp(&driver, &out, cp),
        Command::Stat(stat) => look::stat(&driver, &out, stat),
        Command::Tree(tree) => picture::tree(&driver, &out, tree),
        Command::Which(which) => compare::which(&driver, &out, which),
        Command::Commit(commit) => containers::commit(&driver, &out, commit),
        Command::Export(export) => containers::export(&driver, export),
        Command::Rm { containers } => containers::remove(&driver, &out, containers),
        Command::Layer(layer) => layers::run(&driver, &out, layer),
        Command::Check(check) => upkeep::check(&driver, &out, check),
        Command::Repair(repair) => upkeep::repair(&driver, &out, repair),
        Command::Gc(gc) => upkeep::gc(&driver, &out, gc),
        Command::Df => system::df(&driver, &out),
        Command::Info => system::info(&driver, &out),
        Command::Unshare { .. } => Ok(()),
    }
}

fn open(cli: &Cli) -> Result<Driver, Failure> {
    let mut options = DriverOptions::default();
    options.durability = match cli.durability {
        Durability::Full => overlay2::Durability::Full,
        Durability::None => overlay2::Durability::None,
    };
    let root = match &cli.root {
        Some(root) => root.clone(),
        None => default_root(),
    };
    Ok(Driver::open_with(root, &options)?)
}

fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() && overlay2::userns::in_initial_namespace() {
        return PathBuf::from("/var/lib/overlay2");
    }
    let directory = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty());
    match (directory("XDG_DATA_HOME"), directory("HOME")) {
        (Some(data), _) => PathBuf::from(data).join("overlay2"),
        (None, Some(home)) => PathBuf::from(home).join(".local/share/overlay2"),
        (None, None) => PathBuf::from("overlay2-store"),
    }
}

/// A stack of hundreds of layers needs a descriptor for each.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer, long stacks are loaded in more steps.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Does something to each of several things: all are tried, and the first error is the one that
/// counts; the others are told at once.
fn each<T>(things: &[T], mut act: impl FnMut(&T) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut failed = Ok(());
    for thing in things {
        match (act(thing), &failed) {
            (Ok(()), _) => {}
            (Err(failure), Ok(())) => failed = Err(failure),
            (Err(Failure::Driver(error)), _) => {
                complain(&error.to_string(), error.help(), 1);
            }
            (Err(failure), _) => return Err(failure),
        }
    }
    failed
}
