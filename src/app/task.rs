//! A task beside the main ones.

use std::future::Future;

use tokio::task::{JoinError, JoinSet};

/// A task that starts anew when what it is about changes.
pub(super) struct Task<About> {
    about: Option<About>,
    running: JoinSet<()>,
}

impl<About: PartialEq> Task<About> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { about: None, running: JoinSet::new() }
    }

    /// Makes the running task the one that is wanted.
    pub(super) fn set<Work>(&mut self, about: Option<About>, start: impl FnOnce(&About) -> Work)
    where
        Work: Future<Output = ()> + Send + 'static,
    {
        if self.about == about {
            return;
        }
        self.running.abort_all();
        if let Some(about) = &about {
            self.running.spawn(start(about));
        }
        self.about = about;
    }

    /// Waits until it panics, which must end the process.
    pub(super) async fn failed(&mut self) -> JoinError {
        panicked(&mut self.running).await
    }
}

/// Waits until one of these panics; those that were ended are cleared away meanwhile.
pub(super) async fn panicked(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => return error,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
