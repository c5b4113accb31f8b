//! What a test needs of the machine, and what becomes of it where that is missing.
//!
//! `OVERLAY2_REQUIRE=all` turns each test that would be skipped into a failure; `user` does so
//! too, except for what only real root can do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a test cannot run here.
#[derive(Debug)]
pub enum Lack<'a> {
    /// A program, a file or a feature that a machine can be given.
    Missing(&'a str),
    /// Only real root can do it, so that a plain user's run is complete without.
    Root(&'a str),
    /// Whoever runs the tests said that it is to be left out.
    Declined(&'a str),
}

/// Says on standard error, past the test harness's capture, that `test` is skipped; panics where
/// the environment demands that nothing is.
pub fn skip(test: &str, lack: Lack<'_>) {
    let (reason, demanded) = match &lack {
        Lack::Missing(reason) => (reason, demand() != Demand::Nothing),
        Lack::Root(reason) => (reason, demand() == Demand::All),
        Lack::Declined(reason) => (reason, false),
    };
    assert!(!demanded, "OVERLAY2_REQUIRE is set, and {test} cannot run: {reason}");
    let line = format!("SKIP {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[derive(PartialEq)]
enum Demand {
    Nothing,
    User,
    All,
}

fn demand() -> Demand {
    match std::env::var("OVERLAY2_REQUIRE").as_deref() {
        Ok("all") => Demand::All,
        Ok("user") => Demand::User,
        _ => Demand::Nothing,
    }
}

/// The name of the test function that `marker`, a function inside it, stands in.
pub fn test_name<T>(_marker: T) -> String {
    let path = std::any::type_name::<T>();
    let inside = path.strip_suffix("::here").unwrap_or(path).trim_end_matches("::{{closure}}");
    inside.split_once("::").map_or(inside, |(_crate, name)| name).to_owned()
}

/// The name of the test function in which it stands.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::common::need::test_name(here)
    }};
}

/// Goes on as root over some ids, or returns from the test: see the module `common`.
#[macro_export]
macro_rules! sandbox {
    () => {
        if !$crate::common::need::enter_sandbox(&$crate::test_name!()) {
            return;
        }
    };
}

/// Goes on where the condition holds; else skips the test for the reason given.
#[macro_export]
macro_rules! require {
    ($condition:expr, $lack:expr) => {
        if !$condition {
            $crate::common::need::skip(&$crate::test_name!(), $lack);
            return;
        }
    };
}

/// Goes on where a program is installed; else skips the test by its name.
#[macro_export]
macro_rules! require_tool {
    ($name:expr) => {
        $crate::require!(
            $crate::common::need::tool($name).is_some(),
            $crate::common::need::Lack::Missing(&format!("{} is not installed", $name))
        )
    };
}

const INSIDE: &str = "OVERLAY2_TEST_INSIDE";

/// Whether the test goes on here; otherwise it has been run in a namespace, or skipped.
pub fn enter_sandbox(test: &str) -> bool {
    if is_root() {
        return true;
    }
    assert!(std::env::var_os(INSIDE).is_none(), "{test}: `overlay2 unshare` did not make us root");
    let probe = Command::new("unshare").args(["-Um", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        skip(test, Lack::Missing("this machine gives a plain user no namespaces"));
        return false;
    }
    let output = Command::new(binary())
        .args(["unshare", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let ran = out.contains("1 passed");
    assert!(output.status.success() && ran, "inside `overlay2 unshare`:\n{out}\n{err}");
    for line in err.lines().filter(|line| line.starts_with("SKIP ")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    false
}

/// Root, be it over all ids or over those of a user namespace.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether ids are mapped: in a user namespace, where device nodes cannot be made.
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().nth(2) != Some("4294967295")
}

/// How many user ids the process can give a file.
pub fn mapped_ids() -> u64 {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// A program, looked for in the search path and where an administrator's programs are.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
}

/// The command under test.
pub fn binary() -> PathBuf {
    std::env::var_os("OVERLAY2_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_overlay2").into(), PathBuf::from)
}

/// An example, beside the command where that is somewhere else, else where cargo builds it.
pub fn example(name: &str) -> PathBuf {
    let beside = std::env::var_os("OVERLAY2_BIN")
        .map(|binary| Path::new(&binary).with_file_name(name))
        .filter(|file| file.is_file());
    beside.unwrap_or_else(|| binary().parent().unwrap().join("examples").join(name))
}

/// Runs a program and returns what it printed; panics with its complaints when it fails.
pub fn run(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{shown}: {e}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}: {}\n{out}\n{err}", output.status);
    out.trim_end().to_owned()
}
