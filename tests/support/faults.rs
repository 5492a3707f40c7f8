//! A proxy in front of a Kubernetes API that does harm at one chosen mutation.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the request is carried out.
    KilledBefore,
    /// The process dies after the request was carried out and before it learns of it.
    KilledAfter,
    /// Somebody else was faster.
    Conflict,
    /// 500, nothing done.
    Error,
    /// 500, but done.
    ErrorAfter,
    /// 403, nothing done: not among those that pass.
    Forbidden,
    /// 429, nothing done.
    Throttled,
    /// The connection breaks, nothing done.
    CutBefore,
    /// The connection breaks, but done.
    CutAfter,
    /// Another writer touches the object just before.
    ForeignWriter,
    /// Another process leads from then on, and dies.
    LeadershipLost,
}

impl Fault {
    /// Those after which a renewal goes on.
    pub const ALL: [Self; 10] = [
        Self::KilledBefore,
        Self::KilledAfter,
        Self::Conflict,
        Self::Error,
        Self::ErrorAfter,
        Self::Throttled,
        Self::CutBefore,
        Self::CutAfter,
        Self::ForeignWriter,
        Self::LeadershipLost,
    ];
}

/// What the proxy counts and does.
pub struct Plan {
    /// At which mutation, from 0, and what.
    pub at: Option<(usize, Fault)>,
    /// The mutations so far, as method and path.
    pub mutations: Mutex<Vec<String>>,
    /// Told when the process is to die.
    pub kill: mpsc::UnboundedSender<()>,
    api: SocketAddr,
    dead: AtomicBool,
}

/// The proxy; ends when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    pub plan: Arc<Plan>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(api: SocketAddr, at: Option<(usize, Fault)>, kill: mpsc::UnboundedSender<()>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Arc::new(Plan { at, mutations: Mutex::default(), kill, api, dead: AtomicBool::new(false) });
        let shared = Arc::clone(&plan);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let plan = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| forward(Arc::clone(&plan), request));
                    // A connection that is cut on purpose ends in an error.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, plan, task }
    }

    /// The next process may speak.
    pub fn revive(&self) {
        self.plan.dead.store(false, Ordering::SeqCst);
    }
}

/// Leadership and Events are no part of the protocol.
fn is_mutation(request: &Request<Bytes>) -> bool {
    let path = request.uri().path();
    request.method() != Method::GET
        && !path.contains("/events")
        && !path.ends_with("/leases/meshcert-leader")
        && !path.ends_with("/leases")
        || request.method() == Method::POST && path.ends_with("/leases") && !body_names_leader(request)
}

fn body_names_leader(request: &Request<Bytes>) -> bool {
    String::from_utf8_lossy(request.body()).contains("meshcert-leader")
}

#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

async fn forward(plan: Arc<Plan>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    if plan.dead.load(Ordering::SeqCst) {
        return Err(Cut);
    }
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, body.collect().await.map_err(|_| Cut)?.to_bytes());
    let fault = is_mutation(&request).then(|| {
        let mut mutations = plan.mutations.lock().unwrap();
        mutations.push(format!("{} {}", request.method(), request.uri().path()));
        plan.at.filter(|(index, _)| mutations.len() == index + 1).map(|(_, fault)| fault)
    });
    let die = || {
        plan.dead.store(true, Ordering::SeqCst);
        let _ = plan.kill.send(());
    };
    match fault.flatten() {
        None => send(&plan, request).await,
        Some(Fault::KilledBefore) => {
            die();
            Err(Cut)
        }
        Some(Fault::KilledAfter) => {
            let _ = send(&plan, request).await;
            die();
            Err(Cut)
        }
        Some(Fault::Conflict) => Ok(refuse(StatusCode::CONFLICT)),
        Some(Fault::Error) => Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR)),
        Some(Fault::ErrorAfter) => {
            let _ = send(&plan, request).await;
            Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR))
        }
        Some(Fault::Forbidden) => Ok(refuse(StatusCode::FORBIDDEN)),
        Some(Fault::Throttled) => Ok(refuse(StatusCode::TOO_MANY_REQUESTS)),
        Some(Fault::CutBefore) => Err(Cut),
        Some(Fault::CutAfter) => {
            let _ = send(&plan, request).await;
            Err(Cut)
        }
        Some(Fault::ForeignWriter) => {
            if request.method() != Method::POST {
                let path = request.uri().path().trim_end_matches("/status").to_owned();
                // No annotation: of a Deployment it raises the generation, by which restarts are counted.
                merge(&plan, &path, r#"{"metadata":{"labels":{"example.org/touched":"yes"}}}"#).await;
            }
            send(&plan, request).await
        }
        Some(Fault::LeadershipLost) => {
            let lease = "/apis/coordination.k8s.io/v1/namespaces/istio-system/leases/meshcert-leader";
            merge(&plan, lease, r#"{"spec":{"holderIdentity":"another"}}"#).await;
            send(&plan, request).await
        }
    }
}

async fn merge(plan: &Plan, path: &str, patch: &'static str) {
    let request = Request::patch(path).header("host", "api").header("content-type", "application/merge-patch+json");
    let _ = send(plan, request.body(Bytes::from_static(patch.as_bytes())).unwrap()).await;
}

fn refuse(code: StatusCode) -> Response<Full<Bytes>> {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{},"message":"on purpose"}}"#,
        code.as_u16()
    );
    Response::builder().status(code).header("content-type", "application/json").body(Full::from(body)).unwrap()
}

async fn send(plan: &Plan, request: Request<Bytes>) -> Result<Response<Full<Bytes>>, Cut> {
    let stream = TcpStream::connect(plan.api).await.map_err(|_| Cut)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| Cut)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request.map(Full::new)).await.map_err(|_| Cut)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, Full::new(body)))
}
