//! A slow and obvious reading of the specification: a tree in memory, to which changesets are
//! applied one after the other.
//!
//! What a changeset says of the layers below comes first: what it deletes, and which names it makes
//! directories. Then its entries take effect in their order, and at last the hard links whose
//! targets came later, or lie below.

use std::collections::{BTreeMap, BTreeSet};

use crate::words::{Given, Word};

/// Why a changeset has no tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has to be refused.
    Refused(&'static str),
    /// The specification leaves open what it means.
    Open(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Dir,
    File(char),
    Symlink(String),
    Fifo,
    Device,
    /// A hard link that waits for its target.
    Waiting(String),
}

#[derive(Clone, Debug)]
struct File {
    kind: Kind,
    mode: u32,
    uid: u32,
    mtime: (i64, i64),
    attribute: Option<&'static str>,
}

impl File {
    fn plain(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, mtime: (1_600_000_000, 0), attribute: None }
    }

    fn given(kind: Kind, given: Given) -> Self {
        let (mode, uid, mtime) = (given.mode(), given.uid(), given.mtime());
        Self { kind, mode, uid, mtime, attribute: given.attribute() }
    }

    /// A directory of which nothing is said.
    fn implied() -> Self {
        Self { mtime: (0, 0), ..Self::plain(Kind::Dir, 0o755) }
    }
}

/// A way through the tree.
#[derive(Default)]
struct Walk {
    /// Symlinks of the layers below that it led through.
    lower: Vec<String>,
    /// Directories that were not there before.
    made: Vec<String>,
}

/// A tree: paths that begin with a slash, the root being empty, and what they are names of.
#[derive(Clone)]
pub(crate) struct Reading {
    names: BTreeMap<String, usize>,
    files: Vec<File>,
    /// Directories that no entry describes.
    implied: BTreeSet<usize>,
    /// Files from this number on are those of the changeset that is being applied.
    own: usize,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn is_beneath(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

type Outcome<T> = Result<T, Why>;

impl Reading {
    pub(crate) fn new() -> Self {
        Self {
            names: BTreeMap::from([(String::new(), 0)]),
            files: vec![File::implied()],
            implied: BTreeSet::new(),
            own: 0,
        }
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.names.get(path).map(|&number| &self.files[number])
    }

    fn is_own(&self, path: &str) -> bool {
        self.names.get(path).is_some_and(|&number| number >= self.own)
    }

    fn is_dir(&self, path: &str) -> bool {
        self.file(path).is_some_and(|file| file.kind == Kind::Dir)
    }

    fn put(&mut self, path: &str, file: File) {
        self.remove(path);
        self.names.insert(path.to_owned(), self.files.len());
        self.files.push(file);
    }

    fn remove(&mut self, path: &str) {
        self.names.remove(path);
        self.remove_beneath(path);
    }

    fn remove_beneath(&mut self, path: &str) {
        self.names.retain(|name, _| !is_beneath(name, path));
    }

    /// Where a directory really is; made where it is not and `make` says so.
    fn walk(&mut self, path: &str, make: bool, walk: &mut Walk) -> Outcome<Option<String>> {
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let (mut at, mut hops) = (String::new(), 0);
        while let Some(name) = todo.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    if walk.made.contains(&at) {
                        return Err(Why::Open("out of what is not there"));
                    }
                    at = split(&at).0.to_owned();
                    continue;
                }
                _ => {}
            }
            let next = format!("{at}/{name}");
            match self.file(&next).map(|file| file.kind.clone()) {
                Some(Kind::Dir) => at = next,
                Some(Kind::Symlink(target)) => {
                    hops += 1;
                    if hops > 40 {
                        return Err(match walk.lower.is_empty() {
                            true => Why::Refused("too many symlinks"),
                            false => Why::Open("a loop of the layers below"),
                        });
                    }
                    if !self.is_own(&next) {
                        walk.lower.push(next);
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                Some(_) if make && self.is_own(&next) => {
                    return Err(Why::Refused("beneath a file of this changeset"));
                }
                _ if !make && todo.iter().any(|name| name == "..") => {
                    return Err(Why::Open("out of what is not there"));
                }
                _ if !make => return Ok(None),
                _ => {
                    self.implied.insert(self.files.len());
                    self.put(&next, File::implied());
                    walk.made.push(next.clone());
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }

    /// Applies a changeset to the tree.
    pub(crate) fn apply(&mut self, words: &[Word]) -> Outcome<()> {
        self.own = self.files.len();
        // What it says behind a loop of symlinks says nothing, and may be refused.
        self.below(words).map_err(|_| Why::Open("a mark that leads nowhere"))?;
        for word in words {
            self.entry(word)?;
        }
        self.late_links()
    }

    /// What the changeset says of the layers below, from the root downwards.
    fn below(&mut self, words: &[Word]) -> Outcome<()> {
        let depth = |word: &Word| {
            let names = word.path().split('/').filter(|name| !name.is_empty()).count();
            let inside = usize::from(matches!(word, Word::Opaque(_)));
            (names + inside, !word.is_mark())
        };
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by_key(|word| depth(word));
        let mut led_through = Vec::new();
        for word in sorted {
            let (parent, name) = split(word.path());
            let mut walk = Walk::default();
            match word {
                Word::Dir(..) => {
                    let Some(at) = self.walk(parent, false, &mut walk)? else { continue };
                    let path = format!("{at}/{name}");
                    if walk.lower.contains(&path) {
                        return Err(Why::Open("by way of the symlink that it replaces"));
                    }
                    if !self.is_dir(&path) {
                        self.remove(&path);
                    }
                }
                Word::Whiteout(_) => {
                    self.behind_own_link(word, words)?;
                    if let Some(at) = self.walk(parent, false, &mut walk)? {
                        self.remove(&format!("{at}/{name}"));
                    }
                    led_through.append(&mut walk.lower);
                }
                Word::Opaque(path) => {
                    self.behind_own_link(word, words)?;
                    let Some(at) = self.walk(parent, false, &mut walk)? else { continue };
                    let is_symlink = !path.is_empty() && !self.is_dir(&format!("{at}/{name}"));
                    if !is_symlink {
                        let dir = if path.is_empty() { at } else { format!("{at}/{name}") };
                        self.remove_beneath(&dir);
                    }
                    led_through.append(&mut walk.lower);
                }
                _ => {}
            }
        }
        match led_through.iter().any(|link| !self.names.contains_key(link)) {
            true => Err(Why::Open("a mark through a symlink that another one deletes")),
            false => Ok(()),
        }
    }

    /// A mark behind a symlink of the changeset itself could mean what is below it, or where it
    /// leads; another test looks at what it does in one layer.
    fn behind_own_link(&self, mark: &Word, words: &[Word]) -> Outcome<()> {
        let leads = |word: &Word| {
            let is_link = matches!(word, Word::Symlink(..) | Word::Link(..));
            is_link
                && (is_beneath(mark.path(), word.path())
                    || matches!(mark, Word::Opaque(path) if path == word.path()))
        };
        match words.iter().any(leads) {
            true => Err(Why::Open("a mark behind a link of its changeset")),
            false => Ok(()),
        }
    }

    fn entry(&mut self, word: &Word) -> Outcome<()> {
        match word {
            Word::Whiteout(_) | Word::Opaque(_) | Word::Bookkeeping(_) => Ok(()),
            Word::Root(given) => {
                self.names.insert(String::new(), self.files.len());
                self.files.push(File::given(Kind::Dir, *given));
                Ok(())
            }
            Word::Dir(path, given) => {
                let path = self.place(path)?;
                let file = File::given(Kind::Dir, *given);
                if self.is_dir(&path) {
                    self.names.insert(path, self.files.len());
                    self.files.push(file);
                } else {
                    self.put(&path, file);
                }
                Ok(())
            }
            Word::File(path, content, given) => {
                self.other(path, File::given(Kind::File(*content), *given))
            }
            Word::Symlink(path, target) => {
                self.other(path, File::plain(Kind::Symlink(target.clone()), 0o777))
            }
            Word::Fifo(path) => self.other(path, File::plain(Kind::Fifo, 0o644)),
            Word::Device(path) => self.other(path, File::plain(Kind::Device, 0o644)),
            Word::Link(path, target) => self.link(path, target),
        }
    }

    /// Where an entry goes; its parents are there afterwards.
    fn place(&mut self, path: &str) -> Outcome<String> {
        let (parent, name) = split(path);
        let mut walk = Walk::default();
        let parent = self.walk(parent, true, &mut walk)?.unwrap_or_default();
        Ok(format!("{parent}/{name}"))
    }

    fn other(&mut self, path: &str, file: File) -> Outcome<()> {
        let path = self.place(path)?;
        self.put(&path, file);
        Ok(())
    }

    /// Where a link's target is, and whether a symlink below leads there.
    fn target(&mut self, target: &str) -> Outcome<(String, bool)> {
        let (parent, name) = split(target);
        let mut walk = Walk::default();
        let parent = self.walk(parent, false, &mut walk)?;
        let crosses = !walk.lower.is_empty();
        let lexical = format!("/{}", target.trim_start_matches('/'));
        Ok((parent.map_or(lexical, |parent| format!("{parent}/{name}")), crosses))
    }

    fn link(&mut self, path: &str, target: &str) -> Outcome<()> {
        let path = self.place(path)?;
        let (target, crosses) = self.target(target)?;
        if target == path || is_beneath(&target, &path) {
            return Err(match crosses {
                true => Why::Open("a hard link that may be replaced before it leads to itself"),
                false => Why::Refused("a hard link to itself, or to what is beneath it"),
            });
        }
        let is_there = self.is_own(&target);
        match self.file(&target).filter(|_| is_there).map(|file| file.kind.clone()) {
            Some(Kind::Dir) if self.implied.contains(&self.names[&target]) => {
                Err(Why::Open("a hard link to a directory that another entry may replace"))
            }
            Some(Kind::Dir) => Err(Why::Refused("a hard link to a directory")),
            Some(Kind::Waiting(_)) | None => {
                self.put(&path, File::plain(Kind::Waiting(target), 0));
                Ok(())
            }
            Some(_) => {
                let number = self.names[&target];
                self.remove(&path);
                self.names.insert(path, number);
                Ok(())
            }
        }
    }

    /// Makes the links that wait, each after the one that it waits for.
    fn late_links(&mut self) -> Outcome<()> {
        loop {
            let waiting: Vec<(String, String)> = self
                .names
                .iter()
                .filter_map(|(path, &number)| match &self.files[number].kind {
                    Kind::Waiting(target) => Some((path.clone(), target.clone())),
                    _ => None,
                })
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
            let mut progress = false;
            for (path, target) in waiting {
                let (target, _) = self.target(&target)?;
                let Some(&number) = self.names.get(&target) else {
                    return Err(Why::Refused("a hard link to nothing"));
                };
                match &self.files[number].kind {
                    Kind::Dir => return Err(Why::Refused("a hard link to a directory")),
                    Kind::Waiting(_) => continue,
                    _ => {}
                }
                // A file below is copied up, whatever other names it has.
                let mut number = number;
                if number < self.own {
                    self.files.push(self.files[number].clone());
                    number = self.files.len() - 1;
                    self.names.insert(target, number);
                }
                self.names.insert(path, number);
                progress = true;
            }
            if !progress {
                return Err(Why::Refused("hard links in a circle"));
            }
        }
    }

    /// The tree in lines, as [`crate::shown`] prints one.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut first: BTreeMap<usize, String> = BTreeMap::new();
        let mut in_order: Vec<_> = self.names.iter().collect();
        // As a walk of the directories meets them.
        in_order.sort_by_key(|(path, _)| path.split('/').map(str::to_owned).collect::<Vec<_>>());
        let print = |(path, number): (&String, &usize)| {
            let File { kind, mode, uid, mtime, attribute } = &self.files[*number];
            let text = match kind {
                Kind::Dir => "d".to_owned(),
                Kind::File(content) => format!("f {content}"),
                Kind::Symlink(target) => format!("l {target}"),
                Kind::Fifo => "p".to_owned(),
                Kind::Device => "c 1 3".to_owned(),
                Kind::Waiting(_) => unreachable!("no link waits in the end"),
            };
            let first = first.entry(*number).or_insert_with(|| path.clone());
            let same = if *kind == Kind::Dir || first == path { "" } else { first.as_str() };
            crate::shown::line(path, &text, *mode, *uid, *mtime, *attribute, same)
        };
        in_order.into_iter().map(print).collect()
    }
}
