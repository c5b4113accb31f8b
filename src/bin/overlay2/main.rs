//! The `overlay2` command: translates between words and the library, and decides nothing itself.

mod args;
mod compare;
mod containers;
mod copy;
mod images;
mod layers;
mod look;
mod manual;
mod output;
mod picture;
mod place;
mod progress;
mod run;
mod style;
mod suggest;
mod system;
mod upkeep;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use overlay2::{Driver, DriverOptions, ErrorKind};

use args::{Cli, Command, Durability};
use output::Output;

/// The number of the error of a pipe that nobody reads any more.
const EPIPE: i32 = rustix::io::Errno::PIPE.raw_os_error();

/// What ends a command early.
enum Failure {
    Driver(overlay2::Error),
    Io(io::Error),
    /// It has been said what was wrong: something of this kind.
    Told(ErrorKind),
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
        Err(Failure::Told(_)) => ExitCode::FAILURE,
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => left(&cli.command),
        Err(Failure::Io(error)) => complain(&error.to_string(), None, 1),
        Err(Failure::Driver(error)) if error.raw_os_error() == Some(EPIPE) => left(&cli.command),
        Err(Failure::Driver(error)) => told(&error),
    }
}

/// Whoever read our output went away: of a list because it was enough, of an archive too early, which is
/// no success. Nothing is said, as by programs that die of SIGPIPE, whose status this is.
fn left(command: &Command) -> ExitCode {
    const BROKEN_PIPE: u8 = 141;
    let is_archive = match command {
        Command::Save(_) | Command::Export(_) => true,
        Command::Diff(diff) => diff.write,
        Command::Cp(cp) => cp.to == "-",
        _ => false,
    };
    if is_archive { ExitCode::from(BROKEN_PIPE) } else { ExitCode::SUCCESS }
}

/// Says on standard error what the library says.
fn told(error: &overlay2::Error) -> ExitCode {
    if output::is_json() {
        let kind = format!("{:?}", error.kind());
        return output::failure(&error.to_string(), Some(&kind), error.help());
    }
    complain(&error.to_string(), error.help(), 1)
}

/// Says on standard error what went wrong, and what would help.
fn complain(message: &str, help: Option<&str>, status: u8) -> ExitCode {
    if output::is_json() {
        output::failure(message, None, help);
        return ExitCode::from(status);
    }
    let colours = style::colours(&io::stderr());
    let mut err = io::stderr().lock();
    let name = style::paint("overlay2:", style::BAD, colours && status != 0);
    // Where even this cannot be written there is nobody to tell.
    let _ = writeln!(err, "{name} {}", output::visible(message.as_bytes()));
    drop(err);
    help.into_iter().for_each(hint_at);
    ExitCode::from(status)
}

/// Says on standard error what is no failure.
fn note(message: &str, help: Option<&str>) {
    if !output::is_json() {
        complain(message, help, 0);
    }
}

fn hint_at(help: &str) {
    let word = style::paint("hint:", style::GOOD, style::colours(&io::stderr()));
    let help = output::visible(help.as_bytes());
    let _ = writeln!(io::stderr(), "overlay2: {word} {help}");
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let out = Output::new(cli.format);
    match &cli.command {
        Command::Unshare(unshare) => return system::unshare(&unshare.command),
        Command::Completions(shell) => return Ok(manual::completions(shell)?),
        Command::Man(man) => return Ok(manual::man(man)?),
        Command::Run(run) if run::needs_namespace() => return run::in_namespace(&run.runtime),
        Command::Exec(exec) if run::needs_namespace() => return run::in_namespace(&exec.runtime),
        _ => {}
    }
    raise_descriptor_limit();
    let driver = open(cli)?;
    let done = act(cli, &driver, &out);
    let kind = match &done {
        Err(Failure::Driver(error)) => error.kind(),
        Err(Failure::Told(kind)) => *kind,
        _ => return done,
    };
    if out.is_json() {
        return done;
    }
    if let Err(Failure::Driver(error)) = &done
        && kind == ErrorKind::PermissionDenied
        && error.help().is_none()
        && reads_files(&cli.command)
        && !rustix::process::geteuid().is_root()
    {
        told(error);
        hint_at(
            "files of a container may belong to ids that only a user namespace has: overlay2 \
             unshare overlay2 ...",
        );
        return Err(Failure::Told(kind));
    }
    if kind != ErrorKind::NotFound {
        return done;
    }
    if let Err(Failure::Driver(error)) = &done {
        told(error);
    }
    suggest::hints(&driver, &cli.command).iter().for_each(|hint| hint_at(hint));
    Err(Failure::Told(kind))
}

/// Whether a command reads files of a store, and no others.
fn reads_files(command: &Command) -> bool {
    use Command::{Cat, Check, Commit, Df, Diff, Export, Ls, Save, Stat, Tree, Which};
    matches!(
        command,
        Cat(_)
            | Check(_)
            | Commit(_)
            | Df
            | Diff(_)
            | Export(_)
            | Ls(_)
            | Save(_)
            | Stat(_)
            | Tree(_)
            | Which(_)
    )
}

fn act(cli: &Cli, driver: &Driver, out: &Output) -> Result<(), Failure> {
    match &cli.command {
        Command::Load(load) => images::load(driver, out, load),
        Command::Import(import) => images::import(driver, out, import),
        Command::Images(list) => images::list(driver, out, list.shown.quiet),
        Command::History(history) => images::history(driver, out, history),
        Command::Inspect(inspect) => images::inspect(driver, out, &inspect.names),
        Command::Tag(tag) => images::tag(driver, out, tag),
        Command::Save(save) => images::save(driver, out, save),
        Command::Rmi(remove) => images::remove(driver, out, &remove.images),
        Command::Create(create) => containers::create(driver, out, create),
        Command::Ps(list) => containers::list(driver, out, list.shown.quiet),
        Command::Mount(mount) => containers::mount(driver, out, mount),
        Command::Quota(quota) => containers::quota(driver, out, quota),
        Command::Recover(recover) => containers::recover(driver, out, recover),
        Command::Unmount(unmount) => containers::unmount(driver, out, &unmount.containers),
        Command::Bundle(bundle) => run::bundle(driver, out, bundle),
        Command::Run(run) => run::run(driver, run),
        Command::Exec(exec) => run::exec(driver, exec),
        Command::Diff(diff) => compare::diff(driver, out, diff),
        Command::Ls(ls) => look::ls(driver, out, ls),
        Command::Cat(cat) => look::cat(driver, cat),
        Command::Cp(cp) => copy::cp(driver, out, cp),
        Command::Stat(stat) => look::stat(driver, out, stat),
        Command::Tree(tree) => picture::tree(driver, out, tree),
        Command::Which(which) => compare::which(driver, out, which),
        Command::Commit(commit) => containers::commit(driver, out, commit),
        Command::Export(export) => containers::export(driver, export),
        Command::Rm(remove) => containers::remove(driver, out, remove),
        Command::Layer(layer) => layers::run(driver, out, layer),
        Command::Check(check) => upkeep::check(driver, out, check),
        Command::Repair(repair) => upkeep::repair(driver, out, repair),
        Command::Gc(gc) => upkeep::gc(driver, out, gc),
        Command::Df => system::df(driver, out),
        Command::Info => system::info(driver, out),
        // These need no store, and were done.
        Command::Unshare(_) | Command::Completions(_) | Command::Man(_) => Ok(()),
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

/// Does something to each of several things: all are tried, and what goes wrong is told at once.
fn each<T>(things: &[T], mut act: impl FnMut(&T) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut failed = Ok(());
    for thing in things {
        match act(thing) {
            Err(Failure::Driver(error)) if error.raw_os_error() != Some(EPIPE) => {
                told(&error);
                // Whether something was not there counts, which more can be said of.
                if !matches!(failed, Err(Failure::Told(ErrorKind::NotFound))) {
                    failed = Err(Failure::Told(error.kind()));
                }
            }
            other => other?,
        }
    }
    failed
}
