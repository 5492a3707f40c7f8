//! The slots of the namespaces, read once for all renewals that look at them: a fleet that is due would ask the API server for the same answer all the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::api::{Api, ApiError};
use crate::cluster::lease::{SLOT_PREFIX, StoredLease};

/// A slot's name, and what is stored of it.
pub(super) type Slot = (String, Option<StoredLease>);

/// Those of a namespace.
type All = Arc<[Slot]>;

/// What is known of them. It may be old: whoever takes a slot does so on what he has seen of it, and learns from a conflict.
#[derive(Default)]
pub(super) struct Slots {
    known: Mutex<BTreeMap<String, (Instant, All)>>,
}

impl Slots {
    /// The slots of a namespace, as they were at most so long ago.
    pub(super) async fn of(&self, api: &Api, namespace: &str, count: u32, age: Duration) -> Result<All, ApiError> {
        // Held while they are read: nobody reads beside another, and nothing older comes back after `forget`.
        let mut known = self.known.lock().await;
        if let Some((at, slots)) = known.get(namespace)
            && at.elapsed() < age
        {
            return Ok(Arc::clone(slots));
        }
        let at = Instant::now();
        let read = async |number| {
            let name = format!("{SLOT_PREFIX}{number}");
            let stored = api.lease(namespace, &name).await?;
            Ok((name, stored))
        };
        let slots: All = try_join_all((0..count).map(read)).await?.into();
        known.insert(namespace.to_owned(), (at, Arc::clone(&slots)));
        Ok(slots)
    }

    /// To be called once one of them may have changed.
    pub(super) async fn forget(&self, namespace: &str) {
        self.known.lock().await.remove(namespace);
    }
}
