//! A command under `strace`: which system calls it makes, and what becomes of it where one of them
//! kills it or fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::store::Done;

/// The n-th call of one name that a thread makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub call: String,
    pub nth: usize,
    /// The line of the trace, to tell a person what it was.
    pub line: String,
}

/// What is done to the process there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It dies before the call does anything.
    Kill,
    /// The call fails with this error, by its name.
    Error(&'static str),
}

/// How a run under a fault ended.
#[derive(Debug)]
pub enum Outcome {
    /// It ended by itself.
    Ended(Done),
    /// It was killed.
    Killed,
}

/// Calls that read, or that open what is there.
pub const READING: [&str; 12] = [
    "open",
    "openat",
    "openat2",
    "read",
    "pread64",
    "getdents64",
    "newfstatat",
    "statx",
    "readlinkat",
    "fgetxattr",
    "flistxattr",
    "fstatfs",
];

/// Calls that change something, or wait for others.
pub const CHANGING: [&str; 36] = [
    "mkdirat",
    "renameat",
    "renameat2",
    "linkat",
    "symlinkat",
    "unlinkat",
    "mknodat",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "copy_file_range",
    "sendfile",
    "ioctl",
    "ftruncate",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchownat",
    "fsetxattr",
    "setxattr",
    "lsetxattr",
    "fremovexattr",
    "utimensat",
    "fsync",
    "fdatasync",
    "syncfs",
    "flock",
    "mount",
    "umount2",
    "fsopen",
    "fsmount",
    "move_mount",
    "open_tree",
];

/// Calls whose arguments decide: `fsconfig` makes the superblock, `fcntl` may duplicate.
pub const OTHER: [&str; 3] = ["fsconfig", "mount_setattr", "fcntl"];

fn strace(command: &Command, log: &Path, inject: Option<(&Point, Fault)>) -> Command {
    // The mark lets strace pass over calls that it, or this machine, does not know.
    let calls: Vec<_> =
        READING.iter().chain(&CHANGING).chain(&OTHER).map(|name| format!("?{name}")).collect();
    let mut strace = Command::new("strace");
    // Not with --seccomp-bpf, under which strace delivers no signals.
    strace.args(["-f", "-qq", "-s", "200", "-o"]).arg(log);
    strace.args(["-e", &format!("trace={}", calls.join(","))]);
    if let Some((Point { call, nth, .. }, fault)) = inject {
        let what = match fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(name) => format!("error={name}"),
        };
        strace.args(["-e", &format!("inject={call}:{what}:when={nth}")]);
    }
    strace.arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace.stdin(Stdio::null());
    strace
}

/// Runs `command` to its end, which has to be a good one, and lists its system calls from the first
/// that names `from`: what comes before is the start of any program.
pub fn calls(command: &Command, log: &Path, from: &Path) -> Vec<Point> {
    let done = Done::of(&mut strace(command, log, None));
    assert_eq!(done.status, 0, "{command:?}: {done:?}");
    let text = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    let from = from.to_str().unwrap();
    let (mut counts, mut points, mut begun) = (BTreeMap::new(), BTreeMap::new(), false);
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let Some((call, _)) = rest.split_once('(').filter(|(call, _)| is_name(call)) else {
            continue;
        };
        let nth = counts.entry((thread.to_owned(), call.to_owned())).or_insert(0_usize);
        *nth += 1;
        begun |= rest.contains(from);
        if begun {
            // Several threads count for themselves: the n-th of each is one point.
            let (call, nth, line) = (call.to_owned(), *nth, rest.to_owned());
            points.entry((call.clone(), nth)).or_insert(Point { call, nth, line });
        }
    }
    points.into_values().collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Runs `command` with a fault; `None` where it did not come to the point, since threads share their
/// work as they like.
pub fn run(command: &Command, log: &Path, point: &Point, fault: Fault) -> Option<Outcome> {
    let output = strace(command, log, Some((point, fault))).output().unwrap();
    let text = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    let reached = match fault {
        Fault::Kill => output.status.signal() == Some(9),
        Fault::Error(_) => text.contains("(INJECTED)"),
    };
    // The dynamic linker, in a thread that came to as many calls before the program began.
    let early = output.status.code() == Some(127);
    if !reached || early {
        assert!(early || output.status.success(), "{command:?}: {output:?}");
        return None;
    }
    // One thread's call may be another's word to the user.
    let muted = text.lines().any(|line| line.contains("write(2,") && line.contains("(INJECTED)"));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(match output.status.code() {
        Some(status) => Outcome::Ended(Done {
            status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: if muted { "standard error failed as well".to_owned() } else { told },
        }),
        None => Outcome::Killed,
    })
}

impl Point {
    /// Whether something is different before and after it.
    pub fn changes(&self) -> bool {
        let creates = self.line.contains("O_CREAT") || self.line.contains("O_TMPFILE");
        match self.call.as_str() {
            "open" | "openat" | "openat2" => creates,
            "fcntl" => false,
            "ioctl" => self.line.contains("FICLONE"),
            call => CHANGING.contains(&call) || OTHER.contains(&call),
        }
    }

    /// Whether it writes to a standard stream, of which nobody can be told.
    pub fn is_standard_stream(&self) -> bool {
        ["write(1,", "write(2,", "ioctl(", "fcntl(1,", "fcntl(2,"]
            .iter()
            .any(|start| self.line.starts_with(start))
            && !self.line.contains("FICLONE")
    }
}

/// Waits until the command that a running strace traces is stopped, and returns its process.
pub fn stopped_child(strace: u32, log: &Path) -> u32 {
    for _ in 0..3000 {
        if fs::read_to_string(log).is_ok_and(|text| text.contains("stopped by SIGSTOP")) {
            let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"));
            return children.unwrap().trim().parse().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it was not stopped");
}
