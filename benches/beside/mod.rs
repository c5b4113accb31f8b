//! What benches with a floor share: images of many files, and medians of interleaved runs.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod life;

use std::time::Duration;

use criterion::Criterion;
use overlay2::{ChainId, Driver, DriverOptions, Durability, Watch};

/// Whether everything runs once and small, to see that it runs.
pub(crate) fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// A number, or a much smaller one where it only has to run.
pub(crate) fn scaled(full: usize, test: usize) -> usize {
    if is_test() { test } else { full }
}

/// A store of which nothing is synced.
pub(crate) fn store(root: &std::path::Path, durability: Durability) -> Driver {
    let mut options = DriverOptions::default();
    options.durability = durability;
    Driver::open_with(root, &options).expect("a store")
}

/// A layer of so many files, a hundred in each directory, of 200 bytes to 8 KiB.
pub(crate) fn layer(driver: &Driver, files: usize) -> ChainId {
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_size(0);
        if number % 100 == 0 {
            header.set_entry_type(tar::EntryType::Directory);
            let path = format!("d{}/", number / 100);
            tar.append_data(&mut header, path, std::io::empty()).expect("an entry");
            header.set_entry_type(tar::EntryType::Regular);
        }
        let content = content(number);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path(number), content.as_slice()).expect("an entry");
    }
    let tar = tar.into_inner().expect("a tar");
    driver.apply(None, tar.as_slice(), Watch::new()).expect("a layer").chain_id
}

/// Where the file of that number is.
pub(crate) fn path(number: usize) -> String {
    format!("d{}/f{number}", number / 100)
}

/// Bytes that do not repeat.
pub(crate) fn content(number: usize) -> Vec<u8> {
    let mut state = number as u64;
    let size = 200 + number * 7919 % 7992;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// One way to do a thing: does it once and tells how long that took.
pub(crate) struct Way<'a> {
    pub(crate) name: &'static str,
    pub(crate) once: Box<dyn FnMut() -> Duration + 'a>,
}

/// Measures ways of doing one thing, the floor first: by criterion, or, where `OVERLAY2_RATIOS` is a
/// number of runs, in turn that many times; then it prints medians, and ratios to the floor.
pub(crate) fn measure(criterion: &mut Criterion, what: &str, mut ways: Vec<Way<'_>>) {
    let runs = std::env::var("OVERLAY2_RATIOS").ok().and_then(|runs| runs.parse::<usize>().ok());
    let Some(runs) = runs else {
        let mut group = criterion.benchmark_group(what);
        group.sample_size(10).warm_up_time(Duration::from_millis(1));
        for way in &mut ways {
            group.bench_function(way.name, |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| (way.once)()).sum());
            });
        }
        return group.finish();
    };
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..runs {
        for step in 0..ways.len() {
            let index = (round + step) % ways.len();
            times[index].push((ways[index].once)());
        }
    }
    let medians: Vec<_> = times.iter_mut().map(|times| median(times)).collect();
    for (way, median) in ways.iter().zip(&medians) {
        let ratio = median.as_secs_f64() / medians[0].as_secs_f64();
        println!("| {what} | {} | {:.3} ms | {ratio:.2} |", way.name, median.as_secs_f64() * 1e3);
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
