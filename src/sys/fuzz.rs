//! What fuzzing tries here: the files of the system.

use super::mountinfo;
use super::subid::{granted, login_name, map_of};
use crate::id_map::IdMap;

/// A table of mounts, the files of users and subordinate ids, a map of ids.
pub(crate) fn system_files(data: &[u8]) {
    mountinfo::fuzz(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let current = IdMap::identity();
    for uid in [0, 1000, u32::MAX] {
        let login = login_name(text, uid);
        let runs = granted(text, uid, login);
        if let Some(map) = map_of(uid, &runs, &current) {
            holds(&map);
            assert_eq!(map.to_outside(0), Some(uid));
            for id in [0, 1, 2, 65536, u32::MAX] {
                let Some(outside) = map.to_outside(id) else { continue };
                let is_granted = |&(start, count): &(u32, u32)| {
                    (u64::from(start)..u64::from(start) + u64::from(count))
                        .contains(&u64::from(outside))
                };
                assert!(id == 0 || runs.iter().any(is_granted), "{id} {outside}");
            }
        }
    }
    if let Ok(map) = text.parse::<IdMap>() {
        holds(&map);
    }
}

/// A map is the same in both directions, and as text.
fn holds(map: &IdMap) {
    assert_eq!(map.to_string().parse::<IdMap>().ok().as_ref(), Some(map));
    for range in map.ranges() {
        for id in [range.inside, range.inside + (range.count - 1)] {
            let outside = map.to_outside(id);
            assert_eq!(outside.and_then(|outside| map.to_inside(outside)), Some(id));
        }
        assert_eq!(map.to_outside(range.inside), Some(range.outside));
    }
}
