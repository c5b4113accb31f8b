//! Variants against a model: changesets applied in order on one merged tree, in memory.

mod law;
mod model;
mod shown;

use super::*;
use crate::changeset::{ApplyOptions, apply};
use crate::format::lookup::Redirects;
use crate::sys::xattr;
use model::Model;
use shown::{from_kernel, from_stack};
use std::path::{Path, PathBuf};

/// Entries of a changeset, one for each word: see [`model::Line`].
type Changeset = &'static [&'static str];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn ownership() -> Ownership {
    if is_root() { Ownership::Exact } else { Ownership::Recorded }
}

fn options() -> VariantOptions<'static> {
    VariantOptions {
        ownership: ownership(),
        has_replaced: false,
        subject: "layer",
        watch: Watch::new(),
    }
}

/// Layer directories, lowest first, each right on those below it.
struct Built {
    temporary: tempfile::TempDir,
    layers: Vec<PathBuf>,
    /// Which of them are variants.
    variants: Vec<bool>,
}

impl Built {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self { temporary, layers: Vec::new(), variants: Vec::new() }
    }

    fn fresh(&self, name: &str) -> PathBuf {
        let prefix = format!("{}-{name}", self.variants.len());
        tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.temporary).unwrap().keep()
    }

    fn stack(&self) -> Stack {
        let open = |path: &PathBuf| Dir::open_ambient(path).unwrap();
        let layers = self.layers.iter().rev().map(open).collect();
        Stack::new(layers, Namespace::User, Redirects::Refuse)
    }

    fn push(&mut self, changeset: &[&str]) -> Result<()> {
        let path = self.fresh("layer");
        let (dir, assumptions) = unpack(&path, changeset, None)?;
        if changeset.contains(&"f:.wh..wh..opq:") {
            // The kernel does not look at the mark of a root: the stack is cut there.
            self.layers.clear();
        }
        self.push_unpacked(path, (&dir, &assumptions), changeset)
    }

    fn push_unpacked(
        &mut self,
        path: PathBuf,
        (dir, known): (&Dir, &Assumptions),
        changeset: &[&str],
    ) -> Result<()> {
        let below = self.stack();
        let holds = assumptions_hold(dir, known, &below)?;
        let mut variant = self.fresh("variant");
        let mut into = Dir::open_ambient(&variant).unwrap();
        let (mut links, mut again) =
            (LinksBelow::default(), (dir.try_clone().unwrap(), known.clone()));
        while let Some(more) = resolve(&again.0, &again.1, &below, &into, &options())? {
            assert!(!holds, "{changeset:?}: only its order tells");
            links.append(more);
            again = unpack(&self.fresh("again"), changeset, Some(&links))?;
            variant = self.fresh("variant");
            into = Dir::open_ambient(&variant).unwrap();
        }
        if holds {
            // What is right as it is shows the same as the variant.
            let mut with = |path: &Path| {
                self.layers.push(path.to_owned());
                let shown = from_stack(&self.stack());
                self.layers.pop();
                shown
            };
            assert_eq!(with(&path), with(&variant));
        }
        self.layers.push(if holds { path } else { variant });
        self.variants.push(!holds);
        Ok(())
    }
}

fn unpack(
    path: &Path,
    changeset: &[&str],
    links: Option<&LinksBelow>,
) -> Result<(Dir, Assumptions)> {
    let dir = Dir::open_ambient(path).unwrap();
    let mut options = ApplyOptions::new(Namespace::User);
    options.ownership = ownership();
    options.links_below = links;
    let applied = apply(&*model::tar(changeset), &dir, &options)?;
    Ok((dir, applied.assumptions))
}

/// Whether the topmost layer is expected to be a variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Holds,
    Variant,
}
use Expected::{Holds, Variant};

fn check(what: &str, layers: &[Changeset], expected: Expected) {
    let mut built = Built::new();
    let mut model = Model::new();
    for changeset in layers {
        built.push(changeset).unwrap_or_else(|error| panic!("{what}: {error}"));
        model.apply(changeset).unwrap();
    }
    let is_variant = built.variants.last() == Some(&true);
    assert_eq!(is_variant, expected == Variant, "{what}: a variant");
    compare(what, &built, &model);
}

fn compare(what: &str, built: &Built, model: &Model) {
    let model = model.lines();
    let shown = from_stack(&built.stack());
    assert_eq!(shown, model, "{what}: read in userspace (left) and the model (right)");
    match from_kernel(&built.layers, built.temporary.path()) {
        Some(shown) => assert_eq!(shown, model, "{what}: mounted (left) and the model (right)"),
        None => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| eprintln!("SKIP variants as the kernel shows them: not root"));
            assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
        }
    }
}

/// A base with attributes that nobody would guess.
const BASE: Changeset = &[
    "d:tmp:1777:0:5",
    "d:usr:0751:3:100.25",
    "d:usr/lib:0711:4:200.5",
    "f:usr/lib/x:old",
    "f:usr/lib/y:stays",
    "d:usr/lib/sub:0700:9:300",
    "f:usr/lib/sub/z:deep",
    "l:lib:usr/lib",
    "l:abs:/usr/lib",
    "l:up:../../usr/../usr/lib",
    "l:chain:lib/sub",
    "l:dangling:nowhere/at/all",
    "l:loop:loop",
    "f:file:text",
];

#[test]
fn e17_a_parent_without_an_entry() {
    check("attributes from below", &[BASE, &["f:usr/lib/new:n"]], Variant);
    check("several deep", &[BASE, &["f:usr/lib/sub/a/b/new:n", "f:tmp/t:t"]], Variant);
    check("nothing below", &[BASE, &["f:opt/app/new:n"]], Holds);
    check("no layer below", &[&["f:opt/app/new:n"]], Holds);
    check("over a file", &[BASE, &["f:file/new:n"]], Holds);
    check("a whiteout makes no parent", &[BASE, &["f:new/.wh.x:"]], Variant);
    check("nor several", &[BASE, &["f:new/a/b/.wh.x:", "f:new/c/.wh..wh..opq:"]], Variant);
    check("nor over a file", &[BASE, &["f:file/.wh.x:"]], Variant);
    check("nor does an opaque marker", &[BASE, &["f:file/.wh..wh..opq:"]], Variant);
    check("a described one", &[BASE, &["d:usr:0755:0:9", "f:usr/new:n"]], Holds);
    check("equal ones", &[&["f:a/x:1"], &["f:a/y:2"]], Holds);
    check("beneath a described one", &[BASE, &["d:usr:0700:1:2", "f:usr/lib/n:n"]], Variant);
    check("beneath one that replaces a link", &[BASE, &["d:lib:0700:1:2", "f:lib/n/m:n"]], Holds);
    check("its attributes with marks", &[BASE, &["f:usr/lib/.wh.x:", "f:usr/lib/q:q"]], Variant);
}

#[test]
fn e04_whiteouts_where_no_directory_lies_below() {
    check("in a directory of the layer", &[BASE, &["d:new:0700:1:2", "f:new/.wh.x:"]], Variant);
    check("in one that replaces a file", &[BASE, &["d:file:0700:1:2", "f:file/.wh.x:"]], Variant);
    check("in one that replaces a link", &[BASE, &["d:lib:0700:1:2", "f:lib/.wh.x:"]], Variant);
    check("in the root, with nothing below", &[&["f:.wh.x:", "f:a:a"]], Variant);
    check("in the root", &[BASE, &["f:.wh.file:", "f:a:a"]], Holds);
    check("in one that lies below", &[BASE, &["d:usr:0700:1:2", "f:usr/.wh.lib:"]], Holds);
    check("deleted below in between", &[BASE, &["f:.wh.usr:"], &["f:usr/.wh.lib:"]], Variant);
    check(
        "beneath an opaque one",
        &[BASE, &["d:usr:0700:1:2", "f:usr/.wh..wh..opq:", "f:usr/lib/.wh.x:", "f:usr/a:a"]],
        Holds,
    );
    check(
        "in a described one beneath an opaque one",
        &[BASE, &["d:usr:7:1:2", "f:usr/.wh..wh..opq:", "d:usr/lib:7:1:2", "f:usr/lib/.wh.x:"]],
        Holds,
    );
    check("beneath a deleted one", &[BASE, &["f:.wh.usr:", "f:usr/lib/.wh.x:"]], Holds);
    check("beneath one made again", &[BASE, &["f:.wh.usr:", "f:usr/lib/n:n"]], Holds);
    check("opaque root", &[BASE, &["f:.wh..wh..opq:", "f:usr/.wh.lib:", "f:usr/n:n"]], Holds);
}

#[test]
fn e19_a_parent_that_is_a_symlink_below() {
    check("written through", &[BASE, &["f:lib/foo:n"]], Variant);
    check("over what is there", &[BASE, &["f:lib/x:new"]], Variant);
    check("absolute", &[BASE, &["f:abs/foo:n", "d:abs/dir:0700:1:2", "f:abs/dir/f:f"]], Variant);
    check("above the root", &[BASE, &["f:up/foo:n"]], Variant);
    check("a chain", &[BASE, &["f:chain/foo:n", "f:chain/deep/er:n"]], Variant);
    check("whiteouts too", &[BASE, &["f:lib/.wh.x:"]], Variant);
    check("whiteouts of directories", &[BASE, &["f:lib/.wh.sub:", "f:lib/a:a"]], Variant);
    check("made again", &[BASE, &["f:lib/.wh.sub:", "f:lib/sub/n:n"]], Variant);
    check("dangling", &[BASE, &["f:dangling/foo:n"]], Variant);
    check("dangling, only a whiteout", &[BASE, &["f:dangling/.wh.foo:"]], Variant);
    check("replaced by a directory", &[BASE, &["f:lib/foo:n", "d:lib:0755:0:7"]], Holds);
    check("to a directory of the layer", &[BASE, &["d:usr/lib:0700:1:2", "f:lib/n:n"]], Variant);
    check("to a deleted directory", &[BASE, &["f:.wh.usr:", "f:lib/n:n"]], Variant);
    check("to a file", &[BASE, &["l:tofile:file"], &["f:tofile/n:n"]], Variant);
    check("both ways", &[BASE, &["f:lib/n:1", "f:usr/lib/m:2", "f:lib/sub/n:3"]], Variant);
    check("links in links", &[BASE, &["l:usr/lib/tmp:/tmp"], &["f:lib/tmp/n:n"]], Variant);
    check("by a link of the layer", &[BASE, &["l:usr/mine:/lib/sub", "f:usr/mine/n:n"]], Variant);
    check("hard links in it", &[BASE, &["f:lib/a:a", "h:lib/b:lib/a", "h:c:lib/a"]], Variant);
    check("a directory merged", &[BASE, &["f:usr/lib/d/a:1", "f:lib/d/b:2"]], Variant);
    let odd: Changeset = &["l:odd:none/../usr"];
    check("through what is not there", &[BASE, odd, &["f:odd/a/n:n"]], Variant);
    check("a whiteout does not lead there", &[BASE, odd, &["f:odd/.wh.lib:"]], Variant);
    let error = Built::new().try_on(BASE, &["f:loop/x:x"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("/loop"), "{error}");
}

#[test]
fn e23_one_file_by_two_names() {
    check("the link last", &[BASE, &["f:usr/lib/n:1", "f:lib/n:2"]], Variant);
    check("the link first", &[BASE, &["f:lib/n:2", "f:usr/lib/n:1"]], Variant);
    check("by two links", &[BASE, &["f:chain/n:1", "f:lib/sub/n:2", "f:chain/n:3"]], Variant);
    check("of what lies below", &[BASE, &["f:usr/lib/x:1", "f:lib/x:2"]], Variant);
    check("over a whiteout", &[BASE, &["f:usr/lib/.wh.x:", "f:lib/x:2"]], Variant);
    check("before a whiteout", &[BASE, &["f:lib/x:2", "f:usr/lib/.wh.x:"]], Variant);
    check("a directory", &[BASE, &["d:usr/lib/d:0700:1:2", "d:lib/d:0711:3:4"]], Variant);
    check("the other way round", &[BASE, &["d:lib/d:0711:3:4", "d:usr/lib/d:0700:1:2"]], Variant);
    check("then a directory", &[BASE, &["f:usr/lib/sub:1", "d:lib/sub:0700:0:1"]], Variant);
    check(
        "then a file",
        &[BASE, &["d:lib/sub:0700:0:1", "f:lib/sub/n:1", "f:usr/lib/sub:2"]],
        Variant,
    );
    check("implied, then a file", &[BASE, &["f:lib/d/n:1", "f:usr/lib/d:2"]], Variant);
    check(
        "then a symlink",
        &[BASE, &["f:usr/lib/d/n:1", "l:lib/d:/tmp", "f:usr/lib/d/m:2"]],
        Variant,
    );
    check("replaced since", &[BASE, &["f:lib/n:1", "l:usr/lib:/tmp"]], Variant);
    check("replaced before", &[BASE, &["l:usr/lib:/tmp", "f:lib/n:1"]], Variant);
    let error = Built::new().try_on(BASE, &["f:usr/lib/n:1", "f:lib/n/m:2"]).unwrap_err();
    assert!(error.to_string().contains("/usr/lib/n is no directory"), "{error}");
}

#[test]
fn e19_what_was_only_implied_is_replaced() {
    check("by the link again", &[BASE, &["f:lib/n:1", "l:lib:usr/lib"]], Variant);
    check("by another link", &[BASE, &["f:lib/n:1", "l:lib:tmp", "f:lib/m:2"]], Variant);
    check("by a file", &[BASE, &["f:lib/n:1", "f:lib:2"]], Variant);
    check("by a chain", &[BASE, &["f:chain/n:1", "f:chain/sub/m:1", "l:chain:tmp"]], Variant);
    check("deleted below", &[BASE, &["f:.wh.lib:", "f:lib/n:1", "l:lib:tmp"]], Holds);
    check("deleted later", &[BASE, &["f:lib/n:1", "l:lib:tmp", "f:.wh.lib:"]], Holds);
    check("no link below", &[BASE, &["f:usr/n:1", "l:usr:tmp"]], Holds);
    check("a directory in the end", &[BASE, &["f:lib/n:1", "l:lib:tmp", "d:lib:0700:0:1"]], Holds);
    let odd: Changeset = &["d:a:0755:0:1", "l:a/lib:../usr/lib"];
    check("with what it lies in", &[BASE, odd, &["f:a/lib/n:1", "f:a:2"]], Variant);
    check(
        "beneath an opaque one",
        &[BASE, odd, &["f:a/.wh..wh..opq:", "f:a/lib/n:1", "f:a:2"]],
        Holds,
    );
    check("beneath a whiteout", &[BASE, odd, &["f:a/.wh.lib:", "f:a/lib/n:1", "f:a:2"]], Holds);
    let described: Changeset = &["f:a/lib/n:1", "f:a/lib:2", "d:a:0700:0:1", "f:a:3"];
    check("with a directory that an entry describes", &[BASE, odd, described], Variant);
    let described: Changeset = &["f:a/lib/n:1", "f:a/lib:2", "d:a/lib:0700:0:1", "f:a:3"];
    check("that an entry describes", &[BASE, odd, described], Holds);
    check("that is a link, too", &[BASE, odd, &["l:b:a"], &["f:b/lib/n:1", "f:b:2"]], Variant);
}

#[test]
fn e20_an_opaque_marker_in_a_symlink_says_nothing() {
    check("alone", &[BASE, &["f:lib/.wh..wh..opq:"]], Variant);
    check("beside files", &[BASE, &["f:lib/.wh..wh..opq:", "f:lib/n:n"]], Variant);
    check("beside whiteouts", &[BASE, &["f:lib/.wh..wh..opq:", "f:lib/.wh.x:"]], Variant);
    check(
        "whiteouts further down",
        &[BASE, &["f:lib/.wh..wh..opq:", "f:lib/sub/.wh.z:", "f:lib/sub/n:n"]],
        Variant,
    );
    check("in what the symlink leads to", &[BASE, &["f:lib/sub/.wh..wh..opq:"]], Variant);
    check("in a directory", &[BASE, &["f:usr/lib/.wh..wh..opq:", "f:usr/lib/n:n"]], Variant);
    check("in an empty one", &[BASE, &["f:usr/lib/.wh..wh..opq:"]], Variant);
    check(
        "in a directory, with more beneath",
        &[BASE, &["f:usr/.wh..wh..opq:", "f:usr/lib/n:n", "f:usr/lib/.wh.x:"]],
        Variant,
    );
}

#[test]
fn e21_a_hard_link_to_a_file_below() {
    check("plain", &[BASE, &["h:new:usr/lib/x"]], Variant);
    check("twice", &[BASE, &["h:new:usr/lib/x", "h:other:usr/lib/x"]], Variant);
    check("to a link", &[BASE, &["h:a:b", "h:b:usr/lib/x", "h:c:a"]], Variant);
    check("by symlinks", &[BASE, &["h:lib/new:chain/z"]], Variant);
    check("to a symlink", &[BASE, &["h:new:lib"]], Variant);
    check("over a whiteout", &[BASE, &["f:.wh.file:", "h:file:usr/lib/x"]], Variant);
    check("to a symlink with more beneath", &[BASE, &["h:new:lib", "f:lib/n:n"]], Variant);
    check("and the other way round", &[BASE, &["f:lib/n:n", "h:new:lib", "f:lib/.wh.x:"]], Variant);
    check("to a file with marks beneath", &[BASE, &["f:file/.wh.x:", "h:new:file"]], Variant);
    check("into a new directory", &[BASE, &["h:a/b/new:usr/lib/x"]], Variant);
    check("to a file of the layer by a link", &[BASE, &["f:usr/lib/m:m", "h:n:lib/m"]], Variant);
    for (what, changeset, why) in [
        ("missing", &["h:new:usr/lib/none"][..], "not there"),
        ("no parent", &["h:new:no/such/file"], "not there"),
        ("a directory", &["h:new:usr/lib"], "directory"),
        ("an implied directory", &["h:new:none", "f:none/n:n"], "directory"),
        ("one over a file", &["h:new:file", "f:file/n:n"], "directory"),
        ("one over a directory", &["h:new:usr", "f:usr/n:n"], "directory"),
        ("deleted through a link", &["f:lib/.wh.x:", "h:new:usr/lib/x"], "deletes"),
        ("a circle", &["h:one:two", "h:two:one"], "circle"),
    ] {
        let error = Built::new().try_on(BASE, changeset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}");
        let text = error.to_string();
        assert!(text.contains(why), "{what}: {text}");
    }
    // Deleted below: the whiteout is no file to be linked.
    let mut built = Built::new();
    built.push(BASE).unwrap();
    built.push(&["d:usr:0755:0:0", "d:usr/lib:0755:0:0", "f:usr/lib/.wh.x:"]).unwrap();
    let error = built.push(&["h:new:usr/lib/x"]).unwrap_err();
    assert!(error.to_string().contains("/new is a hard link to /usr/lib/x"), "{error}");
}

impl Built {
    fn try_on(mut self, base: &[&str], changeset: &[&str]) -> Result<()> {
        self.push(base)?;
        self.push(changeset)
    }
}

#[test]
fn e19_one_changeset_on_two_stacks() {
    let changeset: Changeset = &["f:lib/foo:n", "f:lib/.wh.x:", "f:tmp/t:t", "h:hard:data"];
    let temporary = tempfile::tempdir().unwrap();
    let (dir, assumptions) = unpack(temporary.path(), changeset, None).unwrap();
    let json = serde_json::to_string(&assumptions).unwrap();
    let assumptions = serde_json::from_str(&json).unwrap();
    let before =
        from_stack(&Stack::new(vec![dir.try_clone().unwrap()], Namespace::User, Redirects::Refuse));
    for (what, base) in [
        ("merged usr", &["d:usr:0755:0:1", "l:lib:usr/lib", "f:usr/lib/x:x", "f:data:1"][..]),
        ("split usr", &["d:lib:0700:2:3", "f:lib/x:x", "d:tmp:1777:0:4", "f:data:2"]),
        ("nothing there", &["l:data:elsewhere"]),
    ] {
        let (mut built, mut model) = (Built::new(), Model::new());
        built.push(base).unwrap();
        model.apply(base).unwrap();
        let known = (&dir, &assumptions);
        built.push_unpacked(temporary.path().to_owned(), known, changeset).unwrap();
        model.apply(changeset).unwrap();
        compare(what, &built, &model);
    }
    let after = Stack::new(vec![dir], Namespace::User, Redirects::Refuse);
    assert_eq!(from_stack(&after), before, "the layer itself is not touched");
}

#[test]
fn e16_a_deep_tree_needs_no_deep_stack() {
    let (depth, implied) = (4_000, 300);
    let temporary = tempfile::tempdir().unwrap();
    let scratch = Dir::open_ambient(temporary.path()).unwrap();
    let chain = |root: &[u8], depth, mode| {
        scratch.make_dir(root, 0o755).unwrap();
        let root = scratch.child(root).unwrap();
        let mut at = root.try_clone().unwrap();
        for _ in 0..depth {
            at.make_dir(b"d", mode).unwrap();
            at = at.child(b"d").unwrap();
        }
        at.make_node(b"gone", FileType::CharacterDevice, 0, crate::inode::Device::ZERO).unwrap();
        root
    };
    let (layer, below) = (chain(b"layer", depth, 0o750), chain(b"below", implied + 5, 0o711));
    let below = Stack::new(vec![below], Namespace::User, Redirects::Refuse);
    let paths = (1..=implied).map(|depth| crate::LayerPath::parse(&b"d/".repeat(depth)).unwrap());
    let assumptions = Assumptions { implied: paths.collect(), ..Assumptions::default() };
    assert!(!assumptions_hold(&layer, &assumptions, &below).unwrap());
    scratch.make_dir(b"variant", 0o755).unwrap();
    let into = scratch.child(b"variant").unwrap();
    resolve(&layer, &assumptions, &below, &into, &options()).unwrap();

    let mut at = into.try_clone().unwrap();
    for level in 1..=depth {
        at = at.child(b"d").unwrap();
        let mode = at.stat_self().unwrap().st_mode & 0o777;
        assert_eq!(mode, if level <= implied { 0o711 } else { 0o750 }, "{level}");
    }
    // A whiteout stood in the last one, below which nothing lies.
    assert!(at.entries().unwrap().is_empty());
    crate::sys::remove::empty_directory(&scratch).unwrap();
}

#[test]
fn a_variant_keeps_all_that_the_layer_has() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let mut built = Built::new();
    built.push(BASE).unwrap();
    let path = built.fresh("layer");
    let changeset = &["f:lib/a:a", "h:lib/b:lib/a", "p:lib/pipe:", "l:lib/link:\u{fc}", "f:s:s"];
    let (dir, assumptions) = unpack(&path, changeset, None).unwrap();
    let sparse = std::fs::OpenOptions::new().write(true).open(path.join("s")).unwrap();
    sparse.write_all_at(b"end", 8 << 20).unwrap();
    for (name, value) in [("user.note", "a\0b"), ("user.overlay.overlay.opaque", "mine")] {
        xattr::set(Target::Name(&dir, b"s"), name.as_bytes(), value.as_bytes()).unwrap();
    }
    let old = crate::inode::Timestamp { seconds: -7, nanos: 123_456_789 };
    dir.set_times(b"s", old, old).unwrap();
    if is_root() {
        dir.chown(b"s", 12, 34).unwrap();
        xattr::set(Target::Name(&dir, b"s"), b"trusted.t", b"").unwrap();
    }
    dir.chmod(b"s", 0o6755).unwrap();
    let variant = built.fresh("variant");
    let into = Dir::open_ambient(&variant).unwrap();
    resolve(&dir, &assumptions, &built.stack(), &into, &options()).unwrap();
    assert_eq!(
        crate::sys::inode_io::from_stat(&into, b"s", &into.stat(b"s").unwrap()).unwrap(),
        crate::sys::inode_io::from_stat(&dir, b"s", &dir.stat(b"s").unwrap()).unwrap()
    );
    let metadata = std::fs::metadata(variant.join("s")).unwrap();
    assert_eq!((metadata.len(), metadata.mtime_nsec()), ((8 << 20) + 3, 123_456_789));
    assert!(metadata.blocks() * 512 < 1 << 20, "holes are kept");
    let [a, b] = ["a", "b"].map(|name| std::fs::metadata(variant.join("usr/lib").join(name)));
    assert_eq!((a.as_ref().unwrap().nlink(), a.unwrap().ino()), (2, b.unwrap().ino()));
    assert!(std::fs::symlink_metadata(variant.join("lib")).is_err());
}

#[test]
fn a_cancelled_copy_ends() {
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let names: Vec<_> = (0..200).map(|i| format!("f:usr/{i}:x")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut built = Built::new();
    built.push(BASE).unwrap();
    let (dir, assumptions) = unpack(&built.fresh("layer"), &names, None).unwrap();
    let into = Dir::open_ambient(built.fresh("variant")).unwrap();
    let options = VariantOptions { watch: Watch::new().cancel(&cancel), ..options() };
    let error = resolve(&dir, &assumptions, &built.stack(), &into, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
