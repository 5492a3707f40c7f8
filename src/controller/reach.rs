//! The way to the pods of a cluster, and how many are asked at a time.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use crate::cluster::api::{Api, ErrorKind};
use crate::cluster::connect::{Connection, is_inside};
use crate::probe::{self, Fault, Line, ProbeError};
use crate::rollout::{Pod, Reach};

/// Each costs the API server and a node a connection: two a second at most.
const FORWARDED_PER_SWEEP: usize = 120;

/// How this process comes to the pods of its cluster.
#[derive(Clone)]
pub(super) enum Way {
    /// By their addresses.
    Direct,
    /// Through the API server.
    PortForward(Api),
}

impl Way {
    /// The way that is configured for a cluster with this connection.
    pub(super) fn new(reach: Reach, connection: &Connection, api: &Api) -> Self {
        match reach {
            Reach::Direct => Self::Direct,
            Reach::Auto if is_inside(connection) => Self::Direct,
            Reach::Auto | Reach::PortForward => Self::PortForward(api.clone()),
        }
    }

    /// How many endpoints are looked at in one sweep.
    pub(super) fn asked_per_sweep(&self) -> usize {
        match self {
            Self::Direct => usize::MAX,
            Self::PortForward(_) => FORWARDED_PER_SWEEP,
        }
    }

    /// A line to a port of a pod.
    ///
    /// # Errors
    /// The pod is not there, or nobody answers.
    pub(super) async fn open(&self, namespace: &str, pod: &Pod, port: u16) -> Result<Line, ProbeError> {
        let address: Option<IpAddr> = pod.ip.as_deref().and_then(|ip| ip.parse().ok());
        let address = address
            .filter(|_| !pod.deleting)
            .ok_or_else(|| ProbeError::of_endpoint(format!("{} has no address yet", pod.name)))?;
        match self {
            Self::Direct => {
                let address = SocketAddr::new(address, port);
                probe::connect(address, format!("{}:{port} at {}", pod.name, address.ip())).await
            }
            Self::PortForward(api) => match api.forward(namespace, &pod.name, port).await {
                Ok(forwarded) => {
                    let endpoint = format!("{}:{port} by port-forward", pod.name);
                    Ok(Line { stream: Box::new(forwarded), endpoint })
                }
                Err(error) => {
                    let fault = if error.kind == ErrorKind::NotFound { Fault::Endpoint } else { Fault::Way };
                    Err(ProbeError { message: error.message, fault })
                }
            },
        }
    }

    /// Why nothing will ever be proven on this way, asked of one pod.
    pub(super) async fn bar(&self, namespace: &str, pod: &Pod, port: u16) -> Option<String> {
        match self {
            Self::Direct => None,
            Self::PortForward(api) => {
                let error = api.forward(namespace, &pod.name, port).await.err()?;
                matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Invalid).then_some(error.message)
            }
        }
    }
}

/// Runs them, so many at a time; the results stand in the order in which they came.
pub(super) async fn abreast<T: Send>(limit: usize, tasks: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut numbered = Vec::with_capacity(tasks.len());
    for (position, task) in tasks.into_iter().enumerate() {
        numbered.push(async move { (position, task.await) }.boxed());
    }
    let mut done: Vec<(usize, T)> = stream::iter(numbered).buffer_unordered(limit).collect().await;
    done.sort_unstable_by_key(|(position, _)| *position);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_a_time_and_in_their_order() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let tasks = (0..20_u64).map(|number| {
            let (running, most) = (&running, &most);
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(20 - number)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                number
            }
            .boxed()
        });
        assert_eq!(abreast(8, tasks.collect()).await, (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 8);
    }
}
