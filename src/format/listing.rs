//! The names of a merged directory, and in which layers each stands.

use std::cell::OnceCell;
use std::sync::Arc;

use rustix::io::Errno;

use super::lookup::{MergedDir, Part, Stack};
use super::whiteout;
use crate::sys::dir::{Kind, SysResult};

/// A name of a merged directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MergedEntry {
    pub(crate) name: Box<[u8]>,
    /// Its type in the topmost layer that has it.
    pub(crate) kind: Kind,
    pub(crate) ino: u64,
    /// Which of the directory's parts have the name.
    pub(crate) places: Places,
}

impl MergedEntry {
    /// The index, in the directory's parts, of the topmost one that has the name.
    pub(crate) fn part(&self) -> usize {
        self.places.first()
    }
}

/// Which of a directory's parts have a name, by their indices, topmost first; at least one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    One(u32),
    Many(Box<[u32]>),
}

impl Places {
    /// `None` where there is none; they come in order.
    pub(crate) fn new(indices: Vec<u32>) -> Option<Self> {
        match indices.as_slice() {
            [] => None,
            [one] => Some(Self::One(*one)),
            _ => Some(Self::Many(indices.into())),
        }
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        let Ok(index) = u32::try_from(index) else { return false };
        match self {
            Self::One(one) => *one == index,
            Self::Many(indices) => indices.binary_search(&index).is_ok(),
        }
    }

    /// How many parts have the name.
    #[cfg(feature = "image")]
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(indices) => indices.len(),
        }
    }

    /// The parts of `dir` that have the name.
    #[cfg(feature = "image")]
    pub(crate) fn parts<'d>(&self, dir: &'d MergedDir) -> impl Iterator<Item = &'d Arc<Part>> {
        let indices = match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(indices) => indices,
        };
        indices.iter().filter_map(|index| dir.parts.get(usize::try_from(*index).ok()?))
    }

    fn first(&self) -> usize {
        let first = match self {
            Self::One(one) => Some(*one),
            Self::Many(indices) => indices.first().copied(),
        };
        first.and_then(|index| usize::try_from(index).ok()).unwrap_or(usize::MAX)
    }
}

impl Stack {
    /// The names of a merged directory, sorted by bytes; what is deleted or hidden is left out.
    pub(crate) fn entries(&self, dir: &MergedDir) -> SysResult<Vec<MergedEntry>> {
        // Of each part once, where it is asked for at all.
        let known: Vec<OnceCell<bool>> = vec![OnceCell::new(); dir.parts.len()];
        let shows = |entry: MergedEntry| {
            let part = dir.parts.get(entry.part()).zip(known.get(entry.part()));
            match part.ok_or(Errno::IO).and_then(|part| self.is_mark(part, &entry.name, entry.kind))
            {
                Ok(true) => None,
                Ok(false) => Some(Ok(entry)),
                Err(error) => Some(Err(error)),
            }
        };
        self.names(dir)?.into_iter().filter_map(shows).collect()
    }

    /// As [`Stack::entries`], the names of what is deleted among them.
    pub(crate) fn names(&self, dir: &MergedDir) -> SysResult<Vec<MergedEntry>> {
        let mut all = Vec::new();
        for (index, part) in dir.parts.iter().enumerate() {
            let index = u32::try_from(index).map_err(|_| Errno::OVERFLOW)?;
            all.extend(part.dir.entries()?.into_iter().map(|entry| (entry, index)));
        }
        all.sort_unstable_by(|(one, at), (other, other_at)| {
            one.name.cmp(&other.name).then(at.cmp(other_at))
        });
        let mut shown: Vec<MergedEntry> = Vec::with_capacity(all.len());
        let mut all = all.into_iter().peekable();
        while let Some((entry, index)) = all.next() {
            let mut indices = vec![index];
            while let Some((_, index)) = all.next_if(|(next, _)| next.name == entry.name) {
                indices.push(index);
            }
            let Some(places) = Places::new(indices) else { continue };
            let (name, kind, ino) = (entry.name, entry.kind, entry.ino);
            shown.push(MergedEntry { name, kind, ino, places });
        }
        Ok(shown)
    }

    /// Whether a name of one layer only says that the name is gone.
    fn is_mark(
        &self,
        (part, holds_files): (&Arc<Part>, &OnceCell<bool>),
        name: &[u8],
        kind: Kind,
    ) -> SysResult<bool> {
        let may_be_file = || match holds_files.get() {
            Some(holds) => Ok(*holds),
            None => {
                self.may_hold_xattr_whiteouts(part).map(|holds| *holds_files.get_or_init(|| holds))
            }
        };
        let may_be = match kind {
            Kind::CharDevice | Kind::Unknown => true,
            Kind::Regular => may_be_file()?,
            _ => false,
        };
        if !may_be {
            return Ok(false);
        }
        let Some(stat) = part.dir.stat_if_exists(name)? else { return Ok(true) };
        if whiteout::is_whiteout(&stat) {
            return Ok(true);
        }
        Ok(may_be_file()? && whiteout::is_xattr_whiteout(self.namespace(), &part.dir, name, &stat)?)
    }
}
