//! The first write to a lower file, and what else copies one up: through the userspace tree, by the
//! kernel's overlayfs over the same layers, and by the least system calls that it takes (the floor).
//!
//! On the file system of temporary files and, as root, on new ones in loop devices: ext4, XFS with
//! reflinks, btrfs. Both with nothing synced (the kernel's `volatile`) and with the file's data
//! synced before it gets its name. `OVERLAY2_RATIOS=11 cargo bench --bench copy_up` prints medians
//! of interleaved runs and their ratios.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its results go there")]
#![allow(clippy::indexing_slicing, clippy::disallowed_methods, reason = "paths of its own")]
#![allow(clippy::panic, reason = "a bench that cannot go on stops")]

mod stage;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use overlay2::Durability;
use overlay2::merged::{OpenOptions, Tree};
use rustix::fs::{Mode, OFlags, SeekFrom};

use stage::{Case, Disk, Fresh, Side, measure, scaled};

/// What is done to a lower file.
#[derive(Clone, Copy, Debug)]
enum Act {
    Write,
    Chmod,
    Truncate,
}

/// A lower directory with files of all sizes, and the kernel's reach.
struct Bench<'a> {
    disk: &'a Disk,
    lowers: Vec<PathBuf>,
    sides: Vec<Side>,
}

const DEEP: usize = 20;

fn many() -> usize {
    scaled(1_000, 10)
}

fn deep_path() -> String {
    (1..DEEP).map(|level| format!("d{level}/")).collect::<String>() + "file"
}

fn fill(lower: &Path) {
    let block = vec![b'x'; 1 << 20];
    let write = |name: &str, size: usize| {
        let file = File::create(lower.join(name)).expect("create");
        for at in (0..size).step_by(block.len()) {
            let end = (size - at).min(block.len());
            file.write_all_at(&block[..end], at as u64).expect("write");
        }
    };
    for (name, size) in sizes() {
        write(name, size);
    }
    let sparse = File::create(lower.join("sparse")).expect("create");
    let size = scaled(1 << 30, 1 << 24) as u64;
    sparse.set_len(size).expect("a sparse file");
    for at in [0, size / 2, size - 65536] {
        sparse.write_all_at(&block[..65536], at).expect("write");
    }
    let deep = deep_path();
    std::fs::create_dir_all(lower.join(&deep).parent().expect("it has one")).expect("create");
    write(&deep, 4 << 10);
    std::fs::create_dir(lower.join("many")).expect("create");
    for number in 0..many() {
        write(&format!("many/{number}"), 4 << 10);
    }
}

fn sizes() -> [(&'static str, usize); 3] {
    [("4KiB", 4 << 10), ("1MiB", scaled(1 << 20, 1 << 16)), ("64MiB", scaled(64 << 20, 1 << 20))]
}

impl Bench<'_> {
    /// Copies up what `paths` name, on one side, and tells how long that took.
    fn once(&self, side: Side, act: Act, durability: Durability, paths: &[String]) -> Duration {
        let fresh = Fresh::on(self.disk);
        let timed = |work: &dyn Fn(&str)| {
            self.disk.settle();
            let begin = Instant::now();
            paths.iter().for_each(|path| work(path));
            begin.elapsed()
        };
        match side {
            Side::Merged => {
                let tree = fresh.tree(&self.lowers, durability);
                timed(&|path| merged(&tree, act, path))
            }
            Side::Kernel => {
                let mount = fresh.mount(&self.lowers, durability).expect("a mount");
                timed(&|path| kernel(mount.as_fd(), act, path))
            }
            Side::Floor => {
                let upper = stage::open_dir(&fresh.upper());
                let lower = stage::open_dir(&self.lowers[0]);
                timed(&|path| floor(lower.as_fd(), upper.as_fd(), act, durability, path))
            }
        }
    }

    fn cases(&self) -> Vec<Case<'_>> {
        let mut cases = Vec::new();
        let one = |name: &str| vec![name.to_owned()];
        let all: Vec<_> = (0..many()).map(|number| format!("many/{number}")).collect();
        let kinds = [
            ("first write 4 KiB", Act::Write, one("4KiB")),
            ("first write 1 MiB", Act::Write, one("1MiB")),
            ("first write 64 MiB", Act::Write, one("64MiB")),
            ("first write 1 GiB sparse", Act::Write, one("sparse")),
            ("first write at depth 20", Act::Write, vec![deep_path()]),
            ("first write to 1,000 files", Act::Write, all),
            ("chmod 4 KiB", Act::Chmod, one("4KiB")),
            ("chmod 64 MiB", Act::Chmod, one("64MiB")),
            ("O_TRUNC of 64 MiB", Act::Truncate, one("64MiB")),
        ];
        for (sync, durability) in [("", Durability::None), (", synced", Durability::Full)] {
            for (name, act, paths) in &kinds {
                let (act, paths) = (*act, paths.clone());
                cases.push(Case {
                    name: format!("{name}{sync}"),
                    once: Box::new(move |side| self.once(side, act, durability, &paths)),
                });
            }
        }
        cases
    }
}

fn merged(tree: &Tree, act: Act, path: &str) {
    let mut options = OpenOptions::new();
    match act {
        Act::Chmod => tree.set_permissions(path, 0o600).expect("chmod"),
        Act::Write | Act::Truncate => {
            options.write(true).truncate(matches!(act, Act::Truncate));
            let file = tree.open_with(path, &options).expect("open");
            assert_eq!(file.write_at(b"y", 100).expect("write"), 1);
        }
    }
}

fn kernel(mount: BorrowedFd<'_>, act: Act, path: &str) {
    match act {
        Act::Chmod => {
            let flags = rustix::fs::AtFlags::empty();
            rustix::fs::chmodat(mount, path, Mode::from_raw_mode(0o600), flags).expect("chmod");
        }
        Act::Write | Act::Truncate => {
            let mut flags = OFlags::WRONLY | OFlags::CLOEXEC;
            flags.set(OFlags::TRUNC, matches!(act, Act::Truncate));
            let file = rustix::fs::openat(mount, path, flags, Mode::empty()).expect("open");
            assert_eq!(rustix::io::pwrite(&file, b"y", 100), Ok(1));
        }
    }
}

/// Directories, a copy of the file, and the change, with no regard to anything else.
fn floor(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    act: Act,
    durability: Durability,
    path: &str,
) {
    let made: Vec<_> = path.match_indices('/').map(|(end, _)| &path[..end]).collect();
    for dir in made {
        match rustix::fs::mkdirat(upper, dir, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => panic!("{dir}: {error}"),
        }
    }
    let create = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(upper, path, create, Mode::from_raw_mode(0o644)).expect("create");
    if !matches!(act, Act::Truncate) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let from = rustix::fs::openat(lower, path, flags, Mode::empty()).expect("open");
        if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
            copy_data(from.as_fd(), to.as_fd());
        }
    }
    if durability == Durability::Full {
        rustix::fs::fsync(&to).expect("fsync");
    }
    match act {
        Act::Chmod => rustix::fs::fchmod(&to, Mode::from_raw_mode(0o600)).expect("chmod"),
        _ => assert_eq!(rustix::io::pwrite(&to, b"y", 100), Ok(1)),
    }
}

fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let size = u64::try_from(rustix::fs::fstat(from).expect("stat").st_size).expect("a size");
    rustix::fs::ftruncate(to, size).expect("truncate");
    let mut at = 0;
    while at < size {
        let Ok(start) = rustix::fs::seek(from, SeekFrom::Data(at)) else { return };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).expect("seek");
        let (mut read, mut written) = (start, start);
        while read < end {
            let want = usize::try_from(end - read).expect("a size");
            let copied =
                rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), want);
            assert!(copied.expect("copy") > 0);
        }
        at = end;
    }
}

fn benches(criterion: &mut Criterion) {
    let loops = ["ext4", "xfs", "btrfs"].into_iter().filter_map(Disk::of);
    for disk in std::iter::once_with(Disk::here).chain(loops) {
        let lower = disk.path().join("lower");
        std::fs::create_dir(&lower).expect("create");
        fill(&lower);
        let mut sides = Side::ALL.to_vec();
        if !stage::can_mount(&disk) {
            sides.retain(|side| *side != Side::Kernel);
        }
        let bench = Bench { disk: &disk, lowers: vec![lower], sides };
        measure(criterion, &format!("copy_up on {}", disk.name), &bench.sides, bench.cases());
    }
}

fn main() {
    stage::enter_own_namespace();
    let mut criterion = Criterion::default().configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
