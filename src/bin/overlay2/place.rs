//! `NAME:PATH`: a path inside a container or an image.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use overlay2::Driver;

use crate::Failure;

/// A path inside a container or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The name or ID of the container or image.
    pub(crate) name: String,
    /// The path as it was typed; `None` where there was none.
    pub(crate) path: Option<PathBuf>,
}

impl Place {
    /// Understands what was typed. Names may hold colons, as `app:1` does, and so may paths: the
    /// longest beginning that is a name counts.
    pub(crate) fn find(driver: &Driver, typed: &OsStr) -> Result<Self, Failure> {
        let mut missing = None;
        for (name, path) in splits(typed.as_bytes()) {
            let Ok(name) = String::from_utf8(name.to_vec()) else { continue };
            if driver.has(&name)? {
                let path = path.map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
                return Ok(Self { name, path });
            }
            missing = Some(name);
        }
        // What is most likely meant is the shortest.
        let name = missing.unwrap_or_else(|| typed.to_string_lossy().into_owned());
        match driver.read_tree(&name) {
            Ok(_) => Ok(Self { name, path: None }),
            Err(error) => Err(error.into()),
        }
    }

    /// The path, that of the root where there was none.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.path {
            Some(path) if !path.as_os_str().is_empty() => path.clone(),
            _ => PathBuf::from("/"),
        }
    }
}

/// All ways to part what was typed, the longest name first.
fn splits(typed: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let colons = (0..typed.len()).rev().filter(|&at| typed.get(at) == Some(&b':'));
    let parts = colons.filter_map(|at| Some((typed.get(..at)?, Some(typed.get(at + 1..)?))));
    std::iter::once((typed, None)).chain(parts).filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_comes_first() {
        let parts: Vec<_> = splits(b"app:1:/a:b")
            .map(|(name, path)| {
                let path = path.map(|path| String::from_utf8_lossy(path).into_owned());
                (String::from_utf8_lossy(name).into_owned(), path)
            })
            .collect();
        let part = |name: &str, path: &str| (name.to_owned(), Some(path.to_owned()));
        assert_eq!(
            parts,
            [
                ("app:1:/a:b".to_owned(), None),
                part("app:1:/a", "b"),
                part("app:1", "/a:b"),
                part("app", "1:/a:b"),
            ]
        );
    }
}
