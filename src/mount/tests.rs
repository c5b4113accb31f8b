//! Real mounts, none of them attached anywhere but where a test says so.
#![expect(clippy::disallowed_methods, reason = "tests make and move layers from outside")]
use super::*;
use crate::error::ErrorKind;
use crate::namespace::Namespace;
use crate::sys::Dir;
use rustix::mount::MountFlags;
use std::path::{Path, PathBuf};

/// Layers with one file each, `fN`, and a file `top` that each of them has.
struct Stack {
    root: tempfile::TempDir,
    layers: Vec<(Dir, PathBuf)>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        // What a test that failed has left attached; none is the rule.
        let _ = detach(&self.root.path().join("merged"));
    }
}

impl Stack {
    fn new(count: usize, name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let make = |number: usize| {
            let path = root.path().join(format!("{name}{number}"));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(format!("f{number}")), "").unwrap();
            std::fs::write(path.join("top"), number.to_string()).unwrap();
            (Dir::open_ambient(&path).unwrap(), path)
        };
        let layers = (0..count).map(make).collect();
        for name in ["upper", "work"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        Self { root, layers }
    }

    fn mount(&self, upper: bool, options: &MountOptions) -> crate::Result<Mounted> {
        let paths = [self.root.path().join("upper"), self.root.path().join("work")];
        self.mount_with(upper, paths.each_ref(), options)
    }

    /// With an UpperDir and a WorkDir elsewhere.
    fn mount_on(&self, paths: [&PathBuf; 2], options: &MountOptions) -> crate::Result<Mounted> {
        self.mount_with(true, paths, options)
    }

    fn mount_with(
        &self,
        upper: bool,
        [up_path, work_path]: [&PathBuf; 2],
        options: &MountOptions,
    ) -> crate::Result<Mounted> {
        let namespace = Namespace::Trusted;
        let parts = Parts { layers: self.layers.len(), upper, namespace };
        let plan = plan(parts, options)?;
        let layers: Vec<_> = self.layers.iter().map(|(dir, path)| Layer { dir, path }).collect();
        let [up, work] = [up_path, work_path].map(|path| Dir::open_ambient(path).unwrap());
        let writable = Upper {
            upper: Layer { dir: &up, path: up_path },
            work: Layer { dir: &work, path: work_path },
        };
        plan.mount(&layers, upper.then_some(writable))
    }
}

/// Whether this process may mount; said by name where it may not.
fn may_mount(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIP {test}: mounting needs root");
    false
}

fn read(mounted: &Mounted, name: &str) -> String {
    use std::io::Read;
    let root = mounted.root().unwrap();
    let mut text = String::new();
    let mut file = root.open(name.as_bytes(), rustix::fs::OFlags::RDONLY, 0).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// What is found mounted with an UpperDir, by the kernel's answers and in its table.
fn each_way_to_find(upper: &Path) -> Vec<Vec<MountEntry>> {
    // Mounts of other tests go while they are listed.
    let asked = (0..100).find_map(|_| find::asked_one_by_one(upper));
    if asked.is_none() {
        eprintln!("SKIP each_way_to_find: statmount does not answer here");
        assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
    }
    asked.into_iter().chain([find::in_table(upper).unwrap()]).collect()
}

/// The ways that this kernel has; those that it lacks are named.
fn ways(test: &str) -> Vec<Way> {
    let stack = Stack::new(2, "probe");
    let has = |way: &Way| {
        let mounted = stack.mount(true, &MountOptions { way: *way, ..Default::default() });
        if let Err(error) = &mounted {
            eprintln!("SKIP {test}, {way:?}: {error}");
            assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
        }
        mounted.is_ok()
    };
    [Way::Best, Way::Descriptors, Way::Strings, Way::Classic].into_iter().filter(has).collect()
}

#[test]
fn a_mount_that_would_be_read_only_is_refused() {
    if !may_mount("a_mount_that_would_be_read_only_is_refused") {
        return;
    }
    let stack = Stack::new(2, "l");
    // Room for no directory but the two that are there.
    let [full, upper, work] =
        ["full", "full/upper", "full/work"].map(|name| stack.root.path().join(name));
    std::fs::create_dir(&full).unwrap();
    rustix::mount::mount("tmpfs", &full, "tmpfs", MountFlags::empty(), c"nr_inodes=3").unwrap();
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    for way in ways("a_mount_that_would_be_read_only_is_refused") {
        let options = MountOptions { way, ..Default::default() };
        let error = stack.mount_on([&upper, &work], &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{way:?} {error}");
        assert!(error.help().is_some_and(|help| help.contains("read-only")), "{way:?} {error}");
        // Where that is what is asked for, it is what one gets.
        let options = MountOptions { access: MountAccess::ReadOnly, ..options };
        stack.mount_on([&upper, &work], &options).unwrap();
    }
    detach(&full).unwrap();
}

#[test]
fn e41_any_number_of_layers_on_every_way() {
    if !may_mount("e41_any_number_of_layers_on_every_way") {
        return;
    }
    let ways = ways("e41_any_number_of_layers_on_every_way");
    for count in [1, 2, 128, 500] {
        let stack = Stack::new(count, "l");
        for way in ways.iter().copied() {
            let options = MountOptions { way, ..Default::default() };
            let mounted = stack.mount(true, &options).unwrap();
            assert_eq!(read(&mounted, "top"), "0", "{count} {way:?}");
            assert_eq!(mounted.root().unwrap().entries().unwrap().len(), count + 1);
            drop(mounted);
            let options = MountOptions { access: MountAccess::ReadOnly, ..options };
            let mounted = stack.mount(false, &options).unwrap();
            assert_eq!(mounted.root().unwrap().entries().unwrap().len(), count + 1);
        }
    }
}

#[test]
fn e40_odd_names_on_every_way() {
    if !may_mount("e40_odd_names_on_every_way") {
        return;
    }
    let long = format!("{0}/{0}/", "n".repeat(200));
    let names = ["a:b", "a,b", "a\\b", "a b", "a\nb", ":,\\ \n", "lowerdir=x,upperdir=y", &long];
    let ways = ways("e40_odd_names_on_every_way");
    for name in names {
        let stack = Stack::new(3, name);
        for way in ways.iter().copied() {
            let options = MountOptions { way, ..Default::default() };
            let mounted =
                stack.mount(true, &options).unwrap_or_else(|e| panic!("{name:?} {way:?} {e}"));
            assert_eq!(read(&mounted, "top"), "0", "{name:?} {way:?}");
        }
    }
}

#[test]
fn a_read_only_view_cannot_be_written() {
    if !may_mount("a_read_only_view_cannot_be_written") {
        return;
    }
    for count in [1, 2] {
        let stack = Stack::new(count, "l");
        let options = MountOptions { access: MountAccess::ReadOnly, ..Default::default() };
        let mounted = stack.mount(false, &options).unwrap();
        let refused = mounted.root().unwrap().make_dir(b"new", 0o755);
        assert_eq!(refused, Err(rustix::io::Errno::ROFS));
    }
}

#[test]
fn an_attached_mount_is_found_and_goes() {
    if !may_mount("an_attached_mount_is_found_and_goes") {
        return;
    }
    let stack = Stack::new(2, "l:,");
    let [upper, target, other] =
        ["upper", "merged", "other"].map(|name| stack.root.path().join(name));
    std::fs::create_dir(&target).unwrap();
    std::fs::create_dir(&other).unwrap();
    let volatile = MountOptions { syncing: Syncing::Volatile, ..Default::default() };
    for way in ways("an_attached_mount_is_found_and_goes") {
        let options = MountOptions { way, ..volatile };
        stack.mount(true, &options).unwrap().attach(&target).unwrap();
        for found in each_way_to_find(&upper) {
            let [entry] = found.as_slice() else { panic!("{way:?} {found:?}") };
            assert_eq!((&entry.target, entry.volatile), (&target, true), "{way:?}");
        }
        assert!(each_way_to_find(&other).iter().all(Vec::is_empty), "{way:?}");
        unmount(&target).unwrap();
        assert!(each_way_to_find(&upper).iter().all(Vec::is_empty), "{way:?}");
        std::fs::remove_dir_all(stack.root.path().join("work/work")).unwrap();
    }
    stack.mount(true, &volatile).unwrap().attach(&target).unwrap();
    assert!(at(&target).unwrap().is_some());
    let busy = std::fs::File::open(target.join("top")).unwrap();
    assert_eq!(unmount(&target).unwrap_err().kind(), ErrorKind::InUse);
    drop(busy);
    unmount(&target).unwrap();
    assert_eq!(unmount(&target).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(at(&target).unwrap(), None);
}

/// What is known of a mount is asked once, where it is mounted each time.
#[test]
fn a_mount_that_is_moved_is_found_where_it_is() {
    if !may_mount("a_mount_that_is_moved_is_found_where_it_is") {
        return;
    }
    let stack = Stack::new(2, "l");
    let [upper, other] = ["upper", "other"].map(|name| stack.root.path().join(name));
    let [target, moved] = ["merged", "merged/moved"].map(|name| stack.root.path().join(name));
    std::fs::create_dir_all(&moved).unwrap();
    std::fs::create_dir(&other).unwrap();
    // What is mounted in a directory of its own can be moved there, whatever is shared around it.
    rustix::mount::mount("none", &target, "tmpfs", MountFlags::empty(), None).unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change(&target, private).unwrap();
    for name in ["one", "two"] {
        std::fs::create_dir(target.join(name)).unwrap();
    }
    for (way, is_ours) in [(Way::Best, true), (Way::Classic, false)] {
        let at = target.join("one");
        stack
            .mount(true, &MountOptions { way, ..Default::default() })
            .unwrap()
            .attach(&at)
            .unwrap();
        let look = |expected: &[&str]| {
            for found in each_way_to_find(&upper) {
                let names: Vec<_> =
                    found.iter().filter_map(|entry| entry.target.file_name()).collect();
                assert_eq!(names, expected, "{way:?} {is_ours} {found:?}");
            }
            assert!(each_way_to_find(&other).iter().all(Vec::is_empty));
        };
        look(&["one"]);
        look(&["one"]);
        rustix::mount::mount_move(&at, target.join("two")).unwrap();
        look(&["two"]);
        unmount(&target.join("two")).unwrap();
        look(&[]);
    }
    detach(&target).unwrap();
}

#[test]
fn e44_an_upper_is_found_mounted_after_its_store_was_moved() {
    if !may_mount("e44_an_upper_is_found_mounted_after_its_store_was_moved") {
        return;
    }
    let stack = Stack::new(2, "l");
    let [store, moved, copy] = ["s", "moved", "copy"].map(|name| stack.root.path().join(name));
    let upper = |store: &Path| store.join("containers/c1/upper");
    for path in [upper(&store), upper(&copy), store.join("work"), stack.root.path().join("at")] {
        std::fs::create_dir_all(path).unwrap();
    }
    let layers: Vec<_> = stack.layers.iter().map(|(dir, path)| Layer { dir, path }).collect();
    let paths = [upper(&store), store.join("work")];
    let [up, work] = paths.each_ref().map(|path| Dir::open_ambient(path).unwrap());
    let writable = Upper {
        upper: Layer { dir: &up, path: &paths[0] },
        work: Layer { dir: &work, path: &paths[1] },
    };
    let parts = Parts { layers: 2, upper: true, namespace: Namespace::Trusted };
    let plan = plan(parts, &MountOptions::default()).unwrap();
    let target = stack.root.path().join("at");
    plan.mount(&layers, Some(writable)).unwrap().attach(&target).unwrap();
    let counts = |store: &Path| -> Vec<usize> {
        each_way_to_find(&upper(store)).iter().map(Vec::len).collect()
    };
    let found = [&store, &copy].map(|store| counts(store));
    std::fs::rename(&store, &moved).unwrap();
    let after = counts(&moved);
    unmount(&target).unwrap();
    for (counts, expected) in found.iter().chain([&after]).zip([1, 0, 1]) {
        assert!(counts.iter().all(|count| *count == expected), "{found:?} {after:?}");
    }
}

#[test]
fn the_kernels_reason_is_told() {
    if !may_mount("the_kernels_reason_is_told") {
        return;
    }
    let mut stack = Stack::new(2, "l");
    // The same directory twice.
    let path: &Path = &stack.layers[0].1.clone();
    stack.layers.push((Dir::open_ambient(path).unwrap(), path.to_owned()));
    let error = stack.mount(true, &MountOptions::default()).unwrap_err();
    assert!(error.raw_os_error() == Some(40) && error.help().is_some(), "{error}");
}
