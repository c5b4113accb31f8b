//! The same work on several threads, and threads to which work is given.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

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

/// Something to do.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Threads that do what they are given; they start with the first job, and end with this value, once
/// all of it is done.
#[derive(Debug)]
pub(crate) struct Workers {
    count: usize,
    started: OnceLock<(SyncSender<Job>, Vec<JoinHandle<()>>)>,
}

impl Workers {
    /// So many threads, or fewer where the system has no more.
    pub(crate) fn new(count: usize) -> Self {
        Self { count, started: OnceLock::new() }
    }

    /// Whether there is nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Gives a job to the next thread that is free; gives it back where as many wait already as there
    /// are threads.
    pub(crate) fn offer(&self, job: Job) -> Result<(), Job> {
        if self.is_empty() {
            return Err(job);
        }
        let (jobs, _) = self.started.get_or_init(|| start(self.count));
        jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let Some((jobs, threads)) = self.started.take() else { return };
        drop(jobs);
        for thread in threads {
            // One that panicked has told so.
            let _ = thread.join();
        }
    }
}

fn start(count: usize) -> (SyncSender<Job>, Vec<JoinHandle<()>>) {
    let (sender, jobs) = sync_channel(count);
    let jobs = Arc::new(Mutex::new(jobs));
    let more = || {
        let jobs = Arc::clone(&jobs);
        std::thread::Builder::new().spawn(move || {
            while let Some(job) = next(&jobs) {
                job();
            }
        })
    };
    // Where one cannot be started the next cannot either.
    let threads = (0..count).map_while(|_| more().ok()).collect();
    (sender, threads)
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    // Nobody panics while he waits.
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    #[test]
    fn what_nobody_takes_is_given_back() {
        assert!(Workers::new(0).offer(Box::new(|| ())).is_err());
        let workers = Workers::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let (open, gate) = channel::<()>();
        let mut waits = Some(gate);
        let mut job = || -> Job {
            let (done, gate) = (Arc::clone(&done), waits.take());
            Box::new(move || {
                gate.map(|gate| gate.recv());
                done.fetch_add(1, Ordering::Relaxed);
            })
        };
        let taken = (0..9).filter(|_| workers.offer(job()).is_ok()).count();
        assert!((1..=2).contains(&taken), "{taken}");
        open.send(()).unwrap();
        drop(workers);
        assert_eq!(done.load(Ordering::Relaxed), taken);
    }

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
