//! What a container changed, as a changeset and as a layer: for few and many changed files, in a
//! small image and in a large one.
//!
//! The floor walks the UpperDir, reads each file, and writes and hashes a tar of them, on one thread
//! and with nothing but the system calls that it takes. `diff` writes and hashes likewise; `commit`
//! also makes the layer's files and all records.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]
#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "its results go there")]
#![allow(clippy::disallowed_methods, reason = "paths of its own")]

mod beside;

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use overlay2::changeset::DiffOptions;
use overlay2::{Base, CommitOptions, Driver, Durability, Watch};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use sha2::{Digest, Sha256};

use beside::{Way, content, layer, measure, path, scaled, store};

/// Hashes and writes, as whoever sends a changeset away does.
struct Out {
    file: File,
    hash: Sha256,
}

impl Out {
    fn to(path: &Path) -> Self {
        Self { file: File::create(path).expect("create"), hash: Sha256::new() }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const BUFFER: usize = 1 << 20;

/// The floor's tar: whole headers and contents, gathered and handed on.
struct Floor {
    out: Out,
    buffer: Vec<u8>,
}

impl Floor {
    fn room(&mut self, bytes: usize) {
        if self.buffer.len() + bytes > BUFFER {
            self.out.write_all(&self.buffer).expect("write");
            self.buffer.clear();
        }
    }

    fn header(&mut self, name: &str, kind: tar::EntryType, stat: &rustix::fs::Stat, size: u64) {
        let mut header = tar::Header::new_ustar();
        let ustar = header.as_ustar_mut().expect("it is");
        ustar.name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(size);
        header.set_cksum();
        self.room(512);
        self.buffer.extend_from_slice(header.as_bytes());
    }

    fn walk(&mut self, dir: &impl AsFd, path: &str) {
        let mut space = vec![MaybeUninit::uninit(); 64 << 10];
        let mut entries = RawDir::new(dir.as_fd(), &mut space);
        while let Some(entry) = entries.next() {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).expect("stat");
            let below = format!("{path}{}", name.to_string_lossy());
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || rustix::fs::openat(dir, name, flags, Mode::empty()).expect("open");
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.header(&below, tar::EntryType::Directory, &stat, 0);
                self.walk(&open(), &format!("{below}/"));
                continue;
            }
            let size = u64::try_from(stat.st_size).expect("a size");
            self.header(&below, tar::EntryType::Regular, &stat, size);
            let bytes = usize::try_from(size).expect("a size");
            self.room(bytes + 512);
            let (start, mut file) = (self.buffer.len(), File::from(open()));
            self.buffer.resize(start + bytes, 0);
            file.read_exact(&mut self.buffer[start..]).expect("read");
            self.buffer.resize(start + bytes.next_multiple_of(512), 0);
        }
    }
}

fn floor(upper: &Path, to: &Path) -> Duration {
    let begin = Instant::now();
    let mut floor = Floor { out: Out::to(to), buffer: Vec::with_capacity(BUFFER) };
    floor.walk(&File::open(upper).expect("open"), "");
    floor.room(BUFFER);
    let digest: [u8; 32] = floor.out.hash.finalize().into();
    std::hint::black_box(digest);
    begin.elapsed()
}

struct Bench {
    place: tempfile::TempDir,
    driver: Driver,
    upper: PathBuf,
    commits: i64,
}

impl Bench {
    /// A container on an image of `files` files, of which it changed `changed`.
    fn of(changed: usize, files: usize) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        let driver = store(&place.path().join("store"), Durability::None);
        let chain = layer(&driver, files);
        let container = driver.create(&Base::Chain(chain), Some("changed")).expect("create");
        let tree = driver.tree("changed").expect("a tree");
        // A quarter is copied up, the rest is new.
        for number in 0..changed {
            let path = if number % 4 == 0 {
                path(number % files)
            } else {
                format!("n{}/{}", number / 100, number)
            };
            let parent = Path::new(&path).parent().expect("it has one");
            tree.tree().create_dir_all(parent, 0o755).expect("a directory");
            tree.tree().write(&path, content(number)).expect("a file");
        }
        drop(tree);
        let id = container.id.parse().expect("an ID");
        let upper = driver.store().container_path(&id).join("upper");
        Self { place, driver, upper, commits: 0 }
    }

    fn diff(&self) -> Duration {
        let begin = Instant::now();
        let mut out = Out::to(&self.place.path().join("diff.tar"));
        let options = DiffOptions::default();
        self.driver.diff("changed", &mut out, &options, Watch::new()).expect("a diff");
        let digest: [u8; 32] = out.hash.finalize().into();
        std::hint::black_box(digest);
        begin.elapsed()
    }

    fn commit(&mut self) -> Duration {
        // Each commit has other times, or the layer would be there already.
        self.commits += 1;
        let mut options = CommitOptions::default();
        options.diff.source_date_epoch = Some(1_000_000_000 + self.commits);
        let begin = Instant::now();
        self.driver.commit("changed", "committed:1", &options, Watch::new()).expect("a commit");
        begin.elapsed()
    }
}

fn benches(criterion: &mut Criterion) {
    let (small, large) = (scaled(1_000, 100), scaled(50_000, 300));
    let many = scaled(20_000, 200);
    for (changed, files) in
        [(10, small), (10, large), (1_000, small), (1_000, large), (many, large)]
    {
        let changed = changed.min(many);
        let bench = std::cell::RefCell::new(Bench::of(changed, files));
        let once = |way: fn(&mut Bench) -> Duration| {
            let bench = &bench;
            Box::new(move || way(&mut bench.borrow_mut()))
        };
        let ways = vec![
            Way {
                name: "floor",
                once: once(|bench| floor(&bench.upper, &bench.place.path().join("floor.tar"))),
            },
            Way { name: "diff", once: once(|bench| bench.diff()) },
            Way { name: "commit", once: once(Bench::commit) },
        ];
        measure(criterion, &format!("{changed} changed of an image of {files} files"), ways);
    }
}

criterion_group!(diff_benches, benches);
criterion_main!(diff_benches);
