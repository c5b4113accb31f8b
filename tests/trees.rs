//! Stacks compared and layers asked where a path comes from, through the driver: what holds for any
//! layers, and the stacks that are special. Needs neither a mount nor privilege.
#![cfg(feature = "image")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may panic"
)]

use overlay2::changeset::{DiffOptions, RootEntry};
use overlay2::{
    Base, ChainId, Driver, DriverOptions, Durability, ErrorKind, HiddenBy, LayerPath, Provenance,
    Watch,
};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

/// What an entry of a layer is.
#[derive(Clone, Debug)]
enum What {
    File(u8),
    Directory(u32),
    Symlink,
    /// One more name of the first file of the layer.
    Link,
    Whiteout,
    Opaque,
}

type Entry = (Vec<u8>, What);

fn layer() -> impl Strategy<Value = Vec<Entry>> {
    let what = prop_oneof![
        5 => (0u8..3).prop_map(What::File),
        4 => prop_oneof![Just(0o755_u32), Just(0o700)].prop_map(What::Directory),
        1 => Just(What::Symlink),
        2 => Just(What::Link),
        3 => Just(What::Whiteout),
        1 => Just(What::Opaque),
    ];
    prop::collection::vec((prop::collection::vec(b'a'..b'd', 1..4), what), 0..10)
}

/// The tar of a layer. An entry that makes no sense behind those before it is left out.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut made: Vec<(String, bool)> = Vec::new();
    let mut first = None;
    for (names, what) in entries {
        let path = names.iter().map(|&name| char::from(name).to_string()).collect::<Vec<_>>();
        let path = path.join("/");
        let blocked = |(other, is_dir): &(String, bool)| {
            *other == path
                || (!is_dir && path.starts_with(&format!("{other}/")))
                || (other.starts_with(&format!("{path}/")))
        };
        if made.iter().any(blocked) {
            continue;
        }
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", &path));
        let beside = |name: &str| {
            if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
        };
        let mut header = Header::new_ustar();
        header.set_mtime(1_600_000_000 + made.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mode(0o644);
        header.set_size(0);
        let mut is_dir = false;
        match (what, &first) {
            (What::File(text), _) => {
                let text = vec![b'0' + text; usize::from(*text)];
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, &path, text.as_slice()).unwrap();
                first.get_or_insert_with(|| path.clone());
            }
            (What::Directory(mode), _) => {
                is_dir = true;
                header.set_entry_type(EntryType::Directory);
                header.set_mode(*mode);
                tar.append_data(&mut header, format!("{path}/"), &b""[..]).unwrap();
            }
            (What::Opaque, _) => {
                is_dir = true;
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                tar.append_data(&mut header, format!("{path}/"), &b""[..]).unwrap();
                let mut header = header.clone();
                header.set_entry_type(EntryType::Regular);
                tar.append_data(&mut header, format!("{path}/.wh..wh..opq"), &b""[..]).unwrap();
            }
            (What::Whiteout, _) => {
                tar.append_data(&mut header, beside(&format!(".wh.{last}")), &b""[..]).unwrap();
            }
            (What::Link, Some(first)) => {
                header.set_entry_type(EntryType::Link);
                tar.append_link(&mut header, &path, first).unwrap();
            }
            (What::Symlink | What::Link, _) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, &path, "target").unwrap();
            }
        }
        made.push((path, is_dir));
    }
    tar.into_inner().unwrap()
}

/// How many cases are tried: `OVERLAY2_CASES`, else few.
fn cases() -> u32 {
    std::env::var("OVERLAY2_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn driver(scratch: &std::path::Path) -> Driver {
    let mut options = DriverOptions::default();
    options.durability = Durability::None;
    Driver::open_with(scratch.join("store"), &options).unwrap()
}

fn stack(driver: &Driver, parent: Option<ChainId>, layers: &[Vec<Entry>]) -> Option<ChainId> {
    layers.iter().fold(parent, |parent, entries| {
        let tar = tar_of(entries);
        match driver.apply(parent.as_ref(), tar.as_slice(), Watch::new()) {
            Ok(applied) => Some(applied.chain_id),
            // By way of links below, a file of it lies where another needs a directory.
            Err(error) if error.kind() == ErrorKind::InvalidData => parent,
            Err(error) => panic!("{error}"),
        }
    })
}

/// A whole tree as a tar, without its root.
fn exported(driver: &Driver, chain: ChainId) -> Vec<u8> {
    let container = driver.create(&Base::Chain(chain), None).unwrap();
    let mut options = DiffOptions::default();
    options.root = RootEntry::Never;
    let mut out = Vec::new();
    driver.export(&container.name, &mut out, &options, Watch::new()).unwrap();
    driver.remove_container(&container.name, Watch::new()).unwrap();
    out
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let name = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.unwrap();
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        format!(
            "{name} {:o} {} {link:?}",
            entry.header().mode().unwrap(),
            entry.header().mtime().unwrap()
        )
    };
    archive.entries().unwrap().map(name).collect()
}

fn check(shared: &[Vec<Entry>], old_layers: &[Vec<Entry>], new_layers: &[Vec<Entry>]) {
    let scratch = tempfile::tempdir().unwrap();
    let driver = driver(scratch.path());
    let base = stack(&driver, None, shared);
    let (Some(old), Some(new)) =
        (stack(&driver, base, old_layers), stack(&driver, base, new_layers))
    else {
        return;
    };
    let mut tar = Vec::new();
    let options = DiffOptions::default();
    let (from, to) = (old.to_string(), new.to_string());
    driver.diff_between(&from, &to, &mut tar, &options, Watch::new()).unwrap();
    let made = driver.apply(Some(&old), tar.as_slice(), Watch::new()).unwrap();
    let (ours, theirs) = (exported(&driver, made.chain_id), exported(&driver, new));
    assert_eq!(names(&ours), names(&theirs), "by {:#?}", names(&tar));
    assert!(ours == theirs, "the trees differ: {:#?}", names(&tar));
    let again = driver.changes_between(&made.chain_id.to_string(), &to, Watch::new()).unwrap();
    // Names of one file count as changed where they come from another layer.
    let mut all = shared.iter().chain(old_layers).chain(new_layers).flatten();
    assert!(again.is_empty() || all.any(|(_, what)| matches!(what, What::Link)), "{again:?}");

    // Whoever supplies a path that shows, says so; nobody supplies what does not show.
    for name in ["a", "b", "c", "a/a", "a/b", "b/a", "c/c", "a/b/c"] {
        let told = which(&driver, new, name);
        let suppliers = told.layers.iter().filter(|says| says.supplies).count();
        assert_eq!(told.shows, suppliers > 0, "{told:?}");
        let read = driver.read_tree(&to).unwrap();
        let around = name.rsplit_once('/').map_or("", |(around, _)| around);
        let straight = read.tree().canonicalize(format!("/{around}"));
        // Behind a symlink it is another path that shows.
        let straight = straight.is_ok_and(|real| real == std::path::Path::new("/").join(around));
        let shows = straight && read.tree().symlink_metadata(name).is_ok();
        assert_eq!(told.shows, shows, "{name}: {told:?}");
        // Each copy shows, or is hidden by exactly one layer.
        for says in told.layers.iter().filter(|says| says.kind.is_some()) {
            let position = says.layer.position;
            let hiders = told.layers.iter().filter(|other| {
                other.hides.as_ref().is_some_and(|hides| hides.positions.contains(&position))
            });
            assert_eq!(hiders.count(), usize::from(!says.supplies), "{name}: {told:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn a_stack_with_the_difference_on_top_is_the_other_stack(
        shared in prop::collection::vec(layer(), 0..3),
        old in prop::collection::vec(layer(), 0..3),
        new in prop::collection::vec(layer(), 0..3),
    ) {
        check(&shared, &old, &new);
    }
}

fn which(driver: &Driver, chain: ChainId, path: &str) -> Provenance {
    driver.which(&chain.to_string(), &LayerPath::parse(path.as_bytes()).unwrap()).unwrap()
}

/// A path's layers in one line: `POSITION`, `*` where it supplies it, and what it hides how.
fn line(told: &Provenance) -> String {
    let says = told.layers.iter().map(|says| {
        let mut text = says.layer.position.to_string();
        text.push_str(if says.supplies { "*" } else { "" });
        if let Some(hides) = &says.hides {
            text.push_str(&format!("{:?}{:?}{}", hides.by, hides.positions, hides.at));
        }
        text
    });
    says.collect::<Vec<_>>().join(" ")
}

/// A layer of these files, with a whiteout for each name behind `-`; `!` is an opaque root.
fn files(lines: &[&str]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for line in lines {
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        let (path, content) = match (line.strip_prefix('-'), *line) {
            (Some(name), _) => (format!(".wh.{name}"), ""),
            (None, "!") => (".wh..wh..opq".to_owned(), ""),
            (None, name) => (name.to_owned(), "text"),
        };
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn stacked(driver: &Driver, layers: &[&[&str]]) -> ChainId {
    let apply = |parent: Option<ChainId>, lines: &&[&str]| {
        let tar = files(lines);
        Some(driver.apply(parent.as_ref(), tar.as_slice(), Watch::new()).unwrap().chain_id)
    };
    layers.iter().fold(None, apply).unwrap()
}

#[test]
fn a_layer_that_is_opaque_as_a_whole_hides_all_below() {
    let scratch = tempfile::tempdir().unwrap();
    let driver = driver(scratch.path());
    let chain = stacked(&driver, &[&["f", "g"], &["f"], &["!", "g"], &["h"]]);
    assert_eq!(line(&which(&driver, chain, "f")), "2Opaque[1]/ 1Replacement[0]/f 0");
    assert_eq!(line(&which(&driver, chain, "g")), "2*Opaque[0]/ 0");
    assert_eq!(line(&which(&driver, chain, "h")), "3*");
    assert_eq!(which(&driver, chain, "f").layers[0].hides.as_ref().unwrap().by, HiddenBy::Opaque);
}

#[test]
fn e48_a_diff_that_stands_twice_counts_where_it_is_topmost() {
    let scratch = tempfile::tempdir().unwrap();
    let driver = driver(scratch.path());
    let chain = stacked(&driver, &[&["f"], &["g"], &["-f"], &["f"], &["g"]]);
    assert_eq!(line(&which(&driver, chain, "f")), "3*");
    assert_eq!(line(&which(&driver, chain, "g")), "4*");
}

#[test]
fn a_container_is_on_top_of_its_layers() {
    let scratch = tempfile::tempdir().unwrap();
    let driver = driver(scratch.path());
    let chain = stacked(&driver, &[&["f", "g"], &["-g"]]);
    driver.create(&Base::Chain(chain), Some("c")).unwrap();
    let held = driver.tree("c").unwrap();
    held.tree().write("f", b"mine").unwrap();
    held.tree().remove_file("f").unwrap();
    held.tree().write("g", b"mine").unwrap();
    drop(held);
    let told =
        |path: &str| line(&driver.which("c", &LayerPath::parse(path.as_bytes()).unwrap()).unwrap());
    assert_eq!(told("f"), "2Whiteout[0]/f 0");
    assert_eq!(told("g"), "2* 1Whiteout[0]/g 0");
    assert_eq!(told(""), "2* 1* 0*");
}

#[test]
fn a_variant_is_the_layer_that_it_was_made_from() {
    let scratch = tempfile::tempdir().unwrap();
    let driver = driver(scratch.path());
    // A hard link to a file of the layer below: that layer directory is made for this stack.
    let below = stacked(&driver, &[&["f"]]);
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Link);
    header.set_size(0);
    tar.append_link(&mut header, "g", "f").unwrap();
    let tar = tar.into_inner().unwrap();
    let top = driver.apply(Some(&below), tar.as_slice(), Watch::new()).unwrap();
    let told = which(&driver, top.chain_id, "g");
    assert_eq!(line(&told), "1*");
    assert_eq!(told.layers[0].layer.diff_id, Some(top.diff_id));
}

#[test]
fn a_root_that_a_lower_layer_describes_is_no_difference() {
    let scratch = tempfile::tempdir().unwrap();
    let driver = driver(scratch.path());
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o700);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.as_old_mut().name[..2].copy_from_slice(b"./");
    header.set_cksum();
    tar.append(&header, &b""[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let below = driver.apply(None, tar.as_slice(), Watch::new()).unwrap();
    let tar = files(&["f"]);
    let chain = driver.apply(Some(&below.chain_id), tar.as_slice(), Watch::new()).unwrap().chain_id;
    driver.create(&Base::Chain(chain), Some("c")).unwrap();
    let name = chain.to_string();
    assert_eq!(driver.read_tree(&name).unwrap().tree().metadata("/").unwrap().mode(), 0o700);
    for (from, to) in [("c", name.as_str()), (&name, "c"), (&name, &name)] {
        let mut out = Vec::new();
        let summary =
            driver.diff_between(from, to, &mut out, &DiffOptions::default(), Watch::new()).unwrap();
        assert_eq!(summary.entries, 0, "{from}..{to}: {:?}", names(&out));
    }
    let mut out = Vec::new();
    let summary = driver.diff("c", &mut out, &DiffOptions::default(), Watch::new()).unwrap();
    assert_eq!(summary.entries, 0, "nothing was changed: {:?}", names(&out));
}
