//! The program that runs what a bundle says.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::interrupts::{Interrupts, restore_before_exec};
use crate::sys::{passing, private_mounts, userns};

/// An OCI runtime that is installed: crun, runc, youki, or another of the same command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    program: PathBuf,
    passes: bool,
}

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

impl Runtime {
    /// The runtime of this name or path.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), passes: false }
    }

    /// Passes on what this process gets while it waits: SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2. The
    /// handlers are the whole process's, for one container at a time; without, such a signal ends
    /// the process, and the container goes on.
    #[must_use]
    pub fn passing_signals(mut self) -> Self {
        self.passes = true;
        self
    }

    /// The first of crun, runc and youki that `PATH` leads to.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where none is installed.
    pub fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let known = ["crun", "runc", "youki"];
        let found = |name: &&str| {
            std::env::split_paths(&path)
                .any(|dir| rustix::fs::access(dir.join(name), rustix::fs::Access::EXEC_OK).is_ok())
        };
        known.iter().find(|name| found(name)).map(Self::new).ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, "no OCI runtime is installed");
            error.hint("install crun or runc, or name another runtime")
        })
    }

    /// What it is called.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs the bundle in the directory `bundle` as the container `id`, until its process ends.
    ///
    /// `state` is a directory of the runtime's own. The process has this one's standard streams;
    /// what a terminal sends goes to it alone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the runtime is not installed.
    pub fn run(&self, bundle: &Path, state: &Path, id: &str) -> Result<ExitStatus> {
        let name = self.program.file_name().unwrap_or_default();
        let crun = name == OsStr::new("crun");
        // It refuses both versions of control groups side by side, even where it is to use neither.
        let mixed = crun && private_mounts::control_groups_are_mixed();
        let mut command = Command::new(&self.program);
        command.args(self.arguments(state, crun && (mixed || !userns::in_initial_namespace())));
        command.arg("run").arg("--bundle").arg(bundle).arg(id);
        let (_ignoring, before) = Interrupts::ignore();
        restore_before_exec(&mut command, before);
        let run = if self.passes { passing::run } else { Command::status };
        let ended = match mixed {
            true => private_mounts::run_without(Path::new(CONTROL_GROUPS), &mut command, run),
            false => run(&mut command),
        };
        ended.during("run", &self.program).map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.hint("install it, or name another runtime"),
            _ => error,
        })
    }

    fn arguments(&self, state: &Path, without_control_groups: bool) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--root".into(), state.into()];
        if without_control_groups {
            arguments.push("--cgroup-manager=disabled".into());
        }
        arguments
    }
}
