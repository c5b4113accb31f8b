//! A command that sees fewer mounts than everybody else.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use super::dir::SysResult;

/// What the kernel says a file system of control groups, version 2, is.
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;

/// Whether both versions of control groups are in use.
pub(crate) fn control_groups_are_mixed() -> bool {
    let is_second =
        |path: &str| rustix::fs::statfs(path).is_ok_and(|found| found.f_type == CGROUP2);
    is_second("/sys/fs/cgroup/unified") && !is_second("/sys/fs/cgroup")
}

/// Runs a command to its end, as `run` does, with an empty directory in the place of `hidden`.
pub(crate) fn run_without(
    hidden: &Path,
    command: &mut Command,
    run: impl FnOnce(&mut Command) -> io::Result<ExitStatus> + Send,
) -> io::Result<ExitStatus> {
    // A thread of its own: its mounts are its own then, and those of what it starts.
    let run = || {
        hide(hidden)?;
        run(command)
    };
    std::thread::scope(|scope| {
        let panicked = |_| Err(io::Error::other("the thread that waits for a command failed"));
        std::thread::Builder::new().spawn_scoped(scope, run)?.join().unwrap_or_else(panicked)
    })
}

fn hide(hidden: &Path) -> SysResult<()> {
    unshare_mounts()?;
    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", propagation)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"none", hidden, c"tmpfs", flags, Some(c"mode=755,size=4k"))
}

#[expect(unsafe_code, reason = "unshare is unsafe where a thread shares its descriptors")]
fn unshare_mounts() -> SysResult<()> {
    // SAFETY: the descriptor table stays shared with whom it was; only the mounts and, with them,
    // the working directory become this thread's own.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_from_a_command_is_there_for_others() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("seen")).unwrap();
        let mut command = Command::new("test");
        command.arg("!").arg("-e").arg(scratch.path().join("seen"));
        match run_without(scratch.path(), &mut command, Command::status) {
            Ok(status) => assert!(status.success()),
            // Only root may.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}"),
        }
        assert!(scratch.path().join("seen").exists());
    }
}
