//! Which points are tried, and how a difference is told.

use std::collections::BTreeSet;

/// How many are to be tried where an ordinary run tries `count`.
fn wanted(count: usize) -> usize {
    match std::env::var("OVERLAY2_FAULTS").as_deref() {
        Ok("all") => usize::MAX,
        Ok(number) => number.parse().unwrap(),
        Err(_) => count,
    }
}

/// The seed of this run, printed once.
pub fn seed() -> u64 {
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("OVERLAY2_SEED").ok().map(|text| text.parse().unwrap());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("OVERLAY2_SEED={seed}");
        seed
    })
}

/// Numbers that follow from a seed: xorshift.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 8).unwrap() % bound.max(1)
    }
}

/// Every k-th, so that about `count` remain, the first of them by the seed; all where that is asked.
pub fn of<T>(points: Vec<T>, count: usize) -> Vec<T> {
    let count = wanted(count);
    if points.len() <= count {
        return points;
    }
    let step = points.len().div_ceil(count);
    let first = Random::new(seed()).below(step);
    points.into_iter().skip(first).step_by(step).collect()
}

/// What of `found` is neither in one nor in the other, and what it lacks of both.
pub fn difference(old: &[String], new: &[String], found: &[String]) -> String {
    let set = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
    let (old, new, found) = (set(old), set(new), set(found));
    let nearer =
        if found.symmetric_difference(&old).count() < found.symmetric_difference(&new).count() {
            ("before", old)
        } else {
            ("after", new)
        };
    let mut text = String::new();
    for line in found.difference(&nearer.1) {
        text += &format!("  more than {}: {line}\n", nearer.0);
    }
    for line in nearer.1.difference(&found) {
        text += &format!("  less than {}: {line}\n", nearer.0);
    }
    text
}

/// What went wrong, told at once and at the end.
#[derive(Debug, Default)]
pub struct Failures(pub Vec<String>);

impl Failures {
    pub fn push(&mut self, what: String) {
        eprintln!("LOSS {what}");
        self.0.push(what);
    }
}
