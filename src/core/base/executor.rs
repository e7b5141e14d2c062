//! The executor seam: where blocking file and index work runs.
//!
//! How it works: [`run`] hands a closure to the executor and awaits its answer. In production that is a thread of the
//! runtime's blocking pool, behind a fair semaphore; in a simulation the closure runs at once in the caller, because
//! paused time runs ahead of threads and an aborted task's blocking job would go on by itself.
//!
//! Invariant: a job that was started runs to its end even if the awaiting future is dropped.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

/// One piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs blocking work: on threads in production, at once and in order in a simulation.
pub trait StoreExecutor: Send + Sync + std::fmt::Debug {
    /// Runs the job, now or soon, exactly once.
    fn execute(&self, job: Job);

    /// Bounds the jobs under way, waiting in order; `None` where jobs run in the caller.
    fn permits(&self) -> Option<Arc<Semaphore>>;

    /// Whether jobs run before `execute` returns; the committer then also runs in the caller.
    fn is_inline(&self) -> bool {
        self.permits().is_none()
    }
}

/// The executor dropped a job without running it: the process is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the blocking work was dropped before it ran or panicked")]
pub struct JobLost;

/// Runs `work` on the executor and waits for its answer.
pub async fn run<R, F>(executor: &dyn StoreExecutor, work: F) -> Result<R, JobLost>
where
    R: Send + 'static,
    F: FnOnce() -> R + Send + 'static,
{
    let permit = match executor.permits() {
        Some(permits) => Some(permits.acquire_owned().await.map_err(|_| JobLost)?),
        None => None,
    };
    let (sender, receiver) = oneshot::channel();
    executor.execute(Box::new(move || {
        let answer = work();
        drop(permit);
        let _ = sender.send(answer);
    }));
    receiver.await.map_err(|_| JobLost)
}

/// Threads of the async runtime's blocking pool, bounded.
#[derive(Debug, Clone)]
pub struct ThreadExecutor {
    runtime: tokio::runtime::Handle,
    permits: Arc<Semaphore>,
}

impl ThreadExecutor {
    /// At most `concurrency_max` jobs at a time; more wait in order.
    pub fn new(runtime: tokio::runtime::Handle, concurrency_max: usize) -> Self {
        Self { runtime, permits: Arc::new(Semaphore::new(concurrency_max)) }
    }
}

impl StoreExecutor for ThreadExecutor {
    fn execute(&self, job: Job) {
        self.runtime.spawn_blocking(job);
    }

    fn permits(&self) -> Option<Arc<Semaphore>> {
        Some(Arc::clone(&self.permits))
    }
}

/// Runs each job in the caller.
#[derive(Debug, Default, Clone, Copy)]
pub struct InlineExecutor;

impl StoreExecutor for InlineExecutor {
    fn execute(&self, job: Job) {
        job();
    }

    fn permits(&self) -> Option<Arc<Semaphore>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract: every job runs exactly once and answers; a panicking job is an error, not a hang.
    async fn keeps_the_contract(executor: &dyn StoreExecutor) {
        let answers = futures_util::future::join_all((0..50_u32).map(|n| run(executor, move || n * 2))).await;
        assert_eq!(answers, (0..50_u32).map(|n| Ok(n * 2)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn threads_and_inline_keep_the_contract() {
        keeps_the_contract(&ThreadExecutor::new(tokio::runtime::Handle::current(), 3)).await;
        keeps_the_contract(&InlineExecutor).await;
    }

    #[tokio::test]
    async fn a_panicking_job_on_a_thread_is_reported_and_frees_its_permit() {
        let executor = ThreadExecutor::new(tokio::runtime::Handle::current(), 1);
        assert_eq!(run(&executor, || panic!("on purpose")).await, Err::<(), _>(JobLost));
        assert_eq!(run(&executor, || 1).await, Ok(1));
    }

    #[tokio::test]
    async fn no_more_jobs_run_than_permitted() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
        let executor = ThreadExecutor::new(tokio::runtime::Handle::current(), 2);
        let jobs = (0..20).map(|_| {
            run(&executor, || {
                let now = UNDER_WAY.fetch_add(1, Ordering::SeqCst) + 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
                UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
                now
            })
        });
        let peaks = futures_util::future::join_all(jobs).await;
        assert!(peaks.into_iter().all(|peak| peak.is_ok_and(|now| now <= 2)));
    }
}
