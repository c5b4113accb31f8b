//! POSIX ACLs as text (`SCHILY.acl.*`) into the form in which the kernel takes them.
//!
//! Source: acl(5), "ACL TEXT FORMS"; the layout of `linux/posix_acl_xattr.h`.

/// The attribute of the ACL that is checked on access.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the ACL that new files in a directory inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// Reads entries such as `user::rwx,user:lisa:r-x:1001,group::r--,mask::r-x,other::---`.
///
/// Ids are numeric: in the name's place, or in a fourth field behind it, as star and libarchive
/// write them. `None` where an entry is malformed, or names a user without a number.
pub(super) fn encode(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    // The kernel wants them in this order.
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Some(value)
}

/// The permissions of the mask in an ACL as the kernel has it; `None` where it has no mask.
pub(super) fn mask(value: &[u8]) -> Option<u32> {
    let entries = value.get(4..)?.chunks_exact(8);
    entries.into_iter().find_map(|entry| match entry {
        [0x10, 0, permissions, ..] => Some(u32::from(permissions & 7)),
        _ => None,
    })
}

fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let line = line.strip_prefix("default:").unwrap_or(line);
    let mut fields = line.split(':').map(str::trim);
    let (who, first) = (fields.next()?, fields.next()?);
    // `mask::r-x` and the short `mask:r-x` are both written.
    let (name, permissions) = match (who, fields.next()) {
        ("mask" | "m" | "other" | "o", None) => ("", first),
        (_, permissions) => (first, permissions?),
    };
    let id = match (name, fields.next()) {
        ("", _) => NO_ID,
        (_, Some(number)) => number.parse().ok()?,
        (name, None) => name.parse().ok()?,
    };
    let tag = match (who, id == NO_ID) {
        ("user" | "u", true) => 0x01,
        ("user" | "u", false) => 0x02,
        ("group" | "g", true) => 0x04,
        ("group" | "g", false) => 0x08,
        ("mask" | "m", true) => 0x10,
        ("other" | "o", true) => 0x20,
        _ => return None,
    };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_the_kernels_form() {
        let value =
            encode(b"user::rw-,user:lisa:r-x:1001,group::r--,mask::r-x,other::---").unwrap();
        let tag = |index: usize| value[4 + index * 8];
        assert_eq!(value.len(), 4 + 5 * 8);
        assert_eq!([tag(0), tag(1), tag(2), tag(3), tag(4)], [1, 2, 4, 0x10, 0x20]);
        assert_eq!(value[4 + 8 + 2], 5);
        assert_eq!(value[4 + 8 + 4..4 + 16], 1001_u32.to_le_bytes());
        assert_eq!(encode(b"user:1001:rw-"), encode(b"user:x:rw-:1001"));
        assert_eq!(encode(b"user:lisa:rw-"), None);
        assert_eq!(encode(b"nobody::rw-"), None);
        assert_eq!(mask(&value), Some(5));
        assert_eq!(mask(&encode(b"user::rwx,group::r-x,other::r-x").unwrap()), None);
        assert_eq!(mask(b"\x02\0"), None);
    }
}
