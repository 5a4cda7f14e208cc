//! A fixed pool of threads that shares out numbered tasks.
//!
//! Threads spin briefly between two jobs and then sleep, so that a sequence of short
//! operations pays about a microsecond a job and an idle process costs nothing. A thread
//! that wakes late is not waited for: the caller takes the tasks that are left and closes
//! the job. A panic in a task reaches the caller; the remaining tasks are dropped.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

use super::isa::Isa;

/// How often a thread looks for work before it sleeps: some tens of microseconds.
const SPINS: u32 = 2_000;

// `Shared::state`: job number, whether threads may join it, how many are in it.
const OPEN: u64 = 1 << 15;
const INSIDE: u64 = OPEN - 1;
const JOB: u64 = 1 << 16;

/// One call of [`Pool::run`], as the threads see it.
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    count: usize,
    caller: Thread,
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// The next task that nobody has taken.
    next: AtomicUsize,
    asleep: Vec<AtomicBool>,
    shut_down: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the caller that holds `Pool::caller`, while the state is
// closed and nobody is inside; it is read only by threads that are counted inside. The
// task behind the pointer is `Sync` and outlives the job, because the caller returns only
// when the job is closed and nobody is inside.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is bound to a thread.
unsafe impl Send for Shared {}

/// The threads of the CPU backend, and the instruction set that their kernels use.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time: concurrent callers queue here.
    caller: Mutex<()>,
    isa: Isa,
}

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` threads, the calling one included; 0 means one for each
    /// available core. Where the system refuses a thread the pool goes on with fewer.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// A pool whose kernels use `isa`, which this machine must have.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        assert!(isa.available(), "{isa} is not available on this machine");
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n.min(INSIDE as usize),
        };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            asleep: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            shut_down: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (0..threads - 1)
            .map_while(|index| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("cpu-{}", index + 1))
                    .spawn(move || shared.serve(index))
                    .ok()
            })
            .collect();
        Self {
            shared,
            workers,
            caller: Mutex::new(()),
            isa,
        }
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `task(0)` … `task(count - 1)`, each once, on any thread and in any order, and
    /// returns when all are done. Tasks must write to disjoint places. Inside a task a
    /// nested call runs on its own thread alone.
    ///
    /// # Panics
    /// With the payload of a task that panicked, after every thread has left the job.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        if count <= 1 || self.workers.is_empty() || IN_TASK.get() {
            return (0..count).for_each(task);
        }
        let task: &(dyn Fn(usize) + Sync) = &task;
        let guard = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(Job {
            // SAFETY: only the lifetime is erased; see `Sync for Shared`.
            task: unsafe {
                std::mem::transmute::<
                    *const (dyn Fn(usize) + Sync + '_),
                    *const (dyn Fn(usize) + Sync + 'static),
                >(task)
            },
            count,
            caller: std::thread::current(),
        });
        self.shared.work(task, count);
        self.shared.close();
        let panic = self
            .shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(guard);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Makes `job` the current one and wakes who sleeps.
    fn publish(&self, job: Job) {
        let shared = &*self.shared;
        // SAFETY: the state is closed with nobody inside, and `caller` is held.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        let last = shared.state.load(Ordering::Relaxed) / JOB;
        shared
            .state
            .store(((last + 1) * JOB) | OPEN, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shut_down.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its tasks' panics: there is nothing to learn from the result.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Takes tasks until none is left; a panic is kept for the caller and ends the job.
    fn work(&self, task: &(dyn Fn(usize) + Sync), count: usize) {
        IN_TASK.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                task(index);
            }
        }));
        IN_TASK.set(false);
        if let Err(payload) = result {
            self.next.store(count, Ordering::Relaxed);
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(payload);
        }
    }

    /// Lets nobody in any more and waits until everybody is out.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut spins = 0;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
    }

    /// A worker's life.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        while let Some(number) = self.wait_for_job_after(seen, index) {
            seen = number;
            if !self.enter(number) {
                continue;
            }
            // SAFETY: this thread is counted inside, so the job stays as it is.
            let job = unsafe { (*self.job.get()).as_ref().expect("an open job is set") };
            let caller = job.caller.clone();
            // SAFETY: the task outlives the job, see `Sync for Shared`.
            self.work(unsafe { &*job.task }, job.count);
            if self.state.fetch_sub(1, Ordering::AcqRel) & (OPEN | INSIDE) == 1 {
                caller.unpark();
            }
        }
    }

    /// The number of the current job as soon as it is another than `seen`; `None` when the
    /// pool shuts down.
    fn wait_for_job_after(&self, seen: u64, index: usize) -> Option<u64> {
        let mut spins = 0;
        loop {
            let number = self.state.load(Ordering::SeqCst) / JOB;
            if number != seen || self.shut_down.load(Ordering::SeqCst) {
                self.asleep[index].store(false, Ordering::SeqCst);
                return (number != seen).then_some(number);
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else if spins == SPINS {
                // Announce the sleep, then look once more: whoever publishes after that
                // look sees the announcement.
                self.asleep[index].store(true, Ordering::SeqCst);
            } else {
                std::thread::park();
            }
        }
    }

    /// Counts this thread in if job `number` is still open.
    fn enter(&self, number: u64) -> bool {
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                (state / JOB == number && state & OPEN != 0).then_some(state + 1)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_every_job() {
        let pool = Pool::new(4);
        for count in [0, 1, 2, 3, 7, 100, 1000] {
            let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..50 {
                pool.run(count, |index| {
                    hits[index].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(hits.iter().all(|n| n.load(Ordering::Relaxed) == 50));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        for bad in [0, 1, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, |index| {
                    if index == bad {
                        panic!("task {index} is broken");
                    }
                });
            }));
            let payload = caught.expect_err("the panic must not be swallowed");
            let text = payload.downcast_ref::<String>().unwrap();
            assert_eq!(text, &format!("task {bad} is broken"));
            let sum = AtomicUsize::new(0);
            pool.run(100, |index| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn nested_and_concurrent_calls_finish() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        pool.run(8, |_| {
                            pool.run(4, |_| {
                                sum.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 20 * 8 * 4);
    }
}
