//! The same work on several threads.

/// As many threads as were asked for; for 0 as many as there are processors.
pub(crate) fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}

/// Runs `work` on so many threads, the caller's among them; on fewer where the system has no more.
pub(crate) fn side_by_side(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        let more = || std::thread::Builder::new().spawn_scoped(scope, &work);
        // Where one cannot be started the next cannot either.
        let _ = (1..threads).try_for_each(|_| more().map(drop));
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn everybody_works() {
        assert_eq!((threads(7), threads(0) > 0), (7, true));
        for (asked, expected) in [(0, 1), (1, 1), (5, 5)] {
            let done = AtomicUsize::new(0);
            side_by_side(asked, || {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), expected);
        }
    }
}
