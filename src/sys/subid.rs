//! The id ranges that an administrator grants to a user: `/etc/subuid` and `/etc/subgid`
//! (subuid(5), subgid(5)).

use crate::id_map::{IdMap, IdRange};

/// A run of ids, by its first and their number.
pub(crate) type Granted = (u32, u32);

/// The login name of `uid` in a text of the form of `/etc/passwd`.
pub(crate) fn login_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        (id == uid && !name.is_empty()).then_some(name)
    })
}

/// The ranges that a text of the form of `/etc/subuid` grants to the user, whom a line names by
/// login name or by number. Lines that make no sense are passed over, as newuidmap(1) does.
pub(crate) fn granted(text: &str, uid: u32, login: Option<&str>) -> Vec<Granted> {
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let ours = login == Some(owner) || owner.parse() == Ok(uid);
        (ours && fields.next().is_none()).then_some(range)
    };
    text.lines().filter_map(parse).collect()
}

/// The map in which 0 is `own`, and the ids from 1 on are those granted.
///
/// Ranges that the current namespace (`current`) has not whole are left out, since the kernel
/// would refuse the map; so are those that overlap with one before, or hold `own`. `None` where
/// none remains.
pub(crate) fn map_of(own: u32, granted: &[Granted], current: &IdMap) -> Option<IdMap> {
    let mut map = IdMap::new([IdRange { inside: 0, outside: own, count: 1 }]).ok()?;
    let mut next = 1;
    for &(outside, count) in granted {
        if !is_mapped(current, outside, count) {
            continue;
        }
        let range = IdRange { inside: next, outside, count };
        let longer = map.ranges().iter().copied().chain([range]);
        if let (Ok(longer), Some(end)) = (IdMap::new(longer), next.checked_add(count)) {
            (map, next) = (longer, end);
        }
    }
    (map.ranges().len() > 1).then_some(map)
}

fn is_mapped(current: &IdMap, start: u32, count: u32) -> bool {
    let (start, count) = (u64::from(start), u64::from(count));
    current.ranges().iter().any(|range| {
        let (first, length) = (u64::from(range.inside), u64::from(range.count));
        first <= start && start + count <= first + length
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n::7\nann:x:1000:1000::/:/bin/sh\n";

    #[test]
    fn the_login_name_is_that_of_the_own_id() {
        assert_eq!(login_name(PASSWD, 1000), Some("ann"));
        assert_eq!(login_name(PASSWD, 0), Some("root"));
        assert_eq!(login_name(PASSWD, 1), None);
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text =
            "ann:100000:65536\nbob:1:1\n# ann:5:5\n1000:300000:10\nann:x:3\nann:1:2:3\n10000:9:9";
        assert_eq!(granted(text, 1000, Some("ann")), [(100000, 65536), (300000, 10)]);
        assert_eq!(granted(text, 1000, None), [(300000, 10)]);
        assert!(granted(text, 77, Some("carl")).is_empty());
    }

    #[test]
    fn a_map_holds_only_what_the_kernel_would_take() {
        let show = |granted: &[Granted], current: &IdMap| {
            map_of(1000, granted, current).map(|map| map.to_string())
        };
        let all = IdMap::identity();
        assert_eq!(
            show(&[(100000, 65536), (300000, 10)], &all).as_deref(),
            Some("0 1000 1\n1 100000 65536\n65537 300000 10\n")
        );
        // Empty, again the same, holding the own id, past the last id.
        let odd = [(5, 0), (100000, 2), (100001, 5), (999, 2), (u32::MAX, 1), (7, 3)];
        assert_eq!(show(&odd, &all).as_deref(), Some("0 1000 1\n1 100000 2\n3 7 3\n"));
        // Inside a namespace that has only some of the ids.
        let some: IdMap = "0 1000 1\n1 100000 100".parse().unwrap();
        assert_eq!(show(&[(50, 100), (1, 50)], &some).as_deref(), Some("0 1000 1\n1 1 50\n"));
        assert_eq!(show(&[(100000, 65536)], &some), None);
        assert_eq!(show(&[], &all), None);
    }
}
