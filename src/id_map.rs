//! [`IdMap`]: which user and group ids inside a user namespace are which outside of it.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// A run of ids: `count` ids from `inside` on are those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first id as seen inside the namespace.
    pub inside: u32,
    /// The first id as seen outside.
    pub outside: u32,
    /// How many ids there are.
    pub count: u32,
}

/// The ids of one kind (users or groups) of a user namespace, in both directions.
///
/// ```
/// # use overlay2::IdMap;
/// let map: IdMap = "0 1000 1\n1 100000 65536\n".parse()?;
/// assert_eq!(map.to_outside(33), Some(100032));
/// assert_eq!(map.to_inside(1000), Some(0));
/// assert_eq!(map.to_outside(70000), None);
/// # Ok::<(), overlay2::Error>(())
/// ```
///
/// The text form is the kernel's own of `/proc/PID/uid_map` (user_namespaces(7)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdMap(Vec<IdRange>);

impl IdMap {
    /// The map in which every id is itself.
    pub fn identity() -> Self {
        Self(vec![IdRange { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// Takes ranges, which must not overlap on either side.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where two ranges overlap, or one is empty or runs past 2^32 - 1.
    pub fn new(ranges: impl IntoIterator<Item = IdRange>) -> Result<Self> {
        let ranges: Vec<IdRange> = ranges.into_iter().collect();
        for (index, range) in ranges.iter().enumerate() {
            let ends = |start: u32| start.checked_add(range.count);
            if range.count == 0 || ends(range.inside).is_none() || ends(range.outside).is_none() {
                return Err(invalid(format!("id range {range} is empty or too long")));
            }
            if let Some(other) = ranges.iter().take(index).find(|other| other.overlaps(range)) {
                return Err(invalid(format!("id ranges {other} and {range} overlap")));
            }
        }
        Ok(Self(ranges))
    }

    /// Whether each id that there is, is itself.
    pub fn is_identity(&self) -> bool {
        self.0.iter().all(|range| range.inside == range.outside)
    }

    /// The ranges, in the order they were given.
    pub fn ranges(&self) -> &[IdRange] {
        &self.0
    }

    /// How many ids there are inside.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.count)).sum()
    }

    /// The id outside that `id` inside stands for; `None` where it is not mapped.
    pub fn to_outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| shift(id, range.inside, range.outside, range.count))
    }

    /// The id inside that `id` outside shows as; `None` where it is not mapped.
    pub fn to_inside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| shift(id, range.outside, range.inside, range.count))
    }
}

fn shift(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let offset = id.checked_sub(from)?;
    if offset < count { to.checked_add(offset) } else { None }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

impl IdRange {
    fn overlaps(&self, other: &IdRange) -> bool {
        let meet = |a: u32, b: u32| {
            let (a, b) = (u64::from(a), u64::from(b));
            a < b + u64::from(other.count) && b < a + u64::from(self.count)
        };
        meet(self.inside, other.inside) || meet(self.outside, other.outside)
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// How owners on disk are seen from inside a user namespace that its user has: his own ids as 0, his
/// subordinate ids behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uids: IdMap,
    pub(crate) gids: IdMap,
}

impl Ids {
    /// The owner inside; an id that is not mapped stays what it is.
    pub(crate) fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        (self.uids.to_inside(uid).unwrap_or(uid), self.gids.to_inside(gid).unwrap_or(gid))
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|range| writeln!(f, "{range}"))
    }
}

impl std::str::FromStr for IdMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut ranges = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let fields: Vec<u32> = line
                .split_ascii_whitespace()
                .map(|field| field.parse())
                .collect::<Result<_, _>>()
                .map_err(|_| invalid(format!("{line:?} is no id range")))?;
            let &[inside, outside, count] = fields.as_slice() else {
                return Err(invalid(format!("{line:?} is no id range: expected three numbers")));
            };
            ranges.push(IdRange { inside, outside, count });
        }
        Self::new(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_the_kernels() {
        let map: IdMap = "         0          0 4294967295\n".parse().unwrap();
        assert_eq!(map, IdMap::identity());
        assert_eq!(map.to_inside(4294967294), Some(4294967294));
    }

    #[test]
    fn both_directions_agree() {
        let map: IdMap = "0 1000 1\n1 100000 65536".parse().unwrap();
        for inside in [0, 1, 33, 65536] {
            assert_eq!(map.to_inside(map.to_outside(inside).unwrap()), Some(inside));
        }
        assert_eq!((map.to_outside(65537), map.to_inside(0), map.count()), (None, None, 65537));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["0 0", "0 0 0", "a b c", "0 0 2\n1 5 1", "0 0 2\n7 1 1", "1 1 4294967295"] {
            assert!(bad.parse::<IdMap>().is_err(), "{bad}");
        }
    }
}
