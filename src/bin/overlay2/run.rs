//! Commands run in containers, by an OCI runtime.

use std::fs::DirBuilder;
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use overlay2::bundle::{Network, Process, Runtime};
use overlay2::mount::{MountOptions, Syncing};
use overlay2::userns::{UserNamespace, in_initial_namespace};
use overlay2::{Base, CreateOptions, Driver, Quota, Watch};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde_json::json;

use crate::args::run::{self as args, Bundle, Exec, Run};
use crate::output::Output;
use crate::{Failure, complain, system};

/// Whether nothing can be mounted here, but in a user namespace it may be.
pub(crate) fn needs_namespace() -> bool {
    in_initial_namespace() && !rustix::process::geteuid().is_root()
}

/// Runs this very command again, as root of a user namespace.
pub(crate) fn in_namespace(wanted: &args::Runtime) -> Result<(), Failure> {
    if let Some(runtime) = &wanted.runtime {
        // What is missing is better told here, where its name means the same.
        which(runtime)?;
    }
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    system::finish(UserNamespace::plan()?.run(command)?)
}

pub(crate) fn bundle(driver: &Driver, out: &Output, bundle: &Bundle) -> Result<(), Failure> {
    let dir = std::path::absolute(&bundle.dir)?;
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let mounted = driver.container(&bundle.container)?.mounted;
    if mounted.is_none() {
        let target = dir.join("rootfs");
        make_dir(&target)?;
        driver.mount(&bundle.container, Some(&target), &MountOptions::default())?;
    }
    let made = driver.bundle(&bundle.container, &process(&bundle.process, &bundle.command));
    if let Err(error) = made.and_then(|made| made.write(&dir)) {
        if mounted.is_none() {
            driver.unmount(&bundle.container)?;
        }
        return Err(error.into());
    }
    Ok(out.path(&dir, |path| json!({"container": bundle.container, "bundle": path}))?)
}

/// Creates, mounts, runs, unmounts and removes; what was made goes, however it ends.
pub(crate) fn run(driver: &Driver, run: &Run) -> Result<(), Failure> {
    let runtime = chosen(&run.runtime)?;
    refuse_no_terminal(&run.process)?;
    let mut options = CreateOptions::default();
    options.name.clone_from(&run.name);
    options.quota = run.limits.instead_of(Quota::default());
    let container = driver.create_with(&Base::Image(run.image.clone()), &options)?;
    let mut options = MountOptions::default();
    if !run.keep {
        // What is thrown away afterwards need not be synced.
        options.syncing = Syncing::Volatile;
    }
    let process = process(&run.process, &run.command);
    let ran = in_container(driver, &runtime, &container.id, &options, &process);
    let removed = match run.keep && ran.is_ok() {
        true => Ok(()),
        false => driver.remove_container(&container.id, Watch::new()),
    };
    if removed.is_ok() {
        // What cannot be deleted now is told by `gc`.
        let _ = driver.empty_trash(Watch::new());
    }
    match (ran, removed) {
        (Ok(status), removed) => {
            removed?;
            system::finish(status)
        }
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(error)) => {
            complain(&error.to_string(), error.help(), 1);
            Err(failure)
        }
    }
}

/// Runs a command in a container that is there, which is mounted meanwhile.
pub(crate) fn exec(driver: &Driver, exec: &Exec) -> Result<(), Failure> {
    let runtime = chosen(&exec.runtime)?;
    refuse_no_terminal(&exec.process)?;
    let container = driver.container(&exec.container)?;
    let mut process = process(&exec.process, &exec.command);
    if !exec.command.is_empty() && process.entrypoint.is_none() {
        // A command here is a whole one, and not what the image's own is told.
        process.entrypoint = Some(Vec::new());
    }
    let ran = match container.mounted {
        Some(_) => in_mounted(driver, &runtime, &container.id, &process),
        None => in_container(driver, &runtime, &container.id, &MountOptions::default(), &process),
    };
    system::finish(ran?)
}

fn chosen(wanted: &args::Runtime) -> Result<Runtime, Failure> {
    match &wanted.runtime {
        Some(program) => {
            which(program)?;
            Ok(Runtime::new(program).passing_signals())
        }
        None => Ok(Runtime::find()?.passing_signals()),
    }
}

fn refuse_no_terminal(process: &args::Process) -> io::Result<()> {
    if !process.tty || io::stdin().is_terminal() {
        return Ok(());
    }
    let message = "the standard input is no terminal, so --tty has none to give: leave it out";
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn in_container(
    driver: &Driver,
    runtime: &Runtime,
    id: &str,
    options: &MountOptions,
    process: &Process,
) -> Result<ExitStatus, Failure> {
    driver.mount(id, None, options)?;
    let ran = in_mounted(driver, runtime, id, process);
    let unmounted = driver.unmount(id);
    let status = ran?;
    unmounted?;
    Ok(status)
}

fn in_mounted(
    driver: &Driver,
    runtime: &Runtime,
    id: &str,
    process: &Process,
) -> Result<ExitStatus, Failure> {
    let bundle = driver.bundle(id, process)?;
    let scratch = Scratch::new(id)?;
    let state = scratch.path.join("state");
    make_dir(&state)?;
    bundle.write(&scratch.path)?;
    Ok(runtime.run(&scratch.path, &state, &format!("overlay2-{id}"))?)
}

fn process(wanted: &args::Process, command: &[String]) -> Process {
    let mut process = Process::default();
    let words = |program: &String| match program.as_str() {
        "" => Vec::new(),
        program => vec![program.to_owned()],
    };
    process.entrypoint = wanted.entrypoint.as_ref().map(words);
    process.args = command.to_vec();
    process.env.clone_from(&wanted.env);
    process.cwd.clone_from(&wanted.workdir);
    process.user.clone_from(&wanted.user);
    process.terminal = wanted.tty;
    process.hostname.clone_from(&wanted.hostname);
    process.network = match wanted.network {
        args::Network::None => Network::None,
        args::Network::Host => Network::Host,
    };
    process.read_only = wanted.read_only;
    process
}

fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// A runtime that is named by a path has to be there; by a name, somewhere in `PATH`.
fn which(program: &Path) -> Result<(), Failure> {
    let executable = |path: PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = match program.components().count() {
        1 if !program.is_absolute() => {
            std::env::split_paths(&path).any(|dir| executable(dir.join(program)))
        }
        _ => executable(program.to_path_buf()),
    };
    if found {
        return Ok(());
    }
    let what = format!("the OCI runtime {} is not installed", program.display());
    Err(Failure::Io(io::Error::new(io::ErrorKind::NotFound, what)))
}

/// A directory that goes with all in it, and is locked for as long as its maker lives.
struct Scratch {
    path: PathBuf,
    _lock: OwnedFd,
}

const SCRATCH: &str = "overlay2-run-";

/// How many names are tried for one.
const ATTEMPTS: u32 = 16;

impl Scratch {
    fn new(id: &str) -> io::Result<Self> {
        let place = std::env::temp_dir();
        Self::sweep(&place);
        // Several may run in one container. Somebody who sweeps may be quicker than the lock, and take
        // a directory that was just made for one that was left: then another name is tried.
        for attempt in 0..ATTEMPTS {
            let path = place.join(format!("{SCRATCH}{id}-{}-{attempt}", std::process::id()));
            let told = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!("create directory {}: {error}", path.display()),
                )
            };
            DirBuilder::new().mode(0o700).create(&path).map_err(told)?;
            if let Some(lock) = locked(&path) {
                return Ok(Self { path, _lock: lock });
            }
            let _ = rustix::fs::rmdir(&path);
        }
        let what = format!("no directory in {} can be locked; set TMPDIR", place.display());
        Err(io::Error::other(what))
    }

    /// Removes what those left who were killed.
    #[expect(clippy::disallowed_methods, reason = "a runtime's own files, in directories of ours")]
    fn sweep(place: &Path) {
        let own = rustix::process::geteuid().as_raw();
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let ours = entry.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes())
                && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == own);
            if ours && let Some(_lock) = locked(&entry.path()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Holds a directory alone; `None` where somebody else does, or it is gone.
fn locked(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    flock(&dir, FlockOperation::NonBlockingLockExclusive).ok()?;
    let (held, there) = (rustix::fs::fstat(&dir).ok()?, rustix::fs::lstat(path).ok()?);
    ((held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)).then_some(dir)
}

impl Drop for Scratch {
    #[expect(clippy::disallowed_methods, reason = "a runtime's own files, in a directory of ours")]
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary directory.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
