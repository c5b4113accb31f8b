//! Turns paths into nodes, inside the tree and nowhere else.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Core;
use super::lookup::Seen;
use super::node::Node;
use crate::format::lookup::{FoundFile, MergedDir};
use crate::sys::dir::{SysResult, type_of};

/// As many symlinks as the kernel follows in one path.
pub(crate) const MOST_LINKS: u32 = 40;

/// Whether a symlink that a path ends in is resolved; one with a slash behind it is unless
/// that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    Last,
    NotLast,
    /// For what may have to be created: it is resolved but for one with a slash behind it, at which
    /// no file can be created, so the walk ends there with nothing known of the name.
    LastUnlessSlash,
}

/// Where a path ends.
#[derive(Debug)]
pub(super) struct Walked {
    /// The directory of the last name; what the path leads to, where that is no name.
    pub(super) dir: Arc<Node>,
    pub(super) last: Last,
    /// A slash follows, so only a directory will do.
    pub(super) slash: bool,
    /// What the last name is, where that had to be known.
    pub(super) seen: Option<Seen>,
}

/// The last component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Name(Box<[u8]>),
    Root,
    Dot,
    DotDot,
}

/// A path on its way.
struct Steps {
    rest: Vec<u8>,
    at: usize,
    links: u32,
}

impl Steps {
    fn new(path: &[u8]) -> Self {
        Self { rest: path.to_vec(), at: 0, links: 0 }
    }

    fn skip_slashes(&mut self) -> bool {
        let from = self.at;
        while self.rest.get(self.at) == Some(&b'/') {
            self.at += 1;
        }
        self.at != from
    }

    /// The next component; `None` at the end.
    fn next(&mut self) -> Option<Vec<u8>> {
        self.skip_slashes();
        let rest = self.rest.get(self.at..)?;
        let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let component = rest.get(..end)?.to_vec();
        self.at += end;
        (!component.is_empty()).then_some(component)
    }

    /// Whether a slash follows, and whether nothing but slashes does.
    fn ends(&mut self) -> (bool, bool) {
        let slash = self.skip_slashes();
        (slash, self.at >= self.rest.len())
    }

    /// Puts a symlink's target in front of what is left.
    fn splice(&mut self, target: &[u8], slash: bool) -> SysResult<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let rest = self.rest.get(self.at..).unwrap_or_default();
        let mut path = target.to_vec();
        if slash {
            path.push(b'/');
        }
        path.extend_from_slice(rest);
        (self.rest, self.at) = (path, 0);
        Ok(())
    }
}

impl Core {
    /// Walks to the directory in which a path's last name stands; the name itself may be absent.
    pub(super) fn walk(&self, path: &[u8], follow: Follow) -> SysResult<Walked> {
        if path.is_empty() || path.contains(&0) {
            return Err(if path.is_empty() { Errno::NOENT } else { Errno::INVAL });
        }
        let mut steps = Steps::new(path);
        let mut dir = Arc::clone(&self.root);
        let mut last = Last::Root;
        loop {
            let Some(component) = steps.next() else {
                return Ok(Walked { dir, last, slash: true, seen: None });
            };
            let (slash, end) = steps.ends();
            match component.as_slice() {
                b"." => {
                    self.may_search(&dir)?;
                    last = Last::Dot;
                }
                b".." => {
                    self.may_search(&dir)?;
                    dir = dir.parent().unwrap_or(dir);
                    last = Last::DotDot;
                }
                name => match self.step(&dir, name, slash, end, follow)? {
                    Step::Into(node) => {
                        dir = node;
                        last = Last::Dot;
                    }
                    Step::Link(target) => {
                        steps.splice(&target, slash)?;
                        if target.first() == Some(&b'/') {
                            dir = Arc::clone(&self.root);
                            last = Last::Root;
                        }
                        continue;
                    }
                    Step::End(seen) => {
                        return Ok(Walked { dir, last: Last::Name(name.into()), slash, seen });
                    }
                },
            }
            if end {
                return Ok(Walked { dir, last, slash, seen: None });
            }
        }
    }

    fn step(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        slash: bool,
        end: bool,
        follow: Follow,
    ) -> SysResult<Step> {
        if end {
            // Before anything is said of the name, or of another path of the same operation.
            self.may_search(dir)?;
        }
        let stops_at = match follow {
            Follow::Last => None,
            Follow::NotLast => Some(false),
            Follow::LastUnlessSlash => Some(true),
        };
        if end && stops_at == Some(slash) {
            return Ok(Step::End(None));
        }
        let seen = self.see(dir, name)?;
        if matches!(seen, Seen::Absent) {
            return if end { Ok(Step::End(Some(seen))) } else { Err(Errno::NOENT) };
        }
        let follows = !end || slash || follow != Follow::NotLast;
        if follows && let Some(target) = self.link_target(name, &seen)? {
            return Ok(Step::Link(target));
        }
        match seen {
            seen if end => Ok(Step::End(Some(seen))),
            Seen::Node(node) if node.is_directory() => Ok(Step::Into(node)),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// What a symlink holds; `None` where it is none.
    pub(super) fn link_target(&self, name: &[u8], seen: &Seen) -> SysResult<Option<Vec<u8>>> {
        match seen {
            Seen::Node(node) => read_held_link(node),
            Seen::File(file, parts, _) => read_found_link(name, file, parts),
            Seen::Absent => Ok(None),
        }
    }

    /// The node that a path leads to.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ELOOP.
    pub(super) fn resolve(&self, path: &[u8], follow: Follow) -> SysResult<Arc<Node>> {
        self.resolve_held(path, follow, OFlags::PATH)
    }

    /// As [`Core::resolve`], a file being held open as `flags` say where that is possible.
    pub(super) fn resolve_held(
        &self,
        path: &[u8],
        follow: Follow,
        flags: OFlags,
    ) -> SysResult<Arc<Node>> {
        let walked = self.walk(path, follow)?;
        let Last::Name(name) = &walked.last else { return Ok(walked.dir) };
        let seen = match walked.seen {
            Some(seen) => seen,
            None => self.see(&walked.dir, name)?,
        };
        let node = self.node_of(&walked.dir, name, seen, flags)?.ok_or(Errno::NOENT)?;
        if walked.slash && !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        Ok(node)
    }

    /// What a path leads to, with no more work done than is needed to tell.
    pub(super) fn resolve_seen(
        &self,
        path: &[u8],
        follow: Follow,
    ) -> SysResult<(Seen, Option<Box<[u8]>>)> {
        let walked = self.walk(path, follow)?;
        let Last::Name(name) = walked.last else { return Ok((Seen::Node(walked.dir), None)) };
        let seen = match walked.seen {
            Some(seen) => seen,
            None => self.see(&walked.dir, &name)?,
        };
        match &seen {
            Seen::Absent => Err(Errno::NOENT),
            Seen::File(..) if walked.slash => Err(Errno::NOTDIR),
            Seen::Node(node) if walked.slash && !node.is_directory() => Err(Errno::NOTDIR),
            _ => Ok((seen, Some(name))),
        }
    }

    /// The directory in which a new name is made.
    ///
    /// # Errors
    /// EEXIST where the path ends in no name.
    pub(super) fn walk_to_create(&self, path: &[u8]) -> SysResult<(Arc<Node>, Box<[u8]>, bool)> {
        let slash = path.ends_with(b"/");
        let trimmed = trim_slashes(path);
        let walked = self.walk(trimmed, Follow::NotLast)?;
        match walked.last {
            Last::Name(name) => Ok((walked.dir, name, slash)),
            _ => Err(Errno::EXIST),
        }
    }
}

/// Where one step of a walk led.
enum Step {
    Into(Arc<Node>),
    Link(Vec<u8>),
    End(Option<Seen>),
}

/// A path without the slashes at its end: how the kernel takes the last name of what is created,
/// removed or renamed, none of which follows a symlink there.
pub(super) fn trim_slashes(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte != b'/') {
        Some(last) => path.get(..=last).unwrap_or(path),
        None => path.get(..1).unwrap_or(path),
    }
}

pub(super) fn read_held_link(node: &Node) -> SysResult<Option<Vec<u8>>> {
    use super::node::Real;
    match node.real() {
        Real::File(file) if file.kind == rustix::fs::FileType::Symlink => {
            let target = rustix::fs::readlinkat(&*file.held, c"", Vec::new())?;
            Ok(Some(target.into_bytes()))
        }
        _ => Ok(None),
    }
}

fn read_found_link(name: &[u8], file: &FoundFile, parts: &MergedDir) -> SysResult<Option<Vec<u8>>> {
    if type_of(&file.stat) != rustix::fs::FileType::Symlink {
        return Ok(None);
    }
    let part = parts.parts.get(file.part).ok_or(Errno::IO)?;
    part.dir.read_link(name).map(Some)
}
