//! What a container may hold: kept by the file system where it keeps project quotas, refused where it
//! does not. `.ci/kernel` runs this on ext4 and XFS that do, and says so in `OVERLAY2_QUOTA`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use overlay2::merged::OpenOptions;
use overlay2::mount::{MountOptions, Syncing};
use overlay2::store::{ContainerRecord, QuotaUse};
use overlay2::{Base, CheckOptions, CreateOptions, Driver, ErrorKind, Quota, Watch};

const MIB: u64 = 1 << 20;

/// A store with one layer.
struct Bed {
    _scratch: tempfile::TempDir,
    driver: Driver,
    base: Base,
}

impl Bed {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let driver = Driver::open(scratch.path().join("store")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(2 * MIB);
        tar.append_data(&mut header, "large", io::repeat(b'x').take(2 * MIB)).unwrap();
        let tar = tar.into_inner().unwrap();
        let base = driver.apply(None, Cursor::new(tar), Watch::new()).unwrap().chain_id.into();
        Self { _scratch: scratch, driver, base }
    }

    fn create(&self, name: &str, quota: Quota) -> overlay2::Result<ContainerRecord> {
        let mut options = CreateOptions::default();
        options.name = Some(name.to_owned());
        options.quota = quota;
        self.driver.create_with(&self.base, &options)?;
        self.driver.store().find_container(name)
    }

    fn used(&self, record: &ContainerRecord) -> QuotaUse {
        self.driver.store().quota_use(record).unwrap().expect("a quota")
    }

    /// The blocks of a removed file that was just being written are back a moment later.
    fn wait_until(&self, record: &ContainerRecord, holds: impl Fn(QuotaUse) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds(self.used(record)) {
            assert!(Instant::now() < end, "{:?}", self.used(record));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// That nothing is left of a container: neither in the store, nor of its limits.
    fn assert_gone(&self, record: Option<&ContainerRecord>) {
        let store = self.driver.store();
        for place in ["containers", "container-names", "staging", "trash"] {
            let left = fs::read_dir(store.path().join(place)).unwrap().count();
            assert_eq!(left, 0, "{place}");
        }
        assert!(self.driver.check(&CheckOptions::default(), Watch::new()).unwrap().is_clean());
        if let Some(record) = record {
            assert_eq!(self.used(record).limits, Quota::default());
            self.wait_until(record, |used| (used.bytes, used.inodes) == (0, 0));
        }
    }
}

fn quota(bytes: Option<u64>, inodes: Option<u64>) -> Quota {
    Quota { bytes, inodes }
}

/// A store where quotas are kept; where they are not, that this is said, and nothing stays.
fn kept() -> Option<Bed> {
    let bed = Bed::new();
    let is_expected = std::env::var_os("OVERLAY2_QUOTA").is_some();
    match bed.create("probe", quota(Some(MIB), None)) {
        Ok(record) => {
            bed.driver.remove_container("probe", Watch::new()).unwrap();
            bed.assert_gone(Some(&record));
            Some(bed)
        }
        Err(error) => {
            assert!(!is_expected, "{error}");
            let kinds = [ErrorKind::Unsupported, ErrorKind::PermissionDenied];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            assert!(error.help().is_some(), "{error:?}");
            bed.assert_gone(None);
            bed.create("probe", Quota::default()).unwrap();
            None
        }
    }
}

/// Writes until there is no more room, or `most` is written: how much that was, and why it ended.
fn fill(mut file: impl Write, most: u64) -> (u64, Option<io::Error>) {
    let (piece, mut written) = (vec![1; 64 << 10], 0);
    while written < most {
        match file.write(&piece) {
            Ok(count) => written += count as u64,
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// `EDQUOT` on ext4, `ENOSPC` on XFS.
fn is_full(error: Option<i32>) -> bool {
    matches!(error, Some(28 | 122))
}

fn assert_filled(limit: u64, (written, error): (u64, Option<io::Error>)) {
    let error = error.expect("an end");
    assert!(is_full(error.raw_os_error()), "{error}");
    assert!((limit - 256 * 1024..=limit).contains(&written), "{written} of {limit}");
}

#[test]
fn bytes_are_limited_for_one_container_alone() {
    let Some(bed) = kept() else { return };
    for syncing in [Syncing::Normal, Syncing::Volatile] {
        let limited = bed.create("limited", quota(Some(8 * MIB), None)).unwrap();
        bed.create("free", Quota::default()).unwrap();
        let mut options = MountOptions::default();
        options.syncing = syncing;
        let point = bed.driver.mount("limited", None, &options).unwrap().target;
        assert_filled(8 * MIB, fill(fs::File::create(point.join("file")).unwrap(), 64 * MIB));
        let used = bed.used(&limited);
        assert!((7 * MIB..=8 * MIB).contains(&used.bytes), "{used:?}");
        // A copy-up needs room too.
        let copied = fs::OpenOptions::new().append(true).open(point.join("large"));
        let error = copied.unwrap_err();
        assert!(is_full(error.raw_os_error()), "{error}");
        fs::remove_file(point.join("file")).unwrap();
        bed.wait_until(&limited, |used| used.bytes < MIB);
        fs::OpenOptions::new().append(true).open(point.join("large")).unwrap();
        let free = bed.driver.mount("free", None, &options).unwrap().target;
        assert!(fill(fs::File::create(free.join("file")).unwrap(), 16 * MIB).1.is_none());
        for name in ["limited", "free"] {
            bed.driver.unmount(name).unwrap();
            bed.driver.remove_container(name, Watch::new()).unwrap();
        }
        bed.driver.empty_trash(Watch::new()).unwrap();
        bed.assert_gone(Some(&limited));
    }
}

#[test]
fn root_that_wants_to_is_held_to_it_without_a_mount() {
    let Some(bed) = kept() else { return };
    let record = bed.create("c", quota(Some(4 * MIB), None)).unwrap();
    let tree = bed.driver.tree("c").unwrap();
    let write = || {
        Quota::hold_this_thread().unwrap();
        let mut options = OpenOptions::new();
        options.write(true).create(true);
        assert_filled(4 * MIB, fill(&tree.tree().open_with("file", &options).unwrap(), 32 * MIB));
        let error = tree.tree().open_with("large", OpenOptions::new().write(true)).unwrap_err();
        assert!(is_full(error.raw_os_error()), "{error}");
    };
    // A thread of its own: the others keep what they may.
    std::thread::scope(|scope| scope.spawn(write).join().unwrap());
    drop(tree);
    bed.driver.remove_container("c", Watch::new()).unwrap();
    bed.driver.empty_trash(Watch::new()).unwrap();
    bed.assert_gone(Some(&record));
}

#[test]
fn a_container_that_is_full_is_not_mounted_read_only_without_a_word() {
    let Some(bed) = kept() else { return };
    let record = bed.create("full", quota(Some(MIB), None)).unwrap();
    let point = bed.driver.mount("full", None, &MountOptions::default()).unwrap().target;
    assert_filled(MIB, fill(fs::File::create(point.join("file")).unwrap(), 8 * MIB));
    bed.driver.unmount("full").unwrap();
    // ext4 has room left for the empty directory that the kernel tries out, XFS has not.
    match bed.driver.mount("full", None, &MountOptions::default()) {
        Ok(mounted) => {
            fs::write(mounted.target.join("file"), "").unwrap();
            bed.driver.unmount("full").unwrap();
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            bed.driver.set_quota("full", &quota(Some(2 * MIB), None)).unwrap();
            bed.driver.mount("full", None, &MountOptions::default()).unwrap();
            bed.driver.unmount("full").unwrap();
        }
    }
    assert!(bed.used(&record).bytes <= MIB);
}

#[test]
fn inodes_are_limited() {
    let Some(bed) = kept() else { return };
    let record = bed.create("many", quota(None, Some(20))).unwrap();
    let point = bed.driver.mount("many", None, &MountOptions::default()).unwrap().target;
    let error = (0..).find_map(|index| fs::create_dir(point.join(index.to_string())).err());
    assert!(is_full(error.unwrap().raw_os_error()));
    let made = fs::read_dir(&point).unwrap().count() - 1;
    assert!((15..20).contains(&made), "{made}");
    assert_eq!(bed.used(&record).inodes, 20);
    // The kernel tries out at each mount what the UpperDir can do, and takes three for that.
    for index in 0..5 {
        fs::remove_dir(point.join(index.to_string())).unwrap();
    }
    bed.driver.unmount("many").unwrap();
    bed.driver.mount("many", None, &MountOptions::default()).unwrap();
    bed.driver.unmount("many").unwrap();
    bed.driver.remove_container("many", Watch::new()).unwrap();
    bed.driver.empty_trash(Watch::new()).unwrap();
    bed.assert_gone(Some(&record));
}

#[test]
fn what_a_container_holds_is_counted_and_not_walked() {
    let Some(bed) = kept() else { return };
    let limits = quota(Some(8 * MIB), Some(1000));
    let record = bed.create("counted", limits).unwrap();
    assert_eq!(bed.used(&record).limits, limits);
    assert_eq!(bed.driver.quota("counted").unwrap(), Some(bed.used(&record)));
    bed.create("other", Quota::default()).unwrap();
    assert_eq!(bed.driver.quota("other").unwrap(), None);
    let error = bed.driver.set_quota("other", &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    bed.driver.remove_container("other", Watch::new()).unwrap();
    let tree = bed.driver.tree("counted").unwrap();
    tree.tree().write("file", vec![1; 3 << 20]).unwrap();
    drop(tree);
    let usage = bed.driver.usage().unwrap();
    let [row] = usage.containers.as_slice() else { panic!("{usage:?}") };
    assert_eq!(row.limits, Some(limits));
    assert!((3 * MIB..4 * MIB).contains(&row.size), "{row:?}");
    assert!((3..6).contains(&row.inodes), "{row:?}");
    // One limit goes, the other is less than there is: what is there stays, nothing is added.
    let point = bed.driver.mount("counted", None, &MountOptions::default()).unwrap().target;
    bed.driver.set_quota("counted", &quota(Some(MIB), None)).unwrap();
    assert_eq!(bed.used(&record).limits, quota(Some(MIB), None));
    assert_eq!(fs::read(point.join("file")).unwrap().len(), 3 << 20);
    // Not even an empty file, on XFS.
    match fs::File::create_new(point.join("more")) {
        Ok(file) => assert!(fill(file, MIB).0 < MIB / 8),
        Err(error) => assert!(is_full(error.raw_os_error()), "{error}"),
    }
    // More, while it is mounted.
    bed.driver.set_quota("counted", &quota(Some(8 * MIB), None)).unwrap();
    assert!(fill(fs::File::create(point.join("more")).unwrap(), 2 * MIB).1.is_none());
    bed.driver.unmount("counted").unwrap();
}

#[test]
fn a_container_that_never_came_to_be_leaves_no_limits() {
    let Some(bed) = kept() else { return };
    bed.create("taken", Quota::default()).unwrap();
    let error = bed.create("taken", quota(Some(MIB), None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    bed.driver.remove_container("taken", Watch::new()).unwrap();
    bed.assert_gone(None);
    // Of a maker that died, and of one who removed it and died.
    for place in ["staging", "trash"] {
        let record = bed.create("late", quota(Some(MIB), Some(100))).unwrap();
        let root = bed.driver.store().path().to_owned();
        let id = record.id.to_string();
        let name = format!("container-{id}");
        fs::rename(root.join("containers").join(&id), root.join(place).join(&name)).unwrap();
        drop(Driver::open(&root).unwrap());
        bed.driver.empty_trash(Watch::new()).unwrap();
        bed.assert_gone(Some(&record));
    }
}

#[test]
fn a_quota_is_kept_when_a_container_starts_over() {
    let Some(bed) = kept() else { return };
    let record = bed.create("torn", quota(Some(8 * MIB), None)).unwrap();
    let mut options = MountOptions::default();
    options.syncing = Syncing::Volatile;
    let point = bed.driver.mount("torn", None, &options).unwrap().target;
    assert_filled(8 * MIB, fill(fs::File::create(point.join("file")).unwrap(), 64 * MIB));
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
    forget_boot(bed.driver.store().path(), &record);
    bed.driver.recover("torn", overlay2::TornUpper::Discard).unwrap();
    bed.wait_until(&record, |used| used.bytes < MIB);
    let point = bed.driver.mount("torn", None, &options).unwrap().target;
    assert_filled(8 * MIB, fill(fs::File::create(point.join("file")).unwrap(), 64 * MIB));
    bed.driver.unmount("torn").unwrap();
}

/// As though the machine had stopped since.
fn forget_boot(root: &Path, record: &ContainerRecord) {
    let path = root.join("containers").join(record.id.to_string()).join("mount.json");
    let text = fs::read_to_string(&path).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(path, text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000")).unwrap();
}
