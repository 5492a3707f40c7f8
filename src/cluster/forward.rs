//! A stream to a port of a pod through the API server: `pods/portforward` over WebSocket, subprotocol `v4.channel.k8s.io`.
//!
//! Nodes have served it since before Kubernetes 1.25, the oldest that meshcert works on. A GET that upgrades needs the verb `get`; from 1.35 on `create` too, as a POST always did (KEP-4006).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{Fuse, FutureExt};
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::cluster::api::{Api, ApiError, ErrorKind, UNKNOWN};
use crate::cluster::connect::chain;

/// Until the API server has come through to the pod's node.
const DEADLINE: Duration = Duration::from_secs(10);
/// Where a way is barred for good.
const NO_WEBSOCKET: &str = "; the API server, or a proxy before it, forwards no ports over WebSocket: let upgrades through, or set reach: direct for this cluster and run meshcert where its pods' addresses lead";
/// Of what a server says.
const LONGEST_MESSAGE: usize = 512;

/// A port of a pod.
pub struct Forwarded {
    stream: DuplexStream,
    /// What the node says when it cannot come through to the port.
    complaint: Fuse<Pin<Box<dyn Future<Output = Option<String>> + Send>>>,
    forwarder: Portforwarder,
}

impl Api {
    /// Opens a stream to a port of a pod; whether somebody listens there shows when it is used.
    ///
    /// # Errors
    /// The API server refuses, the pod is gone, or there is no answer in time.
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forwarded, ApiError> {
        let asked = format!("port-forward to {pod}:{port} in {namespace}");
        let failed = |kind, why: String| ApiError { kind, message: format!("{asked}: {why}") };
        let pods = kube::Api::<Pod>::namespaced(self.client().clone(), namespace);
        let ports = [port];
        let opened = tokio::time::timeout(DEADLINE, pods.portforward(pod, &ports)).await;
        let mut forwarder = match opened {
            Ok(Ok(forwarder)) => forwarder,
            Ok(Err(error)) => {
                let (kind, why) = words(&error);
                return Err(failed(kind, why));
            }
            Err(_) => {
                let why = format!("no answer within {} s", DEADLINE.as_secs());
                return Err(failed(ErrorKind::Unavailable, why));
            }
        };
        let (Some(stream), Some(complaint)) = (forwarder.take_stream(port), forwarder.take_error(port)) else {
            return Err(failed(ErrorKind::Unavailable, "there is no stream".to_owned()));
        };
        Ok(Forwarded { stream, complaint: complaint.boxed().fuse(), forwarder })
    }
}

/// What a refusal means, with its remedy.
fn words(error: &kube::Error) -> (ErrorKind, String) {
    match error {
        kube::Error::Api(status) => {
            let said: String = status.message.chars().take(LONGEST_MESSAGE).collect();
            let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let (kind, remedy) = match code {
                StatusCode::NOT_FOUND => (ErrorKind::NotFound, "; the pod is gone"),
                StatusCode::UNAUTHORIZED => {
                    return (ErrorKind::Unavailable, format!("{UNKNOWN}: the API server answered {code}: {said}"));
                }
                StatusCode::FORBIDDEN => (
                    ErrorKind::Forbidden,
                    "; grant the verbs get and create on pods/portforward there (a Role is enough), or set reach: direct where the pods' addresses lead there",
                ),
                StatusCode::METHOD_NOT_ALLOWED | StatusCode::UPGRADE_REQUIRED | StatusCode::NOT_IMPLEMENTED => {
                    (ErrorKind::Invalid, NO_WEBSOCKET)
                }
                // What a node says where a proxy has swallowed the upgrade.
                StatusCode::BAD_REQUEST if said.to_lowercase().contains("upgrade") => {
                    (ErrorKind::Invalid, NO_WEBSOCKET)
                }
                _ => (ErrorKind::Unavailable, ""),
            };
            (kind, format!("the API server answered {code}: {said}{remedy}"))
        }
        kube::Error::UpgradeConnection(why) => (ErrorKind::Invalid, format!("{}{NO_WEBSOCKET}", chain(why))),
        other => (ErrorKind::Unavailable, chain(other)),
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // Its task would otherwise wait for the server's farewell.
        self.forwarder.abort();
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // The complaint comes before the end of the stream; without one, the way has broken.
        Poll::Ready(Err(match Pin::new(&mut self.complaint).poll(cx) {
            Poll::Ready(Some(said)) => io::Error::other(said.chars().take(LONGEST_MESSAGE).collect::<String>()),
            Poll::Ready(None) | Poll::Pending => {
                io::Error::new(io::ErrorKind::ConnectionAborted, "the API server ended the port-forward")
            }
        }))
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
