//! A container runtime in a hundred lines: [`Driver`] mounts the root file system, `unshare` makes the
//! namespaces, `pivot_root` goes in. No daemon, no OCI runtime, no network, with or without root.
//!
//! ```sh
//! cargo run --example tiny_runtime                            # a container with this very program
//! cargo run --example tiny_runtime STORE IMAGE COMMAND ARGS   # of an image that is in a store
//! ```
//!
//! It is what stays when everything that makes a runtime safe for hostile programs is left out:
//! capabilities, seccomp, cgroups, masked paths. `overlay2 run` has a real one do it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a walk-through is to be read")]

mod demo;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use overlay2::changeset::View;
use overlay2::mount::MountOptions;
use overlay2::userns::UserNamespace;
use overlay2::{Driver, Watch};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The argument of the process that is inside the namespaces already; the root directory follows.
const INSIDE: &str = "--inside";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match arguments.as_slice() {
        [first, root, command @ ..] if first == INSIDE => enter(Path::new(root), command),
        [first, ..] if first == demo::HELLO => demo::hello(),
        _ if rustix::process::geteuid().is_root() => outside(&arguments),
        // Root of a user namespace may mount, too.
        _ => again(&arguments),
    };
    match done {
        Ok(status) => {
            let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("tiny_runtime: {error}");
            if let Some(help) = error.downcast_ref::<overlay2::Error>().and_then(|e| e.help()) {
                eprintln!("hint: {help}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs this very command again, as root of a user namespace.
fn again(arguments: &[OsString]) -> Result<ExitStatus> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(UserNamespace::plan()?.run(command)?)
}

/// Outside: an image, a container of it, its root mounted, and all of it taken away again.
fn outside(arguments: &[OsString]) -> Result<ExitStatus> {
    let scratch = tempfile::Builder::new().prefix("overlay2-tiny-").tempdir()?;
    let (driver, image, command) = match arguments {
        [store, image, command @ ..] if !command.is_empty() => {
            (Driver::open(store)?, image.to_string_lossy().into_owned(), command.to_vec())
        }
        [] => demo::image(&scratch.path().join("store"))?,
        _ => return Err("usage: tiny_runtime [STORE IMAGE COMMAND ARGS...]".into()),
    };
    let container = driver.create(&image.as_str().into(), None)?.name;
    let ran = run(&driver, &container, &command);
    driver.remove_container(&container, Watch::new())?;
    ran
}

/// Runs a command in a container's root directory, in namespaces of its own.
fn run(driver: &Driver, container: &str, command: &[OsString]) -> Result<ExitStatus> {
    let mounted = driver.mount(container, None, &MountOptions::default())?;
    let namespaces = ["--mount", "--pid", "--ipc", "--uts", "--net"];
    let status = Command::new("unshare")
        .args(namespaces)
        .args(["--fork", "--kill-child", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .arg(INSIDE)
        .arg(&mounted.target)
        .args(command)
        .status();
    driver.unmount(container)?;
    for change in driver.changes(container, View::Pruned, Watch::new())? {
        println!("{change}");
    }
    Ok(status?)
}

/// Inside: the container's root becomes the root, with what a program expects to find mounted there.
fn enter(root: &Path, command: &[OsString]) -> Result<ExitStatus> {
    let [program, arguments @ ..] = command else { return Err("there is no command".into()) };
    let null = rustix::mount::open_tree(CWD, "/dev/null", OpenTreeFlags::OPEN_TREE_CLONE)?;
    rustix::system::sethostname(b"tiny")?;

    // The old root lies over the new one then, where only `.` still leads: pivot_root(2).
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // From here on a path of the image leads to the image; proc wants another one to be seen still.
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at("/proc", || rustix::mount::mount("proc", "/proc", "proc", safe, None))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_at("/dev", || rustix::mount::mount("tmpfs", "/dev", "tmpfs", flags, None))?;
    std::fs::OpenOptions::new().write(true).create_new(true).open("/dev/null")?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&null, "", CWD, "/dev/null", empty)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")?;

    // Returns only where it fails.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let error = Command::new(program).args(arguments).env_clear().env("PATH", path).exec();
    Err(format!("run {}: {error}", program.to_string_lossy()).into())
}

fn mount_at(dir: &str, mount: impl FnOnce() -> rustix::io::Result<()>) -> Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    mount().map_err(|error| format!("mount {dir}: {error}").into())
}
