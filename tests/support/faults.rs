//! What stands between meshcert and a Kubernetes API, and does harm at one chosen mutation.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, watch};
use tower::{ServiceExt, service_fn};

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
    /// It never arrives, and no answer comes until the client gives up.
    TimeoutBefore,
    /// Done, but no answer comes until the client gives up.
    TimeoutAfter,
    /// Another writer touches the object just before.
    ForeignWriter,
    /// A person removes all staged copies just before: not among those that pass.
    StagedRemoved,
    /// Every watch breaks off just after.
    WatchCut,
    /// Another process leads from then on, and dies.
    LeadershipLost,
}

impl Fault {
    /// Those after which a renewal goes on.
    pub const ALL: [Self; 13] = [
        Self::KilledBefore,
        Self::KilledAfter,
        Self::Conflict,
        Self::Error,
        Self::ErrorAfter,
        Self::Throttled,
        Self::CutBefore,
        Self::CutAfter,
        Self::TimeoutBefore,
        Self::TimeoutAfter,
        Self::ForeignWriter,
        Self::WatchCut,
        Self::LeadershipLost,
    ];
}

/// What is counted and done.
pub struct Plan {
    /// At which mutation, from 0, and what.
    pub at: Option<(usize, Fault)>,
    /// The mutations so far, as method and path.
    pub mutations: Mutex<Vec<String>>,
    /// How often what was asked: `get secrets`.
    pub asked: Mutex<BTreeMap<String, usize>>,
    /// Told when the process is to die.
    pub kill: mpsc::UnboundedSender<()>,
    /// The path of a workload whose pod template somebody else manages: what is added to it is gone at once.
    pub managed: Mutex<Option<String>>,
    /// What nobody may do, as verb and resource; `list pods in a` in one namespace alone.
    pub withheld: Mutex<Option<&'static str>>,
    /// What is answered with this status and not done, as verb and resource likewise.
    pub broken: Mutex<Option<(&'static str, StatusCode)>>,
    /// Tells the watches to break off.
    cut: watch::Sender<()>,
    api: Router,
    dead: AtomicBool,
}

/// A client of the API, through all that goes wrong. Requests do not leave the process: what is tried is the protocol, thousands of times.
pub fn client(plan: &Arc<Plan>) -> kube::Client {
    let plan = Arc::clone(plan);
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let plan = Arc::clone(&plan);
        async move {
            let (head, body) = request.into_parts();
            forward(&plan, Request::from_parts(head, body.collect().await.map_err(|_| Cut)?.to_bytes())).await
        }
    });
    kube::Client::new(service, "default")
}

impl Plan {
    pub fn new(api: Router, at: Option<(usize, Fault)>, kill: mpsc::UnboundedSender<()>) -> Self {
        let (mutations, asked, withheld, broken, managed, cut, dead) = Default::default();
        Self { at, mutations, asked, withheld, broken, kill, managed, cut, api, dead }
    }

    /// The next process may speak.
    pub fn revive(&self) {
        self.dead.store(false, Ordering::SeqCst);
    }
}

/// Verb and resource, as RBAC names them.
fn right(request: &Request<Bytes>) -> String {
    let path = request.uri().path();
    let segments: Vec<&str> = path.split('/').skip_while(|segment| *segment != "namespaces").skip(2).collect();
    let (plural, named, sub) = match segments[..] {
        [] => (path, true, String::new()),
        [plural] => (plural, false, String::new()),
        [plural, _] => (plural, true, String::new()),
        [plural, _, sub, ..] => (plural, true, format!("/{sub}")),
    };
    let verb = match (request.method().as_str(), named) {
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        (other, _) => &other.to_lowercase(),
    };
    format!("{verb} {plural}{sub}")
}

/// Leadership and Events are no part of the protocol, and a trial changes nothing.
fn is_mutation(request: &Request<Bytes>) -> bool {
    let path = request.uri().path();
    let is_trial = request.uri().query().is_some_and(|query| query.contains("dryRun"));
    request.method() != Method::GET
        && !is_trial
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

async fn forward(plan: &Plan, request: Request<Bytes>) -> Result<Response<Body>, Cut> {
    if plan.dead.load(Ordering::SeqCst) {
        return Err(Cut);
    }
    // Leadership costs the same whether anything is renewed or not.
    if !request.uri().path().ends_with("/leases/meshcert-leader") {
        *plan.asked.lock().unwrap().entry(right(&request)).or_default() += 1;
    }
    let withheld = plan.withheld.lock().unwrap().map(|what| (what, StatusCode::FORBIDDEN));
    let broken = *plan.broken.lock().unwrap();
    let is_meant = |what: &str| {
        let (what, namespace) = what.split_once(" in ").unwrap_or((what, ""));
        what == right(&request) && request.uri().path().contains(&format!("/namespaces/{namespace}"))
    };
    if let Some((_, status)) = [withheld, broken].into_iter().flatten().find(|(what, _)| is_meant(what)) {
        return Ok(refuse(status));
    }
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
        None => {
            let managed = plan.managed.lock().unwrap().clone();
            let managed = managed.filter(|path| request.method() == Method::PATCH && request.uri().path() == path);
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let answer = send(plan, request).await;
            if is_watch {
                return answer.map(|response| response.map(|body| until_cut(body, plan.cut.subscribe())));
            }
            if let Some(path) = managed {
                let theirs = r#"{"spec":{"template":{"metadata":{"annotations":{"meshcert.dev/certificates-digest":null,"kubectl.kubernetes.io/restartedAt":null}}}}}"#;
                merge(plan, &path, theirs).await;
            }
            answer
        }
        Some(Fault::KilledBefore) => {
            die();
            Err(Cut)
        }
        Some(Fault::KilledAfter) => {
            let _ = send(plan, request).await;
            die();
            Err(Cut)
        }
        Some(Fault::Conflict) => Ok(refuse(StatusCode::CONFLICT)),
        Some(Fault::Error) => Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR)),
        Some(Fault::ErrorAfter) => {
            let _ = send(plan, request).await;
            Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR))
        }
        Some(Fault::Forbidden) => Ok(refuse(StatusCode::FORBIDDEN)),
        Some(Fault::Throttled) => Ok(refuse(StatusCode::TOO_MANY_REQUESTS)),
        Some(Fault::CutBefore) => Err(Cut),
        Some(Fault::CutAfter) => {
            let _ = send(plan, request).await;
            Err(Cut)
        }
        Some(Fault::TimeoutBefore) => std::future::pending().await,
        Some(Fault::TimeoutAfter) => {
            let _ = send(plan, request).await;
            std::future::pending().await
        }
        Some(Fault::ForeignWriter) => {
            if request.method() != Method::POST {
                let path = request.uri().path().trim_end_matches("/status").to_owned();
                // No annotation: of a Deployment it raises the generation, by which restarts are counted.
                merge(plan, &path, r#"{"metadata":{"labels":{"example.org/touched":"yes"}}}"#).await;
            }
            send(plan, request).await
        }
        Some(Fault::StagedRemoved) => {
            remove_staged(plan).await;
            send(plan, request).await
        }
        Some(Fault::WatchCut) => {
            let answer = send(plan, request).await;
            plan.cut.send_replace(());
            answer
        }
        Some(Fault::LeadershipLost) => {
            let lease = "/apis/coordination.k8s.io/v1/namespaces/istio-system/leases/meshcert-leader";
            merge(plan, lease, r#"{"spec":{"holderIdentity":"another"}}"#).await;
            send(plan, request).await
        }
    }
}

/// What comes of a body until it breaks off.
fn until_cut(body: Body, mut cut: watch::Receiver<()>) -> Body {
    let data = body.into_data_stream().map(|data| data.map_err(|_| Cut));
    let cut = async move { cut.changed().await };
    Body::from_stream(data.take_until(cut).chain(stream::once(async { Err(Cut) })))
}

async fn merge(plan: &Plan, path: &str, patch: &'static str) {
    let request = Request::patch(path).header("host", "api").header("content-type", "application/merge-patch+json");
    let _ = send(plan, request.body(Bytes::from_static(patch.as_bytes())).unwrap()).await;
}

async fn remove_staged(plan: &Plan) {
    let secrets = "/api/v1/namespaces/istio-system/secrets?fieldSelector=type%3Dmeshcert.dev%2Fstaged";
    let delete = Request::delete(secrets).header("host", "api").body(Bytes::new()).unwrap();
    assert_eq!(send(plan, delete).await.unwrap().status(), StatusCode::OK);
}

fn refuse(code: StatusCode) -> Response<Body> {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{},"message":"on purpose"}}"#,
        code.as_u16()
    );
    Response::builder().status(code).header("content-type", "application/json").body(Body::from(body)).unwrap()
}

async fn send(plan: &Plan, request: Request<Bytes>) -> Result<Response<Body>, Cut> {
    match plan.api.clone().oneshot(request.map(Body::from)).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}
