//! One source's task: events in, inventory kept, snapshots out.

use std::collections::HashSet;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cert::parse::{NamePool, read_entry, unreadable};
use crate::cluster::connect::connect;
use crate::cluster::feed::backoff;
use crate::cluster::secrets::{Scope, follow};
use crate::inventory::Inventory;
use crate::observer::ClusterSpec;
use crate::observer::registry::{Registry, SourceState};
use crate::ports::{Clock, SecretEvent, SourceError, SourceErrorReason};
use crate::secret::{RawSecret, SecretEntry, SecretFacts, SecretMeta, SecretRef, Selection};

/// Events in flight between the connection and the inventory, each up to a page of Secrets; a full channel slows the connection down, nothing is dropped.
const EVENTS: usize = 1;

/// Secrets read from one source at most.
const MOST_SECRETS: usize = 200_000;

/// Connects, follows and publishes until it is dropped.
pub(super) async fn run(spec: ClusterSpec, source: Arc<SourceState>, registry: Arc<Registry>, clock: Arc<dyn Clock>) {
    let mut task = Source {
        inventory: Inventory::new(spec.selection.naming.clone()),
        names: NamePool::default(),
        listing: None,
        source,
        registry,
        clock,
    };
    let mut failures = 0;
    let client = loop {
        match connect(&spec.connection).await {
            Ok(client) => break client,
            Err(error) => task.fail(&error),
        }
        sleep(backoff(failures)).await;
        failures += 1;
    };
    let (sender, mut events) = mpsc::channel(EVENTS);
    let scope = Scope { namespace: task.source.namespace.clone(), selection: spec.selection };
    // A task of its own, so that the next page arrives while this one is parsed; the set ends it when this task ends.
    let mut following = JoinSet::new();
    following.spawn(follow(client, scope, sender));
    while let Some(event) = events.recv().await {
        task.take(event);
    }
    // Following never ends by itself: a panic in it is one of this task.
    if let Some(Err(error)) = following.join_next().await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

struct Source {
    inventory: Inventory,
    names: NamePool,
    /// The Secrets seen by the list that is under way.
    listing: Option<HashSet<SecretRef>>,
    source: Arc<SourceState>,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
}

impl Source {
    fn take(&mut self, event: SecretEvent) {
        match event {
            SecretEvent::ListStarted => self.listing = Some(HashSet::new()),
            SecretEvent::Page(secrets) => self.take_page(secrets),
            SecretEvent::ListFinished => self.finish_list(),
            SecretEvent::Applied(reference, secret) => {
                match secret {
                    Some(secret) => self.apply(vec![secret]),
                    None => self.inventory.delete(&reference),
                }
                self.publish();
            }
            SecretEvent::Deleted(reference) => {
                self.inventory.delete(&reference);
                self.publish();
            }
            SecretEvent::Alive => self.succeed(),
            SecretEvent::Failed(error) => self.fail(&error),
        }
    }

    fn take_page(&mut self, secrets: Vec<RawSecret>) {
        if let Some(seen) = &mut self.listing {
            seen.extend(secrets.iter().map(|secret| secret.meta.reference.clone()));
        }
        self.apply(secrets);
    }

    fn finish_list(&mut self) {
        let seen = self.listing.take().unwrap_or_default();
        self.inventory.retain(|reference| seen.contains(reference));
        self.names.shrink();
        let now = self.clock.now();
        let snapshot = block_in_place(|| self.inventory.snapshot());
        self.registry.publish(&self.source, snapshot);
        let objects = self.inventory.len() as u64;
        self.registry.record(&self.source, |health| {
            health.objects = objects;
            health.list_finished(now);
        });
        info!(source = %self.source.name, secrets = self.inventory.len(), "list complete");
    }

    fn publish(&mut self) {
        // During a list the snapshot waits for its end: half a list is not shown.
        if self.listing.is_none() {
            self.registry.publish(&self.source, self.inventory.snapshot());
            let objects = self.inventory.len() as u64;
            self.registry.record(&self.source, |health| health.objects = objects);
        }
        self.succeed();
    }

    fn succeed(&self) {
        let now = self.clock.now();
        self.registry.record(&self.source, |health| health.succeed(now));
    }

    fn fail(&self, error: &SourceError) {
        warn!(source = %self.source.name, reason = error.reason.as_str(), error = %error, "cannot read");
        self.registry.record(&self.source, |health| health.fail(error));
    }

    fn apply(&mut self, secrets: Vec<RawSecret>) {
        let Self { inventory, names, .. } = self;
        let facts: Vec<SecretFacts> =
            block_in_place(|| secrets.into_iter().map(|secret| read(secret, inventory, names)).collect());
        for facts in facts {
            if self.inventory.len() >= MOST_SECRETS && self.inventory.get(&facts.reference).is_none() {
                self.fail(&SourceError {
                    reason: SourceErrorReason::TooLarge,
                    message: format!(
                        "more than {MOST_SECRETS} certificate Secrets; narrow the namespaces or secretRules"
                    ),
                });
                return;
            }
            self.inventory.apply(facts);
        }
    }
}

/// Reads the entries whose bytes are not those that were read before.
fn read(secret: RawSecret, inventory: &Inventory, names: &mut NamePool) -> SecretFacts {
    let RawSecret { meta, class, entries } = secret;
    let known = inventory.get(&meta.reference).filter(|known| known.class == class).cloned();
    let retain = Selection::retain(&class);
    let mut entries: Vec<SecretEntry> = entries
        .into_iter()
        .map(|(key, bytes)| {
            let mut fingerprint = [0; 32];
            if let Ok(bytes) = &bytes {
                fingerprint.copy_from_slice(digest(&SHA256, bytes).as_ref());
            }
            let same = |entry: &&SecretEntry| entry.key == key && entry.digest == fingerprint && bytes.is_ok();
            let entry = match known.as_ref().and_then(|known| known.entries.iter().find(same)) {
                Some(known) => Arc::clone(&known.entry),
                None => Arc::new(match &bytes {
                    Ok(bytes) => read_entry(bytes, retain, names),
                    Err(why) => unreadable(*why),
                }),
            };
            SecretEntry { key, digest: fingerprint, entry }
        })
        .collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let SecretMeta { reference, uid, resource_version, paused, .. } = meta;
    SecretFacts { reference, uid, resource_version, paused, class, entries: entries.into() }
}
