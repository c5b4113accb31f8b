//! Owners as they are shown: recorded, recorded and then changed through a mount that knows nothing of
//! records, or as a user namespace sees them.

use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::node::{Node, Place, Real};
use super::{Core, Tree};
use crate::format::lookup::Part;
use crate::format::override_stat::{OnDisk, OverrideStat};
use crate::format::whiteout;
use crate::id_map::Ids;
use crate::sys::dir::{SysResult, type_of};
use crate::sys::xattr::Target;

impl Tree {
    /// The same tree, which nobody has another handle of yet, with owners that are not recorded seen
    /// otherwise.
    pub(crate) fn with_ids(mut self, ids: Option<Arc<Ids>>) -> Self {
        if let Some(core) = Arc::get_mut(&mut self.core) {
            core.ids = ids;
        }
        self
    }
}

impl Core {
    /// The owner of a file of which none is recorded.
    pub(super) fn owner_seen(&self, stat: &Stat) -> (u32, u32) {
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        self.ids.as_ref().map_or((uid, gid), |ids| ids.inside(uid, gid))
    }

    /// What is recorded of a node, unless something else was made of it since.
    pub(super) fn record_now(
        &self,
        node: &Node,
        real: &Real,
        stat: &Stat,
    ) -> SysResult<Option<OverrideStat>> {
        let Some(record) = self.recorded(real.target()?, stat)? else { return Ok(None) };
        if real.layer()? != 0 {
            return Ok(Some(record));
        }
        let below = match (real, node.place()) {
            (Real::Directory(dir), _) => match dir.parts.get(1) {
                Some(part) => {
                    let stat = part.dir.stat_self()?;
                    let record = self.recorded(Target::Name(&part.dir, b"."), &stat)?;
                    Some((stat, record))
                }
                None => None,
            },
            (Real::File(_), Some(Place { parent, name })) => {
                self.file_below(parent.parts()?.parts.get(1..).unwrap_or_default(), &name)?
            }
            (Real::File(_), None) => None,
        };
        Ok(Some(self.renewed(record, stat, below)))
    }

    /// The same of a file that was found in the first of `parts`, the others of which lie below.
    pub(super) fn record_of_found(
        &self,
        name: &[u8],
        stat: &Stat,
        parts: &[Arc<Part>],
    ) -> SysResult<Option<OverrideStat>> {
        let Some((part, below)) = parts.split_first() else { return Ok(None) };
        let Some(record) = self.recorded(Target::Name(&part.dir, name), stat)? else {
            return Ok(None);
        };
        if part.layer != 0 {
            return Ok(Some(record));
        }
        Ok(Some(self.renewed(record, stat, self.file_below(below, name)?)))
    }

    fn renewed(
        &self,
        record: OverrideStat,
        stat: &Stat,
        below: Option<(Stat, Option<OverrideStat>)>,
    ) -> OverrideStat {
        let Some((before, Some(below))) = below else { return record };
        record.renewed(OnDisk::of(stat), (&below, OnDisk::of(&before)), self.ids.as_ref())
    }

    /// The file that one of the name hides.
    fn file_below(
        &self,
        parts: &[Arc<Part>],
        name: &[u8],
    ) -> SysResult<Option<(Stat, Option<OverrideStat>)>> {
        for part in parts {
            let Some(stat) = part.dir.stat_if_exists(name)? else { continue };
            if whiteout::is_whiteout(&stat) || type_of(&stat) == FileType::Directory {
                return Ok(None);
            }
            let record = self.recorded(Target::Name(&part.dir, name), &stat)?;
            return Ok(Some((stat, record)));
        }
        Ok(None)
    }
}
