//! What the benches of the merged tree share: file systems to measure on, the same layers seen by
//! the kernel and in userspace, and medians of interleaved runs.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use criterion::Criterion;
use overlay2::merged::{Options, Tree};
use overlay2::{Dir, Durability, Namespace};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Whether everything runs once and small, to see that it runs.
pub(crate) fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// A number, or a much smaller one where it only has to run.
pub(crate) fn scaled(full: usize, test: usize) -> usize {
    if is_test() { test } else { full }
}

/// Says what could not be measured.
pub(crate) fn skip(what: &str, reason: &str) {
    eprintln!("SKIP bench of {what}: {reason}");
    let required = std::env::var_os("OVERLAY2_REQUIRE").is_some_and(|value| value == "all");
    assert!(!required, "{what} could not run: {reason}");
}

/// Starts this program again in a mount namespace of its own, whose mounts and loop devices end
/// with it however it ends; without privilege, in a user namespace as well.
pub(crate) fn enter_own_namespace() {
    const INSIDE: &str = "OVERLAY2_BENCH_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let flags = if is_root() { "-m" } else { "-rm" };
    let works = Command::new("unshare").args([flags, "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        // Nothing is mounted but detached then.
        return;
    }
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command
        .args([flags, "--propagation", "private"])
        .arg(program)
        .args(std::env::args_os().skip(1));
    command.env(INSIDE, if is_root() { "root" } else { "user" });
    let status = command.status().expect("unshare");
    std::process::exit(status.code().unwrap_or(1));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the marks are those of who is root of the machine.
fn namespace() -> Namespace {
    let user = std::env::var_os("OVERLAY2_BENCH_INSIDE").is_some_and(|inside| inside == "user");
    if user || !is_root() { Namespace::User } else { Namespace::Trusted }
}

/// A directory on a file system to measure on.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) name: &'static str,
    place: Option<tempfile::TempDir>,
    is_mounted: bool,
}

impl Disk {
    /// The file system of temporary files.
    pub(crate) fn here() -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        Self { name: "here", place: Some(place), is_mounted: false }
    }

    /// A new file system in a file; `None`, said by name, where that cannot be made.
    pub(crate) fn of(name: &'static str) -> Option<Self> {
        let place = tempfile::tempdir().expect("a temporary directory");
        let image = tempfile::NamedTempFile::new().expect("a temporary file");
        image.as_file().set_len(8 << 30).expect("a sparse file");
        let force = if name == "ext4" { "-F" } else { "-f" };
        let mkfs = format!("mkfs.{name}");
        let quiet: &[&str] = if name == "btrfs" { &["-q"] } else { &["-q", force] };
        let made = run(Command::new(mkfs).args(quiet).arg(image.path()));
        let mut command = Command::new("mount");
        let mounted = made.and_then(|()| {
            run(command.args(["-t", name, "-o", "loop"]).arg(image.path()).arg(place.path()))
        });
        // The loop device keeps the file, which has no name from here on.
        drop(image);
        match mounted {
            Ok(()) => Some(Self { name, place: Some(place), is_mounted: true }),
            Err(error) => {
                skip(&format!("{name} in a loop device"), &error);
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.as_ref().expect("until it is dropped").path()
    }

    /// Waits until all that was written before is on disk.
    pub(crate) fn settle(&self) {
        let dir = std::fs::File::open(self.path()).expect("open");
        rustix::fs::syncfs(dir).expect("syncfs");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            drop(run(Command::new("umount").arg("-l").arg(self.path())));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {text}")) }
}

/// Who looks at the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The least system calls that the work takes.
    Floor,
    Kernel,
    Merged,
}

impl Side {
    pub(crate) const ALL: [Self; 3] = [Self::Floor, Self::Kernel, Self::Merged];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Kernel => "kernel",
            Self::Merged => "merged",
        }
    }
}

/// An UpperDir and a WorkDir that go when this does.
#[derive(Debug)]
pub(crate) struct Fresh {
    place: tempfile::TempDir,
}

impl Fresh {
    pub(crate) fn on(disk: &Disk) -> Self {
        let place = tempfile::tempdir_in(disk.path()).expect("a temporary directory");
        for name in ["upper", "work"] {
            std::fs::create_dir(place.path().join(name)).expect("create");
        }
        Self { place }
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.place.path().join("upper")
    }

    pub(crate) fn tree(&self, lowers: &[PathBuf], durability: Durability) -> Tree {
        let open = |path: &Path| Dir::open_ambient(path).expect("open");
        let lower = lowers.iter().map(|path| open(path)).collect();
        let options = Options::new(namespace()).durability(durability);
        let work = open(&self.place.path().join("work"));
        Tree::writable(lower, open(&self.upper()), work, &options).expect("a tree")
    }

    /// The same by the kernel: a mount that nobody else sees, gone with its descriptor.
    pub(crate) fn mount(
        &self,
        lowers: &[PathBuf],
        durability: Durability,
    ) -> rustix::io::Result<OwnedFd> {
        let fs = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for lower in lowers {
            mount::fsconfig_set_string(&fs, "lowerdir+", lower)?;
        }
        mount::fsconfig_set_string(&fs, "upperdir", self.upper())?;
        mount::fsconfig_set_string(&fs, "workdir", self.place.path().join("work"))?;
        if namespace() == Namespace::User {
            mount::fsconfig_set_flag(&fs, "userxattr")?;
        } else {
            for option in ["index", "metacopy"] {
                mount::fsconfig_set_string(&fs, option, "off")?;
            }
            mount::fsconfig_set_string(&fs, "redirect_dir", "nofollow")?;
        }
        if durability == Durability::None {
            mount::fsconfig_set_flag(&fs, "volatile")?;
        }
        mount::fsconfig_create(&fs)?;
        mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }
}

/// Whether the kernel can be asked at all here.
pub(crate) fn can_mount(disk: &Disk) -> bool {
    let lower = tempfile::tempdir_in(disk.path()).expect("a temporary directory");
    match Fresh::on(disk).mount(&[lower.path().to_path_buf()], Durability::None) {
        Ok(_) => true,
        Err(error) => {
            skip(&format!("the kernel's overlayfs on {}", disk.name), &error.to_string());
            false
        }
    }
}

pub(crate) fn open_dir(path: &Path) -> OwnedFd {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("open")
}

/// One measured thing: runs it once on one side and tells how long it took.
pub(crate) struct Case<'a> {
    pub(crate) name: String,
    pub(crate) once: Box<dyn FnMut(Side) -> Duration + 'a>,
}

/// Runs cases by criterion, or, where `OVERLAY2_RATIOS` is a number of runs, all sides in turn that
/// many times, and prints medians and ratios.
pub(crate) fn measure(
    criterion: &mut Criterion,
    group: &str,
    sides: &[Side],
    cases: Vec<Case<'_>>,
) {
    let runs = std::env::var("OVERLAY2_RATIOS").ok().and_then(|runs| runs.parse().ok());
    if let Some(runs) = runs {
        return print_ratios(group, sides, cases, runs);
    }
    let mut group = criterion.benchmark_group(group);
    group.sample_size(20).warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    for mut case in cases {
        for side in sides {
            group.bench_function(format!("{}/{}", case.name, side.name()), |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| (case.once)(*side)).sum());
            });
        }
    }
    group.finish();
}

fn print_ratios(group: &str, sides: &[Side], cases: Vec<Case<'_>>, runs: usize) {
    let filter: Vec<_> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!("\n{group}, medians of {runs} interleaved runs, in microseconds");
    println!("| what | floor | kernel | merged | merged / kernel | merged / floor |");
    println!("|---|---|---|---|---|---|");
    for mut case in cases {
        let name = format!("{group}/{}", case.name);
        if !filter.is_empty() && !filter.iter().any(|part| name.contains(part)) {
            continue;
        }
        let mut times = [const { Vec::new() }; 3];
        for round in 0..runs {
            for step in 0..3 {
                let index = (round + step) % 3;
                if sides.contains(&Side::ALL[index]) {
                    times[index].push((case.once)(Side::ALL[index]).as_secs_f64() * 1e6);
                }
            }
        }
        let [floor, kernel, merged] = times.map(median);
        let (kernels, floors) = (merged / kernel, merged / floor);
        println!(
            "| {} | {floor:.0} | {kernel:.0} | {merged:.0} | {kernels:.2} | {floors:.2} |",
            case.name
        );
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
