//! What fuzzing tries here: the plan, and the options as text.
#![allow(clippy::unwrap_used, reason = "compiled for tests and fuzzing alone")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::classic::fuzz_options;
use super::plan::Kind;
use super::{Layer, MAX_LAYERS, MountAccess, MountOptions, Parts, Restrictions, Syncing, Upper};
use super::{Way, plan};
use crate::fuzz_bed::{Input, Scratch};
use crate::namespace::Namespace;
use crate::sys::Dir;

/// Any parts and options, and layers with any names.
pub(crate) fn options(data: &[u8]) {
    let mut input = Input::new(data);
    let parts = Parts {
        layers: input.below(3) * 250 + input.below(4),
        upper: input.flag(),
        namespace: input.pick(&[Namespace::User, Namespace::Trusted]),
    };
    let options = MountOptions {
        access: input.pick(&[MountAccess::ReadWrite, MountAccess::ReadOnly]),
        syncing: input.pick(&[Syncing::Normal, Syncing::Volatile]),
        restrict: Restrictions { nodev: input.flag(), nosuid: input.flag(), noexec: false },
        way: Way::Best,
    };
    let right = (1..=MAX_LAYERS).contains(&parts.layers)
        && (parts.upper || options.access == MountAccess::ReadOnly);
    let planned = plan(parts, &options);
    assert_eq!(planned.is_ok(), right, "{parts:?}");
    let Ok(planned) = planned else { return };
    match &planned.kind {
        Kind::Bind => assert!(parts.layers == 1 && !parts.upper),
        Kind::Overlay { upper, list } => {
            assert_eq!(*upper, parts.upper);
            let volatile = list.contains(&("volatile", None));
            assert_eq!(volatile, parts.upper && options.syncing == Syncing::Volatile);
            assert!(!list.contains(&("redirect_dir", Some("on"))));
            text(&mut input, list);
        }
    }
}

/// The text names each directory so that the kernel finds it, and says nothing else.
fn text(input: &mut Input<'_>, list: &[(&'static str, Option<&'static str>)]) {
    let scratch = Scratch::new();
    let mut paths: Vec<PathBuf> = Vec::new();
    while !input.is_empty() && paths.len() < 5 {
        let name = input.run();
        let path = scratch.path().join(OsStr::from_bytes(name));
        let single = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
        if single && name.len() < 200 && std::fs::create_dir(&path).is_ok() {
            paths.push(path);
        }
    }
    let dirs: Vec<Dir> = paths.iter().map(|path| Dir::open_ambient(path).unwrap()).collect();
    let all: Vec<Layer<'_>> =
        dirs.iter().zip(&paths).map(|(dir, path)| Layer { dir, path }).collect();
    let [upper, work, layers @ ..] = all.as_slice() else { return };
    let upper = Upper { upper: *upper, work: *work };
    for text in fuzz_options(layers, Some(upper), list) {
        // As the kernel splits it, nothing being escaped.
        assert!(!text.contains(&b'\\') && !text.contains(&b'"'));
        let mut words = text.split(|&byte| byte == b',');
        let lower = words.next().and_then(|word| word.strip_prefix(b"lowerdir=")).unwrap();
        let named: Vec<&[u8]> = match lower {
            b"" => Vec::new(),
            some => some.split(|&byte| byte == b':').collect(),
        };
        assert_eq!(named.len(), layers.len());
        for (name, layer) in named.iter().zip(layers) {
            leads_to(name, layer);
        }
        for (key, layer) in [("upperdir=", upper.upper), ("workdir=", upper.work)] {
            let word = words.next().and_then(|word| word.strip_prefix(key.as_bytes()));
            leads_to(word.unwrap(), &layer);
        }
        assert_eq!(words.count(), list.len());
    }
}

/// Either the layer's own path, or the number of its descriptor.
fn leads_to(name: &[u8], layer: &Layer<'_>) {
    use std::os::fd::{AsFd, AsRawFd};
    let number = layer.dir.as_fd().as_raw_fd().to_string();
    assert!(name == layer.path.as_os_str().as_bytes() || name == number.as_bytes());
}
