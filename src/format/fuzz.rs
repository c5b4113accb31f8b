//! What fuzzing tries here: names and the values of marks.

use super::opaque::Opaque;
use super::override_stat::OverrideStat;
use super::redirect::{self, Redirect};
use super::whiteout::{EntryName, PREFIX};
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::percent;

/// Names in changesets, paths, and paths as text.
pub(crate) fn names(data: &[u8]) {
    if !data.contains(&b'/') {
        entry_name(data);
    }
    let text = percent::encode(data, percent::is_printable);
    assert_eq!(percent::decode(&text).as_deref(), Some(data));
    if let Ok(given) = std::str::from_utf8(data)
        && let Some(bytes) = percent::decode(given)
    {
        assert_eq!(percent::encode(&bytes, |_| false).len(), 3 * bytes.len());
        // Each byte stands for itself, or its digits do.
        let escapes = given.bytes().filter(|&byte| byte == b'%').count();
        assert_eq!(bytes.len() + 2 * escapes, given.len());
        assert!(
            given
                .split('%')
                .skip(1)
                .all(|part| { part.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()) })
        );
    }
    let Ok(path) = LayerPath::parse(data) else { return };
    let sound = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    assert!(path.components().all(sound), "{path}");
    assert_eq!(LayerPath::parse(path.as_bytes()).ok().as_ref(), Some(&path));
    let record = serde_json::to_string(&path).unwrap_or_default();
    assert_eq!(serde_json::from_str::<LayerPath>(&record).ok().as_ref(), Some(&path));
    if let Some((parent, name)) = path.split() {
        assert_eq!(parent.join(name), path);
        assert_eq!(path.below(&parent).map(|rest| parent.join_path(&rest)), Some(path.clone()));
        assert!(path.starts_with(&parent) && !parent.starts_with(&path));
        assert_eq!(path.file_name(), Some(name));
    }
}

fn entry_name(name: &[u8]) {
    match EntryName::parse(name) {
        Ok(EntryName::Plain(plain)) => assert!(plain == name && !name.starts_with(PREFIX)),
        Ok(EntryName::Whiteout(gone)) => {
            assert_eq!(EntryName::whiteout_of(gone), name);
            assert!(!matches!(gone, b"" | b"." | b".."));
        }
        Ok(EntryName::Opaque | EntryName::Bookkeeping) => assert!(name.starts_with(b".wh..wh.")),
        Err(_) => assert!([&b".wh."[..], b".wh..", b".wh..."].contains(&name)),
    }
}

/// Values of marks, and names of attributes.
pub(crate) fn marks(data: &[u8]) {
    if let Some(stat) = OverrideStat::decode(data) {
        assert!(stat.mode <= 0o7777);
        assert_eq!(OverrideStat::decode(&stat.encode()), Some(stat));
    }
    match redirect::parse(data) {
        Some(Redirect::Sibling(name)) => {
            assert!(name == data && !name.contains(&b'/') && name != b"." && name != b"..");
        }
        Some(Redirect::FromRoot(path)) => {
            assert_eq!([b"/", path.as_bytes()].concat(), data);
            assert!(!path.is_root());
        }
        None => {}
    }
    assert_eq!(Opaque::parse(Some(data)) == Opaque::Yes, data == b"y");
    for namespace in [Namespace::User, Namespace::Trusted] {
        // What a container names never becomes a mark, and is shown to it as it was.
        let stored = namespace.escape(data);
        assert_eq!(namespace.unescape(&stored).as_deref(), Some(data));
        if let Some(shown) = namespace.unescape(data) {
            assert_eq!(namespace.escape(&shown), data);
        }
    }
}
