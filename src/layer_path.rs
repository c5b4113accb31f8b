//! [`LayerPath`]: a relative path of bytes that cannot leave its layer.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::percent;

/// A path inside a layer: components joined by `/`, none of them empty, `.` or `..`, no NUL.
///
/// The empty path is the layer's root. Names are bytes and need not be UTF-8. Sorting is by bytes.
///
/// ```
/// # use overlay2::LayerPath;
/// let path = LayerPath::parse(b"/usr//lib/./x/../libc.so.6")?;
/// assert_eq!(path.as_bytes(), b"usr/lib/libc.so.6");
/// assert!(LayerPath::parse(b"../etc/passwd").is_err());
/// # Ok::<(), overlay2::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerPath(Vec<u8>);

impl LayerPath {
    /// The root of the layer.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Takes a path as an archive or a person writes it: absolute means below the root, and `//`,
    /// `/./`, a trailing slash and inner `..` are resolved as text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where `..` would leave the root, or a name holds a NUL.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.contains(&0) {
            let shown = bytes.shown().into_owned();
            return Err(Error::new(ErrorKind::InvalidInput, format!("path {shown:?} holds a NUL")));
        }
        let mut path = Self(Vec::with_capacity(bytes.len()));
        for component in bytes.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." if path.is_root() => {
                    let shown = bytes.shown().into_owned();
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        format!("path {shown:?} leaves the root"),
                    ));
                }
                b".." => path.pop(),
                name => path.push(name),
            }
        }
        Ok(path)
    }

    /// Whether this is the layer's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path's bytes, without a leading or trailing slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names of the path, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }

    /// The parent directory and the last name; `None` for the root.
    pub fn split(&self) -> Option<(LayerPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|&byte| byte == b'/') {
            None => Some((Self::root(), &self.0)),
            Some(slash) => {
                let (parent, name) = self.0.split_at(slash);
                Some((Self(parent.to_vec()), name.get(1..).unwrap_or_default()))
            }
        }
    }

    /// The last name; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The parent directory; `None` for the root.
    pub fn parent(&self) -> Option<LayerPath> {
        self.split().map(|(parent, _)| parent)
    }

    /// This path with one more name, which must be a single one.
    pub(crate) fn join(&self, name: &[u8]) -> LayerPath {
        let mut path = Self(Vec::with_capacity(self.0.len() + 1 + name.len()));
        path.0.extend_from_slice(&self.0);
        path.push(name);
        path
    }

    /// This path with another one below it.
    pub fn join_path(&self, below: &LayerPath) -> LayerPath {
        if below.is_root() { self.clone() } else { self.join(&below.0) }
    }

    /// The path from the root on, as text from which the bytes can be had again: see
    /// [`escape_bytes`](crate::escape_bytes).
    pub fn escaped(&self) -> String {
        format!("/{}", percent::escape_bytes(&self.0))
    }

    /// Whether this path is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &LayerPath) -> bool {
        ancestor.is_root()
            || self
                .0
                .strip_prefix(ancestor.as_bytes())
                .is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b'/'))
    }

    /// The rest of this path from `ancestor` on; `None` where it does not lie there.
    pub(crate) fn below(&self, ancestor: &LayerPath) -> Option<LayerPath> {
        let rest = self.0.get(ancestor.0.len()..).filter(|_| self.starts_with(ancestor))?;
        Some(Self(rest.strip_prefix(b"/").unwrap_or(rest).to_vec()))
    }

    fn push(&mut self, name: &[u8]) {
        debug_assert!(!name.is_empty() && !name.contains(&0));
        if !self.is_root() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }

    fn pop(&mut self) {
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        self.0.truncate(end);
    }
}

/// Prints the path as it is seen in a container, from `/`; bytes that are no UTF-8 are replaced.
impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// As text, with every byte that is no printable ASCII, and `%` itself, written as `%XX`.
impl Serialize for LayerPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&percent::encode(&self.0, percent::is_printable))
    }
}

impl<'de> Deserialize<'de> for LayerPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = percent::decode(&text)
            .ok_or_else(|| serde::de::Error::custom("a % without two digits"))?;
        Self::parse(&bytes).map_err(serde::de::Error::custom)
    }
}

impl Subject for LayerPath {
    fn shown(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (raw, clean) in [
            ("", ""),
            ("/", ""),
            ("./", ""),
            ("a", "a"),
            ("/a/", "a"),
            ("a//b", "a/b"),
            ("./a/./b", "a/b"),
            ("a/../b", "b"),
            ("a/b/..", "a"),
            ("a/..", ""),
        ] {
            let path = LayerPath::parse(raw.as_bytes()).unwrap();
            assert_eq!(path.as_bytes(), clean.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn what_leaves_the_root_is_refused() {
        for raw in ["..", "../a", "a/../..", "/..", "a/../../b", "a\0b"] {
            assert!(LayerPath::parse(raw.as_bytes()).is_err(), "{raw}");
        }
    }

    #[test]
    fn any_bytes_survive_a_record() {
        let path = LayerPath::parse(b"a%b/\xff\n\"c d").unwrap();
        let text = serde_json::to_string(&path).unwrap();
        assert_eq!(text, "\"a%25b/%FF%0A\\\"c d\"");
        assert_eq!(serde_json::from_str::<LayerPath>(&text).unwrap(), path);
        assert!(serde_json::from_str::<LayerPath>("\"../%2\"").is_err());
    }

    #[test]
    fn parts() {
        let path = LayerPath::parse(b"a/b/c").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.as_bytes(), name), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(LayerPath::parse(b"a").unwrap().split().unwrap().0, LayerPath::root());
        assert!(LayerPath::root().split().is_none());
        assert!(path.starts_with(&parent) && path.starts_with(&path));
        assert!(!LayerPath::parse(b"ab").unwrap().starts_with(&LayerPath::parse(b"a").unwrap()));
        assert_eq!(path.below(&parent).unwrap().as_bytes(), b"c");
        assert_eq!(path.below(&LayerPath::root()).unwrap(), path);
        assert!(path.below(&path).unwrap().is_root() && parent.below(&path).is_none());
        assert_eq!(path.components().count(), 3);
        assert_eq!(LayerPath::root().components().count(), 0);
    }
}
