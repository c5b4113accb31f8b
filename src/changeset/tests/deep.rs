//! Trees that are too deep for the stack, for a path, and for the descriptors that a process has.

use super::*;

/// A scratch directory that can be removed with few descriptors too.
struct Scratch(tempfile::TempDir);

impl Drop for Scratch {
    fn drop(&mut self) {
        let dir = Dir::open_ambient(self.0.path()).unwrap();
        crate::sys::remove::empty_directory(&dir).unwrap();
    }
}

/// A chain of directories named `d` with a file behind each; and of the same in every layer.
fn comb(root: &Path, name: &str, depth: usize, extra: &str) -> Dir {
    let dir = make(root, name, &[]);
    let mut inner = dir.try_clone().unwrap();
    for level in 0..depth {
        inner.make_dir(b"d", 0o755).unwrap();
        if level % 10 == 0 {
            make_line(&inner, extra);
        }
        inner = inner.child(b"d").unwrap();
    }
    dir
}

/// Runs `act` while the process has no more than 64 descriptors.
fn with_few_descriptors(test: &str, act: impl FnOnce()) {
    // The limit is the process's, so other tests must not feel it: the test runs alone in a child.
    if std::env::var("OVERLAY2_FEW_DESCRIPTORS").as_deref() == Ok(test) {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let limit = rustix::process::Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, limit).unwrap();
        return act();
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env("OVERLAY2_FEW_DESCRIPTORS", test)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_deep_tree_needs_neither_stack_nor_descriptors() {
    with_few_descriptors(
        "changeset::tests::deep::a_deep_tree_needs_neither_stack_nor_descriptors",
        || {
            const DEPTH: usize = 10_000;
            let scratch = Scratch(tempfile::tempdir().unwrap());
            let upper = comb(scratch.0.path(), "upper", DEPTH, "x=1");
            let none = Stack::new(Vec::new(), Namespace::User, Redirects::Refuse);
            let options = DiffOptions { root: RootEntry::Never, ..Default::default() };
            let mut sink = std::io::sink();
            let written = write_diff(&upper, &none, &mut sink, &options, "t", &Watch::new());
            assert_eq!(written.unwrap().entries, 11_000);
        },
    );
}

#[test]
fn deep_layers_are_looked_into() {
    with_few_descriptors("changeset::tests::deep::deep_layers_are_looked_into", || {
        const DEPTH: usize = 300;
        let scratch = Scratch(tempfile::tempdir().unwrap());
        let upper = comb(scratch.0.path(), "upper", DEPTH, "x!");
        let lower = [("a", "x=1"), ("b", "x=1"), ("c", "y=1")];
        let lower = lower.map(|(name, extra)| comb(scratch.0.path(), name, DEPTH, extra));
        let lower = Stack::new(lower.into(), Namespace::User, Redirects::Follow);
        let changes = compare(&upper, &lower, View::Kernel, "t", &Watch::new()).unwrap();
        let deleted = changes.iter().filter(|c| c.kind == ChangeKind::Deleted).count();
        assert_eq!((changes.len(), deleted), (330, 30));
        let mut sink = std::io::sink();
        let options = DiffOptions { root: RootEntry::Never, ..Default::default() };
        let summary = write_diff(&upper, &lower, &mut sink, &options, "t", &Watch::new()).unwrap();
        assert_eq!((summary.entries, summary.whiteouts), (330, 30));
        // All of it moved: the whole tree comes from below.
        let moved = make(scratch.0.path(), "moved", &["n/", "n ^redirect:d"]);
        let summary = write_diff(&moved, &lower, &mut sink, &options, "t", &Watch::new()).unwrap();
        assert_eq!(summary.entries, 300 + 29 + 29);
    });
}

#[test]
fn e16_a_deep_changeset_is_applied_and_written_again() {
    let test = "changeset::tests::deep::e16_a_deep_changeset_is_applied_and_written_again";
    with_few_descriptors(test, || {
        const DEPTH: usize = 1_500;
        let mut builder = tar::Builder::new(Vec::new());
        let mut path = Vec::new();
        for level in 0..DEPTH {
            path.extend_from_slice(b"dir/");
            builder.append_pax_extensions([("path", &*path)]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(if level % 2 == 0 { 0o700 } else { 0o750 });
            header.set_mtime(level as u64);
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let scratch = Scratch(tempfile::tempdir().unwrap());
        let (layer, side) = ["layer", "side"].map(|name| make(scratch.0.path(), name, &[])).into();
        let mut options = ApplyOptions::new(Namespace::User);
        options.ownership = Ownership::Recorded;
        options.limits.depth = DEPTH;
        options.side = Some(&side);
        let applied = apply(&*bytes, &layer, &options).unwrap();
        assert_eq!((applied.entries, applied.inodes), (DEPTH as u64, 1 + DEPTH as u64));
        let mut at = layer.try_clone().unwrap();
        for level in 0..DEPTH {
            at = at.child(b"dir").unwrap();
            let stat = at.stat_self().unwrap();
            let mode = if level % 2 == 0 { 0o700 } else { 0o750 };
            assert_eq!((stat.st_mode & 0o777, stat.st_mtime), (mode, level as i64), "{level}");
        }
        let mut again = Vec::new();
        reassemble(&layer, &side, &mut again, "test", Watch::new()).unwrap();
        assert!(again == bytes);
    });
}
