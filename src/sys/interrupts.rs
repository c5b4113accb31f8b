//! What a terminal sends is left to the command that is waited for, as `system(3)` leaves it.

use std::mem::MaybeUninit;
#[cfg(feature = "bundle")]
use std::os::unix::process::CommandExt;
#[cfg(feature = "bundle")]
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// How the process took SIGINT and SIGQUIT before they were ignored.
#[derive(Clone, Copy)]
pub(crate) struct Dispositions([libc::sigaction; 2]);

/// While one lives, this process ignores SIGINT and SIGQUIT, and does not ignore SIGCHLD, or nobody
/// could wait for what it starts; the last to go restores them.
#[derive(Debug)]
pub(crate) struct Interrupts(());

const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGQUIT];

/// What the first of them found.
#[derive(Clone, Copy)]
struct Found {
    interrupts: Dispositions,
    /// How SIGCHLD was taken, where it was ignored. Children are not given that back: it comes from
    /// whoever started this process, and programs that wait for others go wrong with it.
    children: Option<libc::sigaction>,
}

/// How many there are, and what the first of them found.
static IGNORING: Mutex<(usize, Option<Found>)> = Mutex::new((0, None));

impl Interrupts {
    /// Ignores both from now on; also says how they were taken, for a child to take them so again.
    pub(crate) fn ignore() -> (Self, Option<Dispositions>) {
        let mut ignoring = IGNORING.lock().unwrap_or_else(PoisonError::into_inner);
        ignoring.0 += 1;
        if ignoring.0 == 1 {
            let interrupts =
                Dispositions(SIGNALS.map(|signal| replace(signal, &taken(libc::SIG_IGN))));
            ignoring.1 = Some(Found { interrupts, children: heed_children() });
        }
        (Self(()), ignoring.1.map(|found| found.interrupts))
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let mut ignoring = IGNORING.lock().unwrap_or_else(PoisonError::into_inner);
        ignoring.0 -= 1;
        if ignoring.0 == 0 {
            let Some(found) = ignoring.1.take() else { return };
            found.interrupts.restore();
            if let Some(children) = found.children {
                replace(libc::SIGCHLD, &children);
            }
        }
    }
}

impl Dispositions {
    /// Takes both as before. It does nothing that a child may not do between `fork` and `exec`.
    pub(crate) fn restore(&self) {
        for (signal, disposition) in SIGNALS.into_iter().zip(&self.0) {
            replace(signal, disposition);
        }
    }
}

/// Has a command take both signals as this process took them before.
#[cfg(feature = "bundle")]
#[expect(unsafe_code, reason = "code between fork and exec")]
pub(crate) fn restore_before_exec(command: &mut Command, before: Option<Dispositions>) {
    let Some(before) = before else { return };
    // SAFETY: system calls only; nothing is allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            before.restore();
            Ok(())
        })
    };
}

/// Takes SIGCHLD as a process does by itself, where children would be forgotten as they end; gives
/// how it was taken.
fn heed_children() -> Option<libc::sigaction> {
    let now = disposition(libc::SIGCHLD, None);
    let forgets = now.sa_sigaction == libc::SIG_IGN || now.sa_flags & libc::SA_NOCLDWAIT != 0;
    forgets.then(|| replace(libc::SIGCHLD, &taken(libc::SIG_DFL)))
}

#[expect(unsafe_code, reason = "no crate in use wraps signal dispositions")]
fn taken(how: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: a `sigaction` of nothing but zeros is a valid one: no handler, no flag, no mask.
    let mut disposition: libc::sigaction = unsafe { std::mem::zeroed() };
    disposition.sa_sigaction = how;
    disposition
}

pub(super) fn replace(signal: libc::c_int, with: &libc::sigaction) -> libc::sigaction {
    disposition(signal, Some(with))
}

/// How a signal was taken, and how it is from now on if that is to change.
#[expect(unsafe_code, reason = "no crate in use wraps signal dispositions")]
fn disposition(signal: libc::c_int, with: Option<&libc::sigaction>) -> libc::sigaction {
    let mut before = MaybeUninit::zeroed();
    let with = with.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `with` is null or a whole `sigaction`, as `before` is: "ignore", "default", what was in
    // force before, or a handler that makes one system call. Zeros are a valid value of `before` should
    // the call fail, which it cannot for the signals that are asked for.
    unsafe {
        libc::sigaction(signal, with, before.as_mut_ptr());
        before.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignores(signal: libc::c_int) -> bool {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
    }

    #[test]
    fn the_last_to_go_restores_the_signals() {
        let (first, before) = Interrupts::ignore();
        assert!(before.is_some());
        let (second, _) = Interrupts::ignore();
        drop(first);
        assert!(ignores(libc::SIGINT) && ignores(libc::SIGQUIT));
        drop(second);
    }
}
