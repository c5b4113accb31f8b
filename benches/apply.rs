//! Applying changesets: many small files, and one large file, into a scratch directory.
//!
//! The floor beside it makes the same files with the same system calls from data in memory, so that
//! a ratio falls out.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]

use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use overlay2::changeset::{ApplyOptions, Ownership, apply};
use overlay2::{Dir, Namespace};

const FILES: usize = 2_000;
const SMALL: usize = 1_500;
const LARGE: usize = 32 << 20;

fn header(size: usize, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size as u64);
    header.set_mtime(1_700_000_000);
    // A plain user may not give files to others.
    header.set_uid(rustix::process::geteuid().as_raw().into());
    header.set_gid(rustix::process::getegid().as_raw().into());
    header
}

fn small_files() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..FILES {
        if number % 100 == 0 {
            let mut header = header(0, tar::EntryType::Directory);
            tar.append_data(&mut header, format!("d{}/", number / 100), &[][..])
                .expect("in memory");
        }
        let name = format!("d{}/f{number}", number / 100);
        let content = vec![b'x'; SMALL];
        let mut header = header(SMALL, tar::EntryType::Regular);
        tar.append_data(&mut header, name, content.as_slice()).expect("in memory");
    }
    tar.into_inner().expect("in memory")
}

fn large_file() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..LARGE).map(|index| (index % 251) as u8).collect();
    let mut header = header(LARGE, tar::EntryType::Regular);
    tar.append_data(&mut header, "large", content.as_slice()).expect("in memory");
    tar.into_inner().expect("in memory")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn unpack(tar: &[u8], into: &tempfile::TempDir) {
    let dir = Dir::open_ambient(into.path()).expect("the temporary directory");
    let mut options = ApplyOptions::new(Namespace::User);
    options.ownership = Ownership::Exact;
    apply(black_box(tar), &dir, &options).expect("applied");
}

/// The same files by the system calls alone that they need.
fn floor(into: &tempfile::TempDir) {
    let content = vec![b'x'; SMALL];
    for number in 0..FILES {
        let dir = into.path().join(format!("d{}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir(&dir).expect("create");
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o755);
        let mut file = options.open(dir.join(format!("f{number}"))).expect("create");
        file.write_all(&content).expect("write");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        file.set_modified(time).expect("set times");
    }
}

fn benches(criterion: &mut Criterion) {
    let (small, large) = (small_files(), large_file());
    let mut group = criterion.benchmark_group("apply");
    group.sample_size(20);
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("2,000 files of 1,500 bytes", |bencher| {
        bencher.iter_batched_ref(scratch, |into| unpack(&small, into), BatchSize::PerIteration);
    });
    group.bench_function("floor: 2,000 files of 1,500 bytes", |bencher| {
        bencher.iter_batched_ref(scratch, |into| floor(into), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Bytes(LARGE as u64));
    group.bench_function("one file of 32 MiB", |bencher| {
        bencher.iter_batched_ref(scratch, |into| unpack(&large, into), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(apply_benches, benches);
criterion_main!(apply_benches);
