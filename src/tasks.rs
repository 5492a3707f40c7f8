//! Tasks that run as long as something is wanted.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinError, JoinSet};

/// The running tasks, by what they are about. A task may be ended anywhere; all end when this is dropped.
pub struct Tasks<About> {
    running: BTreeMap<Arc<str>, (About, Vec<AbortHandle>)>,
    all: JoinSet<()>,
}

impl<About: PartialEq> Tasks<About> {
    /// Makes the running tasks those of `wanted`: what is not wanted any more, or has become another, is ended; what is new is started; all others go on
    /// undisturbed. `ended` hears what a task was about, and what the one of its name is going to be about.
    pub fn reconcile<Work>(
        &mut self,
        wanted: BTreeMap<Arc<str>, About>,
        mut ended: impl FnMut(&About, Option<&About>),
        mut start: impl FnMut(&About) -> Vec<Work>,
    ) where
        Work: Future<Output = ()> + Send + 'static,
    {
        self.running.retain(|name, (about, tasks)| {
            let next = wanted.get(name);
            let stays = next == Some(about);
            if !stays {
                tasks.iter().for_each(AbortHandle::abort);
                ended(about, next);
            }
            stays
        });
        for (name, about) in wanted {
            if !self.running.contains_key(&name) {
                let tasks = start(&about).into_iter().map(|work| self.all.spawn(work)).collect();
                self.running.insert(name, (about, tasks));
            }
        }
    }

    /// The same for a single task.
    pub fn set<Work>(&mut self, wanted: Option<About>, mut start: impl FnMut(&About) -> Work)
    where
        Work: Future<Output = ()> + Send + 'static,
    {
        let wanted = wanted.into_iter().map(|about| (Arc::from(""), about)).collect();
        self.reconcile(wanted, |_, _| {}, |about| vec![start(about)]);
    }

    /// Waits until a task panics, which must end the process; those that were ended are cleared away meanwhile.
    pub async fn failed(&mut self) -> JoinError {
        loop {
            match self.all.join_next().await {
                Some(Err(error)) if error.is_panic() => return error,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Goes on with the panic of a task of one's own, if it ended by one.
pub fn resume_panic(ended: JoinError) {
    if let Ok(panic) = ended.try_into_panic() {
        resume_unwind(panic);
    }
}

impl<About> Default for Tasks<About> {
    /// Nothing runs yet.
    fn default() -> Self {
        Self { running: BTreeMap::new(), all: JoinSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn only_what_has_changed_is_ended_and_started() {
        let wanted = |all: &[(&str, u32)]| all.iter().map(|(name, about)| (Arc::from(*name), *about)).collect();
        let said = Mutex::new(Vec::new());
        let mut tasks = Tasks::default();
        let mut make = |all: &[(&str, u32)]| {
            let say = |words: String| said.lock().unwrap().push(words);
            let start = |about: &u32| {
                say(format!("{about} starts"));
                vec![std::future::pending(), std::future::pending()]
            };
            tasks.reconcile(wanted(all), |about, next| say(format!("{about} ends, next {next:?}")), start);
            std::mem::take(&mut *said.lock().unwrap())
        };
        assert_eq!(make(&[("a", 1), ("b", 2)]), ["1 starts", "2 starts"]);
        assert_eq!(make(&[("a", 1), ("b", 2)]), Vec::<String>::new());
        assert_eq!(make(&[("a", 3), ("c", 4)]), ["1 ends, next Some(3)", "2 ends, next None", "3 starts", "4 starts"]);
        tokio::task::yield_now().await;
        let ended = std::iter::from_fn(|| tasks.all.try_join_next()).count();
        assert_eq!((ended, tasks.all.len()), (4, 4));
    }

    #[tokio::test]
    async fn a_panic_is_seen_and_an_end_is_none() {
        let mut tasks = Tasks::default();
        tasks.set(Some(1), |_| async {});
        tasks.set(Some(2), |_| async { panic!("on purpose") });
        assert!(tasks.failed().await.is_panic());
    }
}
