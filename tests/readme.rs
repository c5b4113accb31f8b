//! What README.md says was typed is typed, and prints what it says.
//!
//! A line that begins with `#` or `$` is a command, what follows is what it prints, on standard output or
//! standard error. Digests, IDs and times are other ones each time; paths of the store too.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::need::{self, Lack};
use common::store::Scratch;

const RUNNING: &str = "## Running what is inside";
const WITHOUT_ROOT: &str = "## Without root";
const NOBODY: u32 = 65_534;

/// A command, and what it prints.
#[derive(Debug, PartialEq)]
struct Typed {
    command: String,
    printed: String,
}

/// What is typed under some headings.
fn typed(readme: &str, wanted: impl Fn(&str) -> bool) -> Vec<Typed> {
    let (mut heading, mut inside, mut all) = ("", false, Vec::<Typed>::new());
    for line in readme.lines() {
        match line {
            _ if line.starts_with("## ") && !inside => heading = line,
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside || !wanted(heading) => {}
            _ => match line.strip_prefix("# ").or(line.strip_prefix("$ ")) {
                Some(command) => {
                    all.push(Typed { command: command.to_owned(), printed: String::new() });
                }
                None => {
                    let last = all.last_mut().unwrap();
                    last.printed.push_str(line);
                    last.printed.push('\n');
                }
            },
        }
    }
    assert!(!all.is_empty(), "nothing is typed there");
    all
}

fn readme() -> String {
    let folder = std::env::var("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    fs::read_to_string(Path::new(&folder).join("README.md")).unwrap()
}

/// Text in which what is another each time is the same: digests and IDs, times, where the store is; and
/// columns, whose width that decides.
fn same(text: &str, root: &Path) -> String {
    let text = text.replace(root.to_str().unwrap(), "/var/lib/overlay2");
    let words = text.lines().map(|line| {
        line.split(' ').filter(|word| !word.is_empty()).map(word).collect::<Vec<_>>().join(" ")
    });
    words.collect::<Vec<_>>().join("\n")
}

fn word(word: &str) -> String {
    let is_time = word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    if is_time {
        return "TIME".to_owned();
    }
    let (mut out, mut digits) = (String::new(), String::new());
    for letter in word.chars().chain(['\n']) {
        if letter.is_ascii_digit() || ('a'..='f').contains(&letter) {
            digits.push(letter);
            continue;
        }
        out.push_str(if digits.len() >= 12 { "ID" } else { &digits });
        digits.clear();
        out.push(letter);
    }
    out.pop();
    out
}

/// Types all of it into one shell, as some user, and compares.
fn type_in(commands: &[Typed], uid: Option<u32>) {
    let scratch = Scratch::new();
    let (home, bin) = (scratch.path().join("home"), scratch.path().join("bin"));
    for dir in [&home, &bin] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::copy(need::binary(), bin.join("overlay2")).unwrap();
    let root = home.join("store");

    let mut script = String::from("exec 2>&1\n");
    for (index, Typed { command, .. }) in commands.iter().enumerate() {
        script.push_str(&format!("{command}\necho '--- {index}'\n"));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c", &script]).current_dir(&home).stdin(Stdio::null());
    shell.env("PATH", format!("{}:{path}", bin.display())).env("HOME", &home);
    shell.env("TMPDIR", &home).env("OVERLAY2_ROOT", &root);
    if let Some(uid) = uid {
        chown(&home, Some(uid), Some(uid)).unwrap();
        shell.uid(uid).gid(uid);
    }
    let output = shell.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rest = printed.as_str();
    for (index, Typed { command, printed: expected }) in commands.iter().enumerate() {
        let mark = format!("--- {index}\n");
        let (told, after) = rest.split_once(&mark).unwrap_or_else(|| panic!("{command}: {rest}"));
        assert_eq!(same(told, &root), same(expected, &root), "{command}");
        rest = after;
    }
}

#[test]
fn the_tour_is_what_it_prints() {
    require_tool!("bash");
    sandbox!();
    let is_tour = |heading: &str| ![RUNNING, WITHOUT_ROOT].contains(&heading);
    type_in(&typed(&readme(), is_tour), None);
}

#[test]
fn what_is_run_is_what_it_prints() {
    require_tool!("bash");
    require_tool!("crun");
    require!(
        Path::new("/bin/busybox").is_file(),
        Lack::Missing("a statically linked /bin/busybox is not installed")
    );
    sandbox!();
    type_in(&typed(&readme(), |heading| heading == RUNNING), None);
}

#[test]
fn a_plain_user_sees_what_it_prints() {
    require_tool!("bash");
    let probe = Command::new("unshare").args(["-Um", "true"]).status();
    require!(
        probe.is_ok_and(|status| status.success()),
        Lack::Missing("this machine gives a plain user no namespaces")
    );
    let uid = need::is_root().then_some(NOBODY);
    type_in(&typed(&readme(), |heading| heading == WITHOUT_ROOT), uid);
}

#[test]
fn what_differs_each_time_is_the_same_and_nothing_else() {
    let root = Path::new("/tmp/x");
    let digest = "0123456789abcdef".repeat(4);
    for (one, other, equal) in [
        (format!("sha256:{digest}"), format!("sha256:{}", "a".repeat(64)), true),
        ("2026-11-27T09:05:12Z  a".to_owned(), "2027-01-01T00:00:00Z a".to_owned(), true),
        (format!("/tmp/x/{digest}"), format!("/var/lib/overlay2/{}", "b".repeat(64)), true),
        ("web".to_owned(), "wbe".to_owned(), false),
        ("39B".to_owned(), "40B".to_owned(), false),
    ] {
        assert_eq!(same(&one, root) == same(&other, root), equal, "{one} {other}");
    }
    let text = "## A\n```console\n# one\nprints\n$ two\n```\n## B\n```console\n# three\n```\n";
    let typed: Vec<_> = typed(text, |heading| heading == "## A")
        .into_iter()
        .map(|typed| (typed.command, typed.printed))
        .collect();
    let expected = [("one", "prints\n"), ("two", "")];
    assert_eq!(typed, expected.map(|(one, other)| (one.to_owned(), other.to_owned())));
}
