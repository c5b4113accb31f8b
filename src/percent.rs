//! Bytes as text: those that cannot stand for themselves are written `%XX`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Writes each byte that is not `plain` as `%` and two hexadecimal digits. `%` must not be plain.
pub(crate) fn encode(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// What records keep as it is: printable ASCII but `%`.
pub(crate) fn is_printable(byte: u8) -> bool {
    byte != b'%' && (b' '..=b'~').contains(&byte)
}

/// Bytes as text from which they can be had again: UTF-8 as it is, but `%` as `%25` and each byte
/// that is no UTF-8 as `%XX`. It is how names stand in JSON.
///
/// ```
/// assert_eq!(overlay2::escape_bytes("naïve".as_bytes()), "naïve");
/// assert_eq!(overlay2::escape_bytes(b"100% \xFF"), "100%25 %FF");
/// ```
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        text.push_str(&encode(chunk.invalid(), |_| false));
    }
    text
}

/// A path as it stands in JSON that is shown: see [`escape_bytes`].
pub(crate) fn shown_path<S: serde::Serializer>(
    path: &impl AsRef<Path>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&escape_bytes(path.as_ref().as_os_str().as_bytes()))
}

/// A path that may be missing as it stands in JSON that is shown.
pub(crate) fn shown_path_if_any<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = path.as_ref().map(|path| escape_bytes(path.as_os_str().as_bytes()));
    serde::Serialize::serialize(&text, serializer)
}

/// Reads what [`encode`] wrote; `None` where a `%` has no two hexadecimal digits behind it.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        // A number may have a sign, for the parser.
        let digits = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = encode(&bytes, is_printable);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert_eq!(decode(&text).as_ref(), Some(&bytes));
        assert_eq!(decode(&escape_bytes(&bytes)), Some(bytes));
        for bad in ["%", "%1", "%zz", "a%", "%+1"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
