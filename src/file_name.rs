//! Names that people give, as names of files.

use crate::digest::Digest;
use crate::percent;

/// The longest file name made of a name: 255 less what a temporary name adds.
const LONGEST: usize = 240;

/// A name of any characters as a file name: what is not of `[A-Za-z0-9_.:@+-]` is written `%XX`, and
/// so is a leading dot. One that becomes too long for a file keeps its start, and its sha256 tells
/// it apart.
pub(crate) fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:@+-".contains(&byte);
    let mut encoded = percent::encode(name.as_bytes(), plain);
    if encoded.starts_with('.') {
        encoded.replace_range(..1, "%2E");
    }
    if encoded.len() <= LONGEST {
        return encoded;
    }
    let digits = Digest::of(name.as_bytes()).hex();
    let start = encoded.get(..LONGEST - 1 - digits.len()).unwrap_or_default();
    format!("{start}~{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What [`encode`] wrote, read back; `None` for a shortened name.
    fn decode(encoded: &str) -> Option<String> {
        let mut parts = encoded.split('%');
        let mut bytes = parts.next()?.as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
            bytes.extend_from_slice(part.get(2..)?.as_bytes());
        }
        (!encoded.contains('~')).then_some(())?;
        String::from_utf8(bytes).ok()
    }

    proptest! {
        #[test]
        fn names_survive_as_file_names(name in "\\PC{1,60}|[./~% \n]{1,12}") {
            let encoded = encode(&name);
            prop_assert!(encoded.len() <= LONGEST && !encoded.starts_with('.'));
            prop_assert!(!encoded.contains('/') && !encoded.contains('\0'));
            if !encoded.contains('~') {
                prop_assert_eq!(decode(&encoded).unwrap(), name);
            }
        }
    }

    #[test]
    fn long_names_stay_apart() {
        let long = |end: &str| encode(&format!("{}{end}", "registry/".repeat(100)));
        assert!(long("a").len() <= LONGEST && long("a") != long("b"));
        assert_eq!(encode("alpine:3.18"), "alpine:3.18");
        assert_eq!(encode("../a/b c"), "%2E.%2Fa%2Fb%20c");
    }
}
