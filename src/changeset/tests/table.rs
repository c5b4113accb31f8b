//! What is told and written of an upper over layers: a line of data each.

use super::*;

struct Case {
    what: &'static str,
    /// Topmost first.
    below: &'static [&'static [&'static str]],
    upper: &'static [&'static str],
    changes: &'static str,
    written: &'static str,
}

const fn case(
    what: &'static str,
    below: &'static [&'static [&'static str]],
    upper: &'static [&'static str],
    changes: &'static str,
    written: &'static str,
) -> Case {
    Case { what, below, upper, changes, written }
}

const CASES: &[Case] = &[
    case("nothing", &[&["a=1"]], &[], "", ""),
    case("over no layer at all", &[], &["d/", "d/a=1"], "A/d A/d/a", "d/ d/a=1"),
    case("added and modified", &[&["a=1"]], &["a=2", "b=3"], "C/a A/b", "a=2 b=3"),
    case(
        "names are sorted in each directory",
        &[],
        &["a/", "a/x=1", "a-b=1", "a.b=1"],
        "A/a A/a-b A/a.b A/a/x",
        "a/ a/x=1 a-b=1 a.b=1",
    ),
    case("deleted", &[&["a=1", "d/", "d/b=1"]], &["a!", "d!"], "D/a D/d", ".wh.a .wh.d"),
    case("a whiteout of nothing", &[&["b=1"]], &["a!"], "", ""),
    case("a whiteout of what a layer deleted", &[&["a!"], &["a=1"]], &["a!"], "", ""),
    case("a whiteout in a new directory", &[&["b=1"]], &["d/", "d/x!"], "A/d", "d/"),
    case(
        "a whiteout in a copied-up directory",
        &[&[], &["d/", "d/x=1", "d/y=1"]],
        &["d/", "d/x!"],
        "C/d D/d/x",
        "d/ d/.wh.x",
    ),
    case(
        "e62 an xattr whiteout, whether its directory says so or not",
        &[&["d/", "d/x=1", "e/", "e/x=1"]],
        &["d/", "d ^opaque:x", "d/x?", "e/", "e/x?"],
        "C/d D/d/x C/e D/e/x",
        "d/ d/.wh.x e/ e/.wh.x",
    ),
    case(
        "e63 a directory deleted and made again",
        &[&["d/", "d/x=1", "d/y/", "d/y/z=1"]],
        &["d/", "d ^opaque:y", "d/a=1", "d/x=2"],
        "C/d A/d/a C/d/x D/d/y",
        "d/ d/.wh..wh..opq d/a=1 d/x=2",
    ),
    case(
        "e70 an opaque directory over nothing",
        &[&["a=1"]],
        &["d/", "d ^opaque:y", "d/a=1"],
        "A/d A/d/a",
        "d/ d/a=1",
    ),
    case(
        "an opaque directory over a file",
        &[&["d=1"]],
        &["d/", "d ^opaque:y", "d/a=1"],
        "C/d A/d/a",
        "d/ d/a=1",
    ),
    case(
        "directories in an opaque one",
        &[&["d/", "d/e/", "d/e/x=1", "d/e/y=1"]],
        &["d/", "d ^opaque:y", "d/e/", "d/e ^opaque:y", "d/e/x=2", "d/e/y!"],
        "C/d C/d/e C/d/e/x D/d/e/y",
        "d/ d/.wh..wh..opq d/e/ d/e/x=2",
    ),
    case("the root's mark says nothing", &[&["a=1"]], &["b=1"], "A/b", "b=1"),
    case(
        "a file over a directory, and the other way round",
        &[&["d/", "d/x=1", "f=1"]],
        &["d=1", "f/", "f/x=1"],
        "C/d C/f A/f/x",
        "d=1 f/ f/x=1",
    ),
    case(
        "e69 hard links in the upper, and to a lower file",
        &[&["l=1", "m~l"]],
        &["b/", "b/z=1", "a~b/z", "l=1"],
        "A/a A/b A/b/z C/l",
        "a=1 b/ b/z~a l=1",
    ),
    case(
        "symlinks and FIFOs, hard links of them",
        &[],
        &["p|", "q~p", "s@p", "t~s"],
        "A/p A/q A/s A/t",
        "p| q~p s@p t~s",
    ),
    case(
        "e61 a directory that was moved",
        &[&["old/", "old/x=1", "old/d/", "old/d/y=1", "p/"]],
        &["old!", "p/", "p/new/", "p/new ^redirect:/old", "p/new/x!", "p/new/z=2"],
        "D/old C/p A/p/new A/p/new/d A/p/new/d/y A/p/new/z",
        ".wh.old p/ p/new/ p/new/d/ p/new/d/y=1 p/new/z=2",
    ),
    case(
        "e61 a directory that was moved over another",
        &[&["old/", "old/x=1"], &["new/", "new/a=1", "new/x=1"]],
        &["new/", "new ^redirect:old", "old!"],
        "C/new D/new/a C/new/x D/old",
        "new/ new/.wh..wh..opq new/x=1 .wh.old",
    ),
    case(
        "e61 a moved directory in one that is new",
        &[&["old/", "old/x=1"]],
        &["n/", "n ^opaque:y", "n/m/", "n/m ^redirect:/old", "old!"],
        "A/n A/n/m A/n/m/x D/old",
        "n/ n/m/ n/m/x=1 .wh.old",
    ),
    case(
        "e61 moved twice: inside what was moved",
        &[&["a/", "a/b/", "a/b/x=1", "a/c=1"]],
        &["a!", "n/", "n ^redirect:a", "n/b!", "n/m/", "n/m ^redirect:/a/b"],
        "D/a A/n A/n/c A/n/m A/n/m/x",
        ".wh.a n/ n/c=1 n/m/ n/m/x=1",
    ),
    case(
        "e61 a file whose data lies below, also under another name",
        &[&["f=text", "d/", "d/g=more"]],
        &["f=0000", "f ^metacopy:", "h=1111", "h ^metacopy:", "h ^redirect:/d/g"],
        "C/f A/h",
        "f=text h=more",
    ),
    case(
        "e60 overlay's own attributes go, the container's stay",
        &[],
        &["f=1", "f ^origin:", "f ^overlay.opaque:y"],
        "A/f",
        "f=1",
    ),
];

#[test]
fn what_is_told_and_written() {
    for case in CASES {
        let temporary = tempfile::tempdir().unwrap();
        let below = layers(temporary.path(), case.below, Redirects::Follow);
        let upper = make(temporary.path(), "upper", case.upper);
        assert_eq!(changes(&upper, &below, View::Kernel), case.changes, "told: {}", case.what);
        let options = DiffOptions { root: RootEntry::Never, ..Default::default() };
        assert_eq!(
            listing(&packed(&upper, &below, &options)),
            case.written,
            "written: {}",
            case.what
        );
    }
}

#[test]
fn e64_what_equals_the_layer_below_is_pruned() {
    let temporary = tempfile::tempdir().unwrap();
    let lines = ["d/", "d/same=1", "d/other=1", "e/", "e/x=1", "t=1", "s@a", "l=1", "m~l"];
    let below = layers(temporary.path(), &[&lines], Redirects::Refuse);
    let mut lines = lines;
    lines[2] = "d/other=2";
    let upper = make(temporary.path(), "upper", &[&lines[..], &["e ^opaque:y"]].concat());
    let same_times = |path: &str, seconds| {
        for dir in [&upper, &below.root().parts[0].dir] {
            let (parent, name) = at(dir, path);
            let time = crate::inode::Timestamp::from_seconds(seconds);
            parent.set_times(&name, time, time).unwrap();
        }
    };
    for path in ["d", "d/same", "d/other", "e", "e/x", "s", "l"] {
        same_times(path, 1000);
    }
    let later = crate::inode::Timestamp::from_seconds(2000);
    upper.set_times(b"t", later, later).unwrap();
    assert_eq!(changes(&upper, &below, View::Pruned), "C/d/other C/e C/l C/m C/t");
    let options = DiffOptions { view: View::Pruned, root: RootEntry::Never, ..Default::default() };
    // What an opaque directory holds must stay in the changeset.
    assert_eq!(
        listing(&packed(&upper, &below, &options)),
        "d/other=2 e/ e/.wh..wh..opq e/x=1 l=1 m~l t=1"
    );
}

#[test]
fn redirects_and_lost_data_are_errors_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    let below = layers(temporary.path(), &[&["old/", "f=text"]], Redirects::Refuse);
    let upper = make(temporary.path(), "moved", &["new/", "new ^redirect:old"]);
    let told = compare(&upper, &below, View::Kernel, "test", &Watch::new()).unwrap_err();
    assert!(told.to_string().starts_with("follow the mark of /new: "), "{told}");
    let upper = make(temporary.path(), "meta", &["f=0000", "f ^metacopy:"]);
    let pack = |below: &Stack| {
        write_diff(&upper, below, &mut std::io::sink(), &Default::default(), "t", &Watch::new())
            .unwrap_err()
            .to_string()
    };
    assert!(pack(&below).starts_with("follow the mark of /f: "));
    let none = Stack::new(Vec::new(), Namespace::User, Redirects::Follow);
    assert!(pack(&none).starts_with("follow the mark of /f: "));
}

#[test]
fn e68_names_of_marks_are_refused_and_sockets_counted() {
    let temporary = tempfile::tempdir().unwrap();
    let below = Stack::new(Vec::new(), Namespace::User, Redirects::Refuse);
    for (index, line) in [".wh.x=1", ".wh.d/", ".wh.gone?"].iter().enumerate() {
        let lower = layers(&make_root(&temporary, index), &[&[".wh.gone=1"]], Redirects::Refuse);
        let upper = make(temporary.path(), &format!("u{index}"), &[line]);
        let mut out = Vec::new();
        let error = write_diff(&upper, &lower, &mut out, &Default::default(), "t", &Watch::new())
            .unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::InvalidInput, "{line}");
        assert!(error.to_string().contains("/.wh."), "{error}");
    }
    let upper = make(temporary.path(), "sockets", &["a=1"]);
    upper.make_node(b"s", FileType::Socket, 0o644, Device::ZERO).unwrap();
    let mut out = Vec::new();
    let summary =
        write_diff(&upper, &below, &mut out, &Default::default(), "t", &Watch::new()).unwrap();
    assert_eq!((summary.sockets, listing(&out).contains('s')), (1, false));
}

fn make_root(temporary: &tempfile::TempDir, index: usize) -> std::path::PathBuf {
    let path = temporary.path().join(format!("lower{index}"));
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn a_stack_is_exported_flat() {
    let temporary = tempfile::tempdir().unwrap();
    let stack = layers(
        temporary.path(),
        &[
            &["d/", "d/x!", "d/new=1", "gone!", "o/", "o ^opaque:y", "m/", "m ^redirect:old"],
            &["d/", "d/x=1", "d/y=2", "z~d/y", "gone/", "o/", "o/hidden=1"],
            &["d/", "d/x=3", "old/", "old/q=4", "s@t", "ghost?"],
        ],
        Redirects::Follow,
    );
    let mut out = Vec::new();
    let options = DiffOptions { root: RootEntry::Always, ..Default::default() };
    export(&stack, &mut out, &options, "test", &Watch::new()).unwrap();
    assert_eq!(listing(&out), "./ d/ d/new=1 d/y=2 m/ m/q=4 o/ old/ old/q=4 s@t z~d/y");
}
