//! A proxy in front of a Kubernetes API that lets port-forwards through, or does them harm, and remembers what was asked.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to port-forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// They are refused with this status.
    Refuse(StatusCode),
    /// They are answered as if nobody had asked for an upgrade.
    NoUpgrade,
    /// They break after so many bytes from the pod's side.
    CutAfter(usize),
    /// Every second one to this port breaks at once.
    CutSecond(u16),
}

/// The proxy; ends when dropped.
pub struct Tunnel {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    api: SocketAddr,
    harm: Mutex<Harm>,
    /// The harm that begins with the first change of a path with these words in it.
    trigger: Mutex<Option<(String, Harm)>>,
    asked: Mutex<Vec<String>>,
    /// To the port of [`Harm::CutSecond`].
    forwards: AtomicUsize,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

impl Tunnel {
    pub async fn start(api: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            api,
            harm: Mutex::new(Harm::None),
            trigger: Mutex::default(),
            asked: Mutex::default(),
            forwards: AtomicUsize::default(),
        });
        let given = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&given);
                tokio::spawn(async move {
                    let service = service_fn(move |request| pass(Arc::clone(&shared), request));
                    // A connection that is cut on purpose ends in an error.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self { address, shared, task }
    }

    pub fn harm(&self, harm: Harm) {
        self.shared.forwards.store(0, Ordering::Relaxed);
        *self.shared.harm.lock().unwrap() = harm;
    }

    /// Begins with the first change of a path with these words in it, before that is carried out.
    pub fn harm_from(&self, words: &str, harm: Harm) {
        *self.shared.trigger.lock().unwrap() = Some((words.to_owned(), harm));
    }

    /// What was asked until now, method, path and query; forgotten with that.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }
}

async fn pass(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    shared.asked.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
    // A trial changes nothing.
    let is_trial = request.uri().query().is_some_and(|query| query.contains("dryRun"));
    if request.method() != Method::GET
        && !is_trial
        && let Some((_, harm)) =
            shared.trigger.lock().unwrap().take_if(|(words, _)| request.uri().path().contains(words.as_str()))
    {
        *shared.harm.lock().unwrap() = harm;
    }
    if !request.uri().path().ends_with("/portforward") {
        return send(&shared, request).await;
    }
    let harm = *shared.harm.lock().unwrap();
    match harm {
        Harm::None => tunnel(&shared, request, usize::MAX).await,
        Harm::CutAfter(bytes) => tunnel(&shared, request, bytes).await,
        Harm::CutSecond(port) => {
            let is_meant = request.uri().query().is_some_and(|query| query.ends_with(&format!("ports={port}")));
            let is_second = is_meant && shared.forwards.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            tunnel(&shared, request, if is_second { 0 } else { usize::MAX }).await
        }
        Harm::NoUpgrade => Ok(Response::new(Full::from("no such page"))),
        Harm::Refuse(code) => {
            let body = format!(
                r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{},"message":"on purpose"}}"#,
                code.as_u16()
            );
            Ok(Response::builder().status(code).header("content-type", "application/json").body(body.into()).unwrap())
        }
    }
}

async fn connect(shared: &Shared) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, Cut> {
    let stream = TcpStream::connect(shared.api).await.map_err(|_| Cut)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| Cut)?;
    // It ends when its sender or what it was upgraded to is dropped.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

async fn send(shared: &Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let mut sender = connect(shared).await?;
    let response = sender.send_request(Request::from_parts(head, body.into())).await.map_err(|_| Cut)?;
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, body.collect().await.map_err(|_| Cut)?.to_bytes().into()))
}

/// Carries a port-forward on, for so many bytes from the pod's side.
async fn tunnel(shared: &Shared, mut request: Request<Incoming>, bytes: usize) -> Result<Response<Full<Bytes>>, Cut> {
    let near = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let mut sender = connect(shared).await?;
    let mut response = sender.send_request(Request::from_parts(head, Full::default())).await.map_err(|_| Cut)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        return Ok(Response::from_parts(head, body.collect().await.map_err(|_| Cut)?.to_bytes().into()));
    }
    let far = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (Ok(near), Ok(far)) = (near.await, far.await) else { return };
        let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(near));
        let (mut from_pod, mut to_pod) = tokio::io::split(TokioIo::new(far));
        let back = async {
            let (mut left, mut chunk) = (bytes, vec![0; 4096]);
            while let Ok(read @ 1..) = from_pod.read(&mut chunk).await {
                let now = read.min(left);
                if to_client.write_all(&chunk[..now]).await.is_err() {
                    return;
                }
                left -= now;
                if left == 0 {
                    return;
                }
            }
        };
        tokio::select! {
            () = back => {}
            _ = tokio::io::copy(&mut from_client, &mut to_pod) => {}
        }
    });
    let (head, _) = response.into_parts();
    Ok(Response::from_parts(head, Full::default()))
}
