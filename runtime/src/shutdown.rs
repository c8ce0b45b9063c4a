// SPDX-License-Identifier: Apache-2.0
//! SIGTERM and SIGINT to an orderly end with a deadline.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The request to stop, and the tasks that must end before the process does.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet; for tests and tools.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM or SIGINT asks for. A second signal kills the process at once, as it
    /// would without us.
    ///
    /// # Errors
    /// Where the signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let this = Self::default();
        let token = this.token.clone();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            token.cancel();
            tokio::select! {
                _ = terminate.recv() => std::process::exit(128 + 15),
                _ = interrupt.recv() => std::process::exit(128 + 2),
            }
        });
        Ok(this)
    }

    /// Cancelled when the process is to stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks everyone to stop.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Waits until somebody asks.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Spawns a task that [`Shutdown::finish`] waits for.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Waits for every spawned task, but no longer than `deadline`; says whether all ended.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_heed_the_request_are_waited_for() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let task = shutdown.spawn(async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        });
        assert!(shutdown.finish(Duration::from_secs(2)).await);
        assert_eq!(task.await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_holds_nobody_up_past_the_deadline() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        assert!(!shutdown.finish(Duration::from_secs(2)).await);
    }
}
