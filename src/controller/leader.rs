//! Leadership of a cluster: a Lease that is taken by compare-and-swap and judged by locally observed time. It saves work; it fences nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::cluster::api::{Api, ApiError, ErrorKind};
use crate::cluster::lease::LEADER;
use crate::ports::Clock;
use crate::time::UnixTime;

/// Who else holds the Lease, and since when it has not changed.
struct Rival {
    holder: String,
    version: String,
    since: Instant,
}

/// Tries to lead until dropped, and tells since when it does. `duration` is how long others wait after the last sign of life.
pub(super) async fn elect(
    api: Api,
    namespace: String,
    identity: String,
    duration: Duration,
    clock: Arc<dyn Clock>,
    leading: watch::Sender<Option<UnixTime>>,
) {
    let mut rival = Rival { holder: String::new(), version: String::new(), since: Instant::now() };
    let mut renewed = None;
    loop {
        let started = Instant::now();
        match attempt(&api, &namespace, &identity, duration, &*clock, &mut rival).await {
            Ok(true) => {
                renewed = Some(started);
                if leading.borrow().is_none() {
                    leading.send_replace(Some(clock.now()));
                    info!(namespace, "leading");
                }
            }
            Ok(false) => {
                renewed = None;
                if leading.send_replace(None).is_some() {
                    warn!(namespace, "no longer leading");
                }
            }
            // Whoever cannot say that he lives must stop before others begin.
            Err(error) => {
                if renewed.is_none_or(|at| at.elapsed() > duration * 2 / 3) && leading.send_replace(None).is_some() {
                    warn!(namespace, %error, "no longer leading");
                }
            }
        }
        sleep(duration / 4).await;
    }
}

/// Whether the Lease is ours now.
async fn attempt(
    api: &Api,
    namespace: &str,
    identity: &str,
    duration: Duration,
    clock: &dyn Clock,
    rival: &mut Rival,
) -> Result<bool, ApiError> {
    let lease = api.lease(namespace, LEADER).await?;
    let version = lease.as_ref().map(|lease| lease.resource_version.clone());
    if let Some(lease) = &lease
        && lease.holder != identity
        && !lease.holder.is_empty()
    {
        // The version counts too: a renewal within the same second is a sign of life.
        if (&lease.holder, &lease.resource_version) != (&rival.holder, &rival.version) {
            let (holder, version) = (lease.holder.clone(), lease.resource_version.clone());
            *rival = Rival { holder, version, since: Instant::now() };
        }
        if rival.since.elapsed() < duration {
            return Ok(false);
        }
    }
    match api.lead(namespace, version.as_deref(), identity, clock.now(), duration).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}
