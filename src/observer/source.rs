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
use crate::tasks::resume_panic;

/// Events in flight between the connection and the inventory, each up to a page of Secrets; a full channel slows the connection down, nothing is dropped.
const EVENTS: usize = 1;

/// Read from one source at most.
const MOST: Most = Most { secrets: 200_000, certificates: 600_000 };

/// How much is held.
#[derive(Clone, Copy)]
struct Most {
    secrets: usize,
    certificates: usize,
}

/// Connects, follows and publishes until it is dropped.
pub(super) async fn run(spec: ClusterSpec, source: Arc<SourceState>, registry: Arc<Registry>, clock: Arc<dyn Clock>) {
    let mut task = Source {
        inventory: Inventory::new(spec.selection.naming.clone()),
        names: NamePool::default(),
        listing: None,
        most: MOST,
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
    if let Some(Err(error)) = following.join_next().await {
        resume_panic(error);
    }
}

struct Source {
    inventory: Inventory,
    names: NamePool,
    /// The Secrets seen by the list that is under way.
    listing: Option<HashSet<SecretRef>>,
    most: Most,
    source: Arc<SourceState>,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
}

impl Source {
    fn take(&mut self, event: SecretEvent) {
        match event {
            SecretEvent::ListStarted => {
                self.listing = Some(HashSet::new());
                self.registry.record(&self.source, |health| health.overflowed = false);
            }
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
        let is_the_watch = error.reason == SourceErrorReason::Gone && self.listing.is_none();
        self.registry
            .record(&self.source, |health| if is_the_watch { health.count(error) } else { health.fail(error) });
    }

    fn apply(&mut self, secrets: Vec<RawSecret>) {
        let Self { inventory, names, .. } = self;
        let facts: Vec<SecretFacts> =
            block_in_place(|| secrets.into_iter().map(|secret| read(secret, inventory, names)).collect());
        let mut overflows = false;
        for facts in facts {
            let known = self.inventory.get(&facts.reference).map(|known| known.certificates());
            let others = self.inventory.certificates() - known.unwrap_or_default();
            let has_room = known.is_some() || self.inventory.len() < self.most.secrets;
            if has_room && others + facts.certificates() <= self.most.certificates {
                self.inventory.apply(facts);
            } else {
                overflows = true;
            }
        }
        if overflows {
            self.overflow();
        }
    }

    /// Says that Secrets are left out, once per list: what is not seen must not look healthy.
    fn overflow(&self) {
        let mut is_news = false;
        self.registry.record(&self.source, |health| is_news = !std::mem::replace(&mut health.overflowed, true));
        if is_news {
            let Most { secrets, certificates } = self.most;
            let message = format!(
                "more than {secrets} certificate Secrets, or {certificates} certificates; narrow the namespaces or secretRules"
            );
            self.fail(&SourceError { reason: SourceErrorReason::TooLarge, message });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::cluster::connect::Connection;
    use crate::metrics::exposition::Exposition;
    use crate::metrics::family::Format;
    use crate::metrics::{Observed, SourceHealth};
    use crate::secret::Class;
    use crate::testpki::{Ca, NOW};

    fn mk_source(secrets: usize) -> Source {
        let registry = Arc::new(Registry::default());
        let selection = Selection { mesh_namespaces: None, naming: Default::default(), rules: Vec::new() };
        let spec = ClusterSpec {
            name: "one".into(),
            connection: Connection::InCluster,
            namespaces: None,
            selection: Arc::new(selection),
        };
        let source = registry.add(&spec).remove(0);
        Source {
            inventory: Inventory::new(spec.selection.naming.clone()),
            names: NamePool::default(),
            listing: None,
            most: Most { secrets, certificates: 2 },
            source,
            registry,
            clock: Arc::new(SystemClock),
        }
    }

    fn mk_secret(name: &str) -> RawSecret {
        mk_secret_of(name, &[])
    }

    fn mk_secret_of(name: &str, entries: &[(&str, &str)]) -> RawSecret {
        let reference = SecretRef { namespace: "n".into(), name: name.into() };
        let meta = SecretMeta {
            reference,
            uid: "u".into(),
            resource_version: "1".into(),
            secret_type: "Opaque".into(),
            labels: Default::default(),
            paused: false,
        };
        let entries = entries.iter().map(|(key, text)| ((*key).into(), Ok(text.as_bytes().to_vec().into())));
        RawSecret { meta, class: Class::Other(0), entries: entries.collect() }
    }

    /// Key and common name of each certificate that is exported.
    fn exported(source: &Source) -> Vec<String> {
        let part = Exposition::default().render(&source.registry.clusters(), Format::Classic, NOW);
        let text: Vec<u8> = part.segments.iter().flat_map(|segment| segment.inflate()).collect();
        let text = String::from_utf8(text).unwrap();
        let value = |line: &str, label: &str| {
            let (_, rest) = line.split_once(&format!("{label}=\"")).unwrap();
            rest.split_once('"').unwrap().0.to_owned()
        };
        let lines = text.lines().filter(|line| line.starts_with("x509_cert_not_after{"));
        lines.map(|line| format!("{} {}", value(line, "secret_key"), value(line, "subject_CN"))).collect()
    }

    fn list(source: &mut Source, names: &[&str]) {
        source.take(SecretEvent::ListStarted);
        source.take(SecretEvent::Page(names.iter().map(|name| mk_secret(name)).collect()));
        source.take(SecretEvent::ListFinished);
    }

    fn health(source: &Source) -> (bool, u64, u64) {
        let SourceHealth { up, objects, errors, .. } = source.registry.sources().remove(0);
        (up, objects, errors.iter().find(|(reason, _)| *reason == "too_large").map_or(0, |(_, count)| *count))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_source_that_holds_more_than_is_read_is_not_healthy_until_a_list_fits() {
        let mut source = mk_source(2);
        list(&mut source, &["a", "b"]);
        assert_eq!(health(&source), (true, 2, 0));
        list(&mut source, &["b", "a", "c", "d"]);
        assert_eq!(health(&source), (false, 2, 1));
        // Neither a sign of life nor what happens to the others makes it whole.
        let reference = mk_secret("a").meta.reference;
        source.take(SecretEvent::Alive);
        source.take(SecretEvent::Applied(reference.clone(), Some(mk_secret("a"))));
        source.take(SecretEvent::Deleted(reference));
        assert_eq!(health(&source), (false, 1, 1));
        assert_eq!(source.registry.failures().len(), 1);
        list(&mut source, &["b", "c"]);
        assert_eq!(health(&source), (true, 2, 1));
        source.take(SecretEvent::Applied(mk_secret("d").meta.reference, Some(mk_secret("d"))));
        assert_eq!(health(&source), (false, 2, 2));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_source_with_more_certificates_than_are_held_is_not_healthy_either() {
        let ca = Ca::new("ca", 100);
        let leaf = ca.leaf("leaf", 10, &[]);
        let bundle = format!("{leaf}{}", ca.leaf("other", 10, &[]));
        let mut source = mk_source(9);
        let mut lists = |secrets: Vec<RawSecret>| {
            source.take(SecretEvent::ListStarted);
            source.take(SecretEvent::Page(secrets));
            source.take(SecretEvent::ListFinished);
            (health(&source).0, exported(&source).len())
        };
        let of = |text: &str| mk_secret_of("web", &[("tls.crt", text)]);
        assert_eq!(lists(vec![of(&leaf)]), (true, 1));
        assert_eq!(lists(vec![of(&bundle)]), (true, 2));
        assert_eq!(lists(vec![of(&bundle), mk_secret_of("more", &[("tls.crt", &leaf)])]), (false, 2));
        assert_eq!(lists(vec![of(&leaf)]), (true, 1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_exported_follows_the_secret_key_by_key() {
        let ca = Ca::new("ca", 100);
        let [old, new, other] = ["old", "new", "other"].map(|name| ca.leaf(name, 10, &[]));
        let mut source = mk_source(9);
        list(&mut source, &[]);
        for (entries, expected) in [
            (&[("tls.crt", &*old)][..], &["tls.crt old"][..]),
            (&[("tls.crt", &*new)], &["tls.crt new"]),
            (&[("tls.crt", &*new), ("more.crt", &*other)], &["more.crt other", "tls.crt new"]),
            (&[("more.crt", &*other)], &["more.crt other"]),
            (&[], &[]),
        ] {
            let secret = mk_secret_of("web", entries);
            source.take(SecretEvent::Applied(secret.meta.reference.clone(), Some(secret)));
            assert_eq!(exported(&source), expected);
        }
    }
}
