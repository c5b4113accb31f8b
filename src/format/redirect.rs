//! The `redirect` mark: the name under which the layers below know a directory.

use crate::layer_path::LayerPath;

/// Where the search goes on in the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// Another name in the same parent.
    Sibling(Vec<u8>),
    /// A path from the root of each layer.
    FromRoot(LayerPath),
}

/// Reads a mark's value; `None` where the kernel would refuse it.
pub(crate) fn parse(value: &[u8]) -> Option<Redirect> {
    if value.is_empty() || value.contains(&0) {
        return None;
    }
    match value.strip_prefix(b"/") {
        None if value.contains(&b'/') || value == b"." || value == b".." => None,
        None => Some(Redirect::Sibling(value.to_vec())),
        Some(path) => {
            // Each component must name something: no empty ones, no way up.
            let sound =
                path.split(|&byte| byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
            if !sound {
                return None;
            }
            LayerPath::parse(path).ok().map(Redirect::FromRoot)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(parse(b"old"), Some(Redirect::Sibling(b"old".to_vec())));
        let path = LayerPath::parse(b"a/b").unwrap();
        assert_eq!(parse(b"/a/b"), Some(Redirect::FromRoot(path)));
        for bad in [&b""[..], b"a/b", b"/", b"//a", b"/a/../b", b".", b"..", b"/a/", b"a\0"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
