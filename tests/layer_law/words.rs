//! Random changesets, over so few names that their entries meet.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::tar::{self, Entry, char_device, dir, fifo, file, link, mark, symlink};

/// Mode, owner, time and an attribute; chosen among few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given(usize);

impl Given {
    pub(crate) fn mode(self) -> u32 {
        [0o755, 0o700, 0o1777, 0o2750][self.0 % 4]
    }

    pub(crate) fn uid(self) -> u32 {
        [0, 7, 1000][self.0 % 3]
    }

    /// Seconds and nanoseconds.
    pub(crate) fn mtime(self) -> (i64, i64) {
        [(0, 0), (1_600_000_000, 0), (-5, 250_000_000)][self.0 % 3]
    }

    pub(crate) fn attribute(self) -> Option<&'static str> {
        [None, Some("one"), None, Some("two")][self.0 % 4]
    }

    fn give(self, entry: Entry) -> Entry {
        let time = ["0", "1600000000", "-4.75"][self.0 % 3];
        let entry = entry.mode(self.mode()).owner(self.uid().into(), 0).pax("mtime", time);
        match self.attribute() {
            Some(value) => entry.xattr("user.x", value),
            None => entry,
        }
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    Dir(String, Given),
    File(String, char, Given),
    Symlink(String, String),
    Link(String, String),
    Fifo(String),
    Device(String),
    Whiteout(String),
    Opaque(String),
    Root(Given),
    /// What AUFS kept for itself.
    Bookkeeping(String),
}

impl Word {
    /// The name that the entry is about.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Dir(path, _)
            | Self::File(path, ..)
            | Self::Symlink(path, _)
            | Self::Link(path, _)
            | Self::Fifo(path)
            | Self::Device(path)
            | Self::Whiteout(path)
            | Self::Opaque(path)
            | Self::Bookkeeping(path) => path,
            Self::Root(_) => "",
        }
    }

    pub(crate) fn is_mark(&self) -> bool {
        matches!(self, Self::Whiteout(_) | Self::Opaque(_))
    }

    fn entry(&self) -> Entry {
        match self {
            Self::Dir(path, given) => given.give(dir(path)),
            Self::File(path, content, given) => given.give(file(path, content.to_string())),
            Self::Symlink(path, target) => symlink(path, target),
            Self::Link(path, target) => link(path, target),
            Self::Fifo(path) => fifo(path),
            Self::Device(path) => char_device(path, 1, 3),
            Self::Whiteout(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                mark(format!("{parent}/.wh.{name}"))
            }
            Self::Opaque(path) => mark(format!("{path}/.wh..wh..opq")),
            Self::Root(given) => given.give(dir("./")),
            Self::Bookkeeping(path) => file(format!("{path}/.wh..wh.plnk/1.2"), "x"),
        }
    }
}

/// The changeset as a tar.
pub(crate) fn packed(words: &[Word]) -> Vec<u8> {
    tar::tar(&words.iter().map(Word::entry).collect::<Vec<_>>())
}

const NAMES: [&str; 4] = ["a", "b", "c", "l"];

fn path() -> impl Strategy<Value = String> {
    vec(prop::sample::select(&NAMES[..]), 1..4).prop_map(|names| names.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    let odd = vec![".", "..", "/", "../../b", "a/../b", "/c/./a", "none/../a", "l"];
    prop_oneof![
        3 => path(),
        2 => path().prop_map(|path| format!("/{path}")),
        1 => path().prop_map(|path| format!("../{path}")),
        1 => prop::sample::select(odd).prop_map(str::to_owned),
    ]
}

fn word(devices: bool) -> impl Strategy<Value = Word> {
    let special = if devices { Word::Device } else { Word::Fifo };
    let given = || (0_usize..12).prop_map(Given);
    prop_oneof![
        8 => (path(), given()).prop_map(|(path, given)| Word::Dir(path, given)),
        10 => (path(), prop::char::range('0', '9'), given())
            .prop_map(|(path, content, given)| Word::File(path, content, given)),
        6 => (path(), target()).prop_map(|(path, target)| Word::Symlink(path, target)),
        5 => (path(), path()).prop_map(|(path, target)| Word::Link(path, target)),
        1 => path().prop_map(Word::Fifo),
        1 => path().prop_map(special),
        7 => path().prop_map(Word::Whiteout),
        3 => path().prop_map(Word::Opaque),
        1 => Just(Word::Opaque(String::new())),
        1 => given().prop_map(Word::Root),
        1 => prop_oneof![path(), Just(String::new())].prop_map(Word::Bookkeeping),
    ]
}

/// A layer of a stack: a changeset of its own, or once more that of an earlier one.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    Changeset(Vec<Word>),
    Again(usize),
}

/// Stacks of layers; `devices`: a user namespace can only note that a file should be one.
pub(crate) fn stack(devices: bool) -> impl Strategy<Value = Vec<Layer>> {
    let layer = prop_oneof![
        12 => vec(word(devices), 0..9).prop_map(Layer::Changeset),
        1 => (0_usize..3).prop_map(Layer::Again),
    ];
    vec(layer, 1..5)
}
