//! The executor seam: where blocking store work runs.

/// One piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs blocking work: on threads in production, at once and in order in a simulation.
pub trait StoreExecutor: Send + Sync + std::fmt::Debug {
    /// Runs the job, now or soon, exactly once.
    fn execute(&self, job: Job);

    /// Whether jobs run before `execute` returns; the committer then also runs in the caller.
    fn is_inline(&self) -> bool;
}

/// Threads of the async runtime's blocking pool, bounded.
#[derive(Debug)]
pub struct ThreadExecutor {
    _runtime: tokio::runtime::Handle,
}

impl ThreadExecutor {
    /// At most `concurrency_max` jobs at a time; more wait in order.
    pub fn new(runtime: tokio::runtime::Handle, concurrency_max: usize) -> Self {
        let _ = concurrency_max;
        Self { _runtime: runtime }
    }
}

impl StoreExecutor for ThreadExecutor {
    fn execute(&self, job: Job) {
        let _ = job;
        todo!()
    }

    fn is_inline(&self) -> bool {
        false
    }
}

/// Runs each job in the caller.
#[derive(Debug, Default)]
pub struct InlineExecutor;

impl StoreExecutor for InlineExecutor {
    fn execute(&self, job: Job) {
        job();
    }

    fn is_inline(&self) -> bool {
        true
    }
}
