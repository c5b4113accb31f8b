//! Starts a command in new namespaces, whose ids are written from outside.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::{Gid, Pid, Signal, Uid};
use rustix::thread::UnshareFlags;

use super::dir::SysResult;
use super::interrupts::Dispositions;
use crate::error::{Context, Error, ErrorKind, Result};

/// What the child reports: one byte, and behind it a number in four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    /// It is in its namespaces and waits for its ids; the number is its process id.
    Unshared,
    /// The namespaces could not be made; the number is the error's, here and below.
    NotUnshared,
    /// The mounts could not be made private.
    NotPrivate,
    /// It could not become user and group 0.
    NotRoot,
}

const STEPS: [Step; 4] = [Step::Unshared, Step::NotUnshared, Step::NotPrivate, Step::NotRoot];

/// Starts `command` in a user and mount namespace of its own, as user and group 0, after
/// `write_maps` has given the namespace its ids.
///
/// Since `Command::spawn` returns only when the program runs, a thread serves the child meanwhile.
pub(crate) fn spawn(
    mut command: Command,
    before: Option<Dispositions>,
    write_maps: impl FnOnce(Pid) -> Result<()> + Send,
) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = "start a user namespace for";
    let (reports, reporter) = io::pipe().during(failed, &program)?;
    let (permit, permitter) = io::pipe().during(failed, &program)?;
    let newcomer = Newcomer { reporter, permit, permitter: permitter.as_raw_fd(), before };
    enter_before_exec(&mut command, newcomer);
    let (spawned, served) = std::thread::scope(|scope| {
        let serve = move || serve(reports, permitter, write_maps);
        let server = std::thread::Builder::new().spawn_scoped(scope, serve);
        let server = server.during(failed, &program)?;
        let spawned = command.spawn();
        // With it goes this side's copy of the reporter: what is served ends.
        drop(command);
        let panicked = |_| Err(Error::new(ErrorKind::Io, "the thread that writes id maps failed"));
        Ok((spawned, server.join().unwrap_or_else(panicked)))
    })?;
    match (spawned, served) {
        (Ok(child), Ok(())) => Ok(child),
        (Ok(mut child), Err(error)) => {
            // It is gone already, or is not to live.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
        (Err(_), Err(error)) => Err(error.within(format!("{failed} {program}"))),
        (Err(error), Ok(())) => Err(error).during("start", &program),
    }
}

/// Reads the child's reports to their end, and has its maps written in between.
fn serve(
    mut reports: PipeReader,
    mut permitter: PipeWriter,
    write_maps: impl FnOnce(Pid) -> Result<()>,
) -> Result<()> {
    let Some((step, number)) = next_report(&mut reports)? else {
        return Ok(());
    };
    match Pid::from_raw(number) {
        Some(pid) if step == Step::Unshared => write_maps(pid)?,
        _ => return Err(refused(step, number)),
    }
    permitter.write_all(b"\n").during("tell", "the new namespace")?;
    match next_report(&mut reports)? {
        None => Ok(()),
        Some((step, number)) => Err(refused(step, number)),
    }
}

/// The next report; `None` where there is no more, because the program runs or the child is gone.
fn next_report(reports: &mut PipeReader) -> Result<Option<(Step, i32)>> {
    let mut report = [0; 5];
    match reports.read_exact(&mut report) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.during("hear from", "the new namespace")?,
    }
    let [step, number @ ..] = report;
    let step = STEPS.into_iter().find(|known| *known as u8 == step).unwrap_or(Step::NotRoot);
    Ok(Some((step, i32::from_ne_bytes(number))))
}

fn refused(step: Step, number: i32) -> Error {
    let what = match step {
        Step::Unshared | Step::NotUnshared => "a user namespace",
        Step::NotPrivate => "a private tree of mounts",
        Step::NotRoot => "user 0",
    };
    let cause = io::Error::from_raw_os_error(number);
    match Errno::from_raw_os_error(number) {
        Errno::NOSPC | Errno::USERS => {
            let error = Error::new(ErrorKind::LimitExceeded, format!("get {what}"));
            error
                .because(cause)
                .hint("raise the sysctl user.max_user_namespaces, or nest less deep")
        }
        Errno::INVAL | Errno::NOSYS if step == Step::NotUnshared => {
            let error = Error::new(ErrorKind::Unsupported, format!("get {what}"));
            error.because(cause).hint("the kernel must be built with CONFIG_USER_NS")
        }
        _ => Error::os(cause, "get", what).hint(
            "user namespaces are forbidden here: by the sysctl kernel.unprivileged_userns_clone or \
             kernel.apparmor_restrict_unprivileged_userns, by a container's seccomp filter, or by \
             a chroot",
        ),
    }
}

/// The child's side, between `fork` and `exec`: nothing in it allocates or takes a lock.
struct Newcomer {
    reporter: PipeWriter,
    permit: PipeReader,
    /// This side's copy of the other side's end of `permit`.
    permitter: RawFd,
    before: Option<Dispositions>,
}

#[expect(unsafe_code, reason = "code between fork and exec")]
fn enter_before_exec(command: &mut Command, mut newcomer: Newcomer) {
    // SAFETY: `enter` makes system calls only. It allocates nothing and takes no lock, which
    // another thread may have held at the time of the fork.
    unsafe { command.pre_exec(move || newcomer.enter().map_err(io::Error::from)) };
}

impl Newcomer {
    fn enter(&mut self) -> SysResult<()> {
        if let Some(before) = self.before {
            before.restore();
        }
        self.forget_permitter();
        self.reported(Step::NotUnshared, unshare())?;
        let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        self.reported(Step::NotPrivate, rustix::mount::mount_change(c"/", propagation))?;
        self.report(Step::Unshared, rustix::process::getpid().as_raw_nonzero().get())?;
        // Nothing comes where the maps were refused, or the other side is gone.
        if rustix::io::retry_on_intr(|| rustix::io::read(&self.permit, &mut [0]))? == 0 {
            return Err(Errno::PERM);
        }
        self.reported(Step::NotRoot, become_root())
    }

    fn reported(&mut self, step: Step, result: SysResult<()>) -> SysResult<()> {
        if let Err(error) = result {
            self.report(step, error.raw_os_error())?;
        }
        result
    }

    fn report(&mut self, step: Step, number: i32) -> SysResult<()> {
        let [a, b, c, d] = number.to_ne_bytes();
        rustix::io::write(&self.reporter, &[step as u8, a, b, c, d]).map(drop)
    }

    /// Closes the copy of the other side's end, so that `permit` ends with the other side.
    #[expect(unsafe_code, reason = "a descriptor that only the child's copy of the table forgets")]
    fn forget_permitter(&self) {
        // SAFETY: the child's table is a copy, in which nothing uses this descriptor: its owner
        // lives in a thread of the parent.
        unsafe { rustix::io::close(self.permitter) };
    }
}

#[expect(unsafe_code, reason = "unshare is unsafe where a thread shares its descriptors")]
fn unshare() -> SysResult<()> {
    // SAFETY: the descriptor table stays shared with whom it was; the child has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
}

fn become_root() -> SysResult<()> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
}
