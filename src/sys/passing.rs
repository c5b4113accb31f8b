//! Signals that a process gets while it waits for another are passed on to that one.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::interrupts::replace;

/// What people, and those who stop a service, send to end or to tell a program something. A
/// terminal's go to all of its processes by themselves.
const SIGNALS: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// The process that they are passed on to; 0 before it was started.
static TO: AtomicI32 = AtomicI32::new(0);

/// The last one that came before.
static EARLY: AtomicI32 = AtomicI32::new(0);

/// There is one set of handlers in a process.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// While it lives, signals are passed on.
struct Passing([libc::sigaction; SIGNALS.len()]);

/// Runs a command to its end, and passes on to it what this process gets meanwhile, unless it does so
/// for another already.
pub(crate) fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let Some(_passing) = Passing::begin() else { return command.status() };
    let mut child = command.spawn()?;
    TO.store(i32::try_from(child.id()).unwrap_or_default(), Ordering::SeqCst);
    let early = EARLY.swap(0, Ordering::SeqCst);
    if early != 0 {
        send(early);
    }
    // Its number is given to no other before it is taken, and nothing is sent to it any more by then.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let _ = retry_on_intr(|| waitid(WaitId::Pid(Pid::from_child(&child)), ended));
    TO.store(0, Ordering::SeqCst);
    child.wait()
}

impl Passing {
    fn begin() -> Option<Self> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return None;
        }
        EARLY.store(0, Ordering::SeqCst);
        Some(Self(SIGNALS.map(|signal| {
            let before = replace(signal, &passing());
            if before.sa_sigaction == libc::SIG_IGN {
                // As nohup(1) has it.
                replace(signal, &before);
            }
            before
        })))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        for (signal, before) in SIGNALS.into_iter().zip(&self.0) {
            replace(signal, before);
        }
        TAKEN.store(false, Ordering::SeqCst);
    }
}

extern "C" fn pass(signal: libc::c_int) {
    send(signal);
}

#[expect(unsafe_code, reason = "a signal handler does no more than a system call")]
fn send(signal: libc::c_int) {
    match TO.load(Ordering::SeqCst) {
        0 => EARLY.store(signal, Ordering::SeqCst),
        // SAFETY: two numbers; the process is a child that was not waited for.
        to => drop(unsafe { libc::kill(to, signal) }),
    }
}

#[expect(unsafe_code, reason = "no crate in use wraps signal dispositions")]
fn passing() -> libc::sigaction {
    // SAFETY: a `sigaction` of nothing but zeros is a valid one: no flag, no mask.
    let mut disposition: libc::sigaction = unsafe { std::mem::zeroed() };
    disposition.sa_sigaction = pass as extern "C" fn(libc::c_int) as libc::sighandler_t;
    disposition.sa_flags = libc::SA_RESTART;
    disposition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_meanwhile_ends_the_command() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap 'exit 7' TERM; kill -TERM $PPID; while :; do sleep 0.05; done"]);
        assert_eq!(run(&mut command).unwrap().code(), Some(7));
        assert_eq!(run(Command::new("sh").args(["-c", "exit 3"])).unwrap().code(), Some(3));
    }
}
