//! A fixed pool of threads that shares out numbered tasks.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The threads of the CPU backend.
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads` threads; 0 means one for each available core.
    pub fn new(threads: usize) -> Self {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        Self { threads }
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` … `task(count - 1)`, each once, on any thread and in any order, and
    /// returns when all are done. Tasks must write to disjoint places.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                task(index);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(count) {
                scope.spawn(work);
            }
            work();
        });
    }
}
