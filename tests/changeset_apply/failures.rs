//! E34 and D10: what fails in the middle, and what is stopped.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use overlay2::changeset::{ApplyOptions, Ownership, apply};
use overlay2::{ErrorKind, Namespace, Progress, Watch};

use crate::run::{Scratch, Way, make_dir, memory};
use crate::tar::{Entry, dir, file, tar};

#[test]
fn e34_no_space_and_no_inodes() {
    let test = "e34_no_space_and_no_inodes";
    let many: Vec<Entry> = (0..50).map(|n| file(format!("d/f{n}"), "x".repeat(4_000))).collect();
    for (option, value) in [("size", "64k"), ("nr_inodes", "20")] {
        let Some(root) = memory(test, &[(option, value)]) else { return };
        let (layer, side) = (make_dir(&root, "layer"), make_dir(&root, "side"));
        let mut options = ApplyOptions::new(Namespace::Trusted);
        options.side = Some(&side);
        let error = apply(&*tar(&many), &layer, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{option}: {error}");
        assert!(error.to_string().contains("/d/f"), "{option}: {error}");
    }
    // Directories and marks are written at the end; that fails as clearly.
    let Some(root) = memory(test, &[("nr_inodes", "10")]) else { return };
    let marks: Vec<Entry> = (0..20).map(|n| file(format!(".wh.f{n}"), "")).collect();
    let error = apply(&*tar(&marks), &root, &ApplyOptions::new(Namespace::Trusted)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("create whiteout /f"), "{error}");
}

/// Gives some bytes and then an error.
struct Broken<'a>(&'a [u8], i32);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::from_raw_os_error(self.1));
        }
        self.0.read(buffer)
    }
}

/// Gives a few bytes at a time, and is interrupted in between, by the kernel and otherwise.
struct Slow<'a>(&'a [u8], u32);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        match self.1 % 4 {
            0 => return Err(io::Error::from_raw_os_error(4)),
            2 => return Err(io::ErrorKind::Interrupted.into()),
            _ => {}
        }
        let length = buffer.len().min(7);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn e34_a_source_that_fails() {
    let bytes = tar(&[dir("d"), file("d/f", "x".repeat(600_000))]);
    for length in [0, 1, 100, 512, 2_000, 300_000, bytes.len()] {
        let scratch = Scratch::new(Way::PlainUser);
        let mut options = ApplyOptions::new(Namespace::User);
        options.ownership = Ownership::Recorded;
        let error = apply(Broken(&bytes[..length], 5), &scratch.layer(), &options).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{length}: {error}");
        assert!(error.to_string().contains("read changeset"), "{length}: {error}");
    }
}

#[test]
fn a_slow_source_is_no_other() {
    let bytes = tar(&[dir("d"), file("d/f", "x".repeat(3_000))]);
    let scratch = Scratch::new(Way::PlainUser);
    let mut options = ApplyOptions::new(Namespace::User);
    options.ownership = Ownership::Recorded;
    let applied = apply(Slow(&bytes, 0), &scratch.layer(), &options).unwrap();
    assert_eq!(applied.read_bytes, bytes.len() as u64);
    assert_eq!(applied.digest, overlay2::Digest::of(&bytes));
}

#[test]
fn d10_a_slow_source_is_not_read_any_more_once_cancelled() {
    let cancel = AtomicBool::new(false);
    let mut reads = 0;
    let source = std::iter::from_fn(|| {
        assert!(!cancel.load(Ordering::Relaxed));
        reads += 1;
        cancel.store(reads == 3_000, Ordering::Relaxed);
        Some(b'x')
    });
    let scratch = Scratch::new(Way::PlainUser);
    let mut options = ApplyOptions::new(Namespace::User);
    options.ownership = Ownership::Recorded;
    options.watch = Watch::new().cancel(&cancel);
    let header = tar(&[file("f", "x".repeat(9_000_000))])[..512].to_vec();
    let error =
        apply(header.as_slice().chain(ByteByByte(source)), &scratch.layer(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

struct ByteByByte<I>(I);

impl<I: Iterator<Item = u8>> Read for ByteByByte<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer[0] = self.0.next().unwrap();
        Ok(1)
    }
}

/// Says that it gave more than it was asked for.
struct Boaster;

impl Read for Boaster {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(buffer.len() + 1)
    }
}

#[test]
fn a_source_that_says_what_cannot_be_is_named() {
    let scratch = Scratch::new(Way::PlainUser);
    let error = apply(Boaster, &scratch.layer(), &ApplyOptions::new(Namespace::User)).unwrap_err();
    assert!(error.to_string().contains("more than it was asked for"), "{error}");
}

#[test]
fn d10_progress_and_cancelling() {
    let bytes = tar(&(0..300).map(|n| file(format!("f{n}"), "x")).collect::<Vec<_>>());
    let scratch = Scratch::new(Way::PlainUser);
    let (cancel, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let observer = |progress: &Progress<'_>| {
        assert_eq!(progress.subject, "the changeset");
        assert!(most.fetch_max(progress.entries, Ordering::Relaxed) <= progress.entries);
        cancel.store(progress.entries >= 128, Ordering::Relaxed);
    };
    let mut options = ApplyOptions::new(Namespace::User);
    options.subject = "the changeset";
    options.watch = Watch::new().observer(&observer).cancel(&cancel);
    options.ownership = Ownership::Recorded;
    let error = apply(&*bytes, &scratch.layer(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(most.load(Ordering::Relaxed), 128);
}
