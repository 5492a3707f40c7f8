//! The meshes as an observing process tells them: for a webhook that has no right on Secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::mesh::MeshId;
use crate::name::{is_label, is_subdomain};
use crate::ports::{Clock, SourceError, SourceErrorReason};
use crate::time::UnixTime;

/// The path of what is told, on the main address of an observing process.
pub const PATH: &str = "/api/v1/meshes/brief";

/// What an observing process tells of its meshes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Brief {
    /// Whether every source can be read: a mesh that is not here does not exist, and what is said is of now.
    pub complete: bool,
    /// The meshes.
    pub meshes: Vec<BriefMesh>,
}

/// A mesh, as far as asking for its renewal needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BriefMesh {
    /// Control plane cluster.
    pub cluster: String,
    /// Namespace.
    pub namespace: String,
    /// Mesh id.
    pub id: String,
    /// The end that counts.
    pub expiration: Option<UnixTime>,
    /// The name of the renewal of its present certificates.
    pub renewal_name: String,
}

/// Where the meshes are told, and how this process is known there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teller {
    /// `http` or `https`, host and port.
    pub url: Uri,
    /// The CA of its certificate, for https.
    pub ca: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Bearer token.
    pub bearer_token: Option<PathBuf>,
}

/// What was told last.
#[derive(Clone)]
pub struct Told {
    /// Whether it is all there is.
    pub complete: bool,
    /// The meshes, by cluster.
    pub meshes: BTreeMap<String, Vec<Arc<BriefMesh>>>,
}

/// Asks again and again, and remembers the last answer.
pub struct Learner {
    teller: Teller,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<(Instant, Arc<Told>)>,
    last_success: Option<UnixTime>,
    /// Why the last attempt failed.
    failure: Option<String>,
    errors: BTreeMap<SourceErrorReason, u64>,
    asked: bool,
}

/// How asking goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the last attempt succeeded.
    pub up: bool,
    /// Whether there was one.
    pub asked: bool,
    /// When it last answered.
    pub last_success: Option<UnixTime>,
    /// Meshes in the last answer.
    pub meshes: u64,
    /// Failed attempts by reason.
    pub errors: BTreeMap<SourceErrorReason, u64>,
    /// What failed last, while it is down.
    pub failure: Option<String>,
}

/// Between two answers.
const INTERVAL: Duration = Duration::from_secs(10);
/// Of one attempt, from the connection to the answer's last byte.
const DEADLINE: Duration = Duration::from_secs(5);
/// An answer is good for so long: some attempts may fail meanwhile.
const FRESH: Duration = Duration::from_secs(60);
/// Of an answer: more than a hundred thousand meshes.
const LARGEST_ANSWER: usize = 32 << 20;

impl Learner {
    /// Nothing is known yet.
    pub fn new(teller: Teller, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { teller, clock, state: Mutex::default() })
    }

    /// Whom it listens to.
    pub fn teller(&self) -> &Teller {
        &self.teller
    }

    /// Asks until it is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            let answer = timeout(DEADLINE, self.teller.ask()).await;
            let answer = answer.unwrap_or_else(|_| {
                let message = format!("no complete answer within {} s", DEADLINE.as_secs());
                Err(error(SourceErrorReason::Timeout, message))
            });
            self.take(answer);
            sleep(INTERVAL).await;
        }
    }

    /// What is known now.
    ///
    /// # Errors
    /// Why nothing is, in words.
    pub fn known(&self) -> Result<Arc<Told>, String> {
        let state = self.lock();
        match &state.last {
            Some((at, told)) if at.elapsed() <= FRESH => Ok(Arc::clone(told)),
            Some((at, _)) => {
                let why = state.failure.as_deref().unwrap_or("no answer");
                Err(format!("{} has told nothing for {} s: {why}", self.teller.url, at.elapsed().as_secs()))
            }
            None => {
                let why = state.failure.as_deref().unwrap_or("no answer yet");
                Err(format!("{} has told nothing yet: {why}", self.teller.url))
            }
        }
    }

    /// How asking goes.
    pub fn health(&self) -> Health {
        let state = self.lock();
        Health {
            up: state.last.is_some() && state.failure.is_none(),
            asked: state.asked,
            last_success: state.last_success,
            meshes: state.last.as_ref().map_or(0, |(_, told)| told.meshes.values().map(|all| all.len() as u64).sum()),
            errors: state.errors.clone(),
            failure: state.failure.clone(),
        }
    }

    fn take(&self, answer: Result<Told, SourceError>) {
        let mut state = self.lock();
        state.asked = true;
        match answer {
            Ok(told) => {
                if state.failure.take().is_some() || state.last.is_none() {
                    let meshes: usize = told.meshes.values().map(Vec::len).sum();
                    info!(url = %self.teller.url, meshes, "learns the meshes");
                }
                state.last_success = Some(self.clock.now());
                state.last = Some((Instant::now(), Arc::new(told)));
            }
            Err(error) => {
                warn!(url = %self.teller.url, reason = error.reason.as_str(), %error, "cannot learn the meshes");
                *state.errors.entry(error.reason).or_default() += 1;
                state.failure = Some(error.message);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Replaced field by field by code that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Teller {
    async fn ask(&self) -> Result<Told, SourceError> {
        let host = self.url.host().unwrap_or_default().to_owned();
        let secure = self.url.scheme() == Some(&Scheme::HTTPS);
        let port = self.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let unreachable = |why: String| error(SourceErrorReason::Unreachable, format!("cannot be reached: {why}"));
        // In a URL an IPv6 address stands in brackets.
        let bare = host.trim_matches(['[', ']']).to_owned();
        let stream = TcpStream::connect((bare.as_str(), port)).await.map_err(|why| unreachable(why.to_string()))?;
        if !secure {
            return self.exchange(stream).await;
        }
        let name = ServerName::try_from(bare).map_err(|why| unreachable(why.to_string()))?;
        let connector = TlsConnector::from(Arc::new(self.tls().await?));
        let stream = connector.connect(name, stream).await.map_err(|why| unreachable(format!("TLS: {why}")))?;
        self.exchange(stream).await
    }

    async fn exchange<S>(&self, stream: S) -> Result<Told, SourceError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |why: &dyn std::fmt::Display| error(SourceErrorReason::Unreachable, format!("broke off: {why}"));
        let authority = self.url.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::get(PATH).header(HOST, authority).header(ACCEPT, "application/json");
        if let Some(path) = &self.bearer_token {
            let token = Zeroizing::new(String::from_utf8_lossy(&read(path).await?).trim().to_owned());
            request = request.header(AUTHORIZATION, format!("Bearer {}", *token));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| {
            error(
                SourceErrorReason::Unauthorized,
                "the bearer token holds characters that no header may hold".to_owned(),
            )
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| broken(&why))?;
        // Ends with this attempt: the set aborts it.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        let response = sender.send_request(request).await.map_err(|why| broken(&why))?;
        let status = response.status();
        if status != StatusCode::OK {
            let reason = match status {
                StatusCode::UNAUTHORIZED => SourceErrorReason::Unauthorized,
                StatusCode::FORBIDDEN => SourceErrorReason::Forbidden,
                StatusCode::TOO_MANY_REQUESTS => SourceErrorReason::Throttled,
                _ => SourceErrorReason::Server,
            };
            return Err(error(reason, format!("answered {status} to GET {PATH}")));
        }
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|why| match why.downcast_ref::<LengthLimitError>() {
            Some(_) => {
                error(SourceErrorReason::TooLarge, format!("the answer is larger than {} MiB", LARGEST_ANSWER >> 20))
            }
            None => broken(&why),
        })?;
        understand(&body.to_bytes()).map_err(|why| error(SourceErrorReason::Decode, why))
    }

    async fn tls(&self) -> Result<ClientConfig, SourceError> {
        let unusable = |path: &Path, what: &str| {
            error(SourceErrorReason::Unreachable, format!("{}: {what}; store it as PEM", path.display()))
        };
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            for ca in certificates(path, &read(path).await?)? {
                roots.add(ca).map_err(|_| unusable(path, "a CA cannot be used"))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| error(SourceErrorReason::Unreachable, why.to_string()))?
            .with_root_certificates(roots);
        let Some((certificate, key_file)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates(certificate, &read(certificate).await?)?;
        let key = PrivateKeyDer::from_pem_slice(&read(key_file).await?)
            .map_err(|_| unusable(key_file, "there is no private key in it"))?;
        let pair = builder.with_client_auth_cert(chain, key);
        pair.map_err(|_| unusable(key_file, "does not work with the client certificate"))
    }
}

/// What an answer says, if it is what an observing process would say: the names go into requests to the Kubernetes API.
fn understand(bytes: &[u8]) -> Result<Told, String> {
    // The error's text names places, and a value that is none of the expected.
    let brief: Brief = serde_json::from_slice(bytes).map_err(|why| format!("the answer is not understood: {why}"))?;
    let mut meshes: BTreeMap<String, Vec<Arc<BriefMesh>>> = BTreeMap::new();
    for mesh in brief.meshes {
        let id: Result<MeshId, _> = mesh.id.parse();
        if id.is_err() || !is_label(&mesh.namespace) || !is_subdomain(&mesh.renewal_name) {
            return Err("the answer is not understood: it holds names that no Kubernetes object has".to_owned());
        }
        meshes.entry(mesh.cluster.clone()).or_default().push(Arc::new(mesh));
    }
    Ok(Told { complete: brief.complete, meshes })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if all.is_empty() {
        let message = format!("{}: there is no certificate in it; store it as PEM", path.display());
        return Err(error(SourceErrorReason::Unreachable, message));
    }
    Ok(all)
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let read = tokio::fs::read(path).await;
    read.map(Zeroizing::new)
        .map_err(|why| error(SourceErrorReason::Unreachable, format!("cannot read {}: {why}", path.display())))
}

fn error(reason: SourceErrorReason, message: String) -> SourceError {
    SourceError { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test(start_paused = true)]
    async fn what_was_told_counts_for_a_minute() {
        let teller = Teller { url: Uri::from_static("http://observe"), ca: None, identity: None, bearer_token: None };
        let learner = Learner::new(teller, Arc::new(ManualClock::new(UnixTime(0))));
        assert!(learner.known().is_err_and(|why| why.contains("nothing yet")));
        learner.take(Ok(Told { complete: true, meshes: BTreeMap::new() }));
        learner.take(Err(error(SourceErrorReason::Server, "answered 500".to_owned())));
        tokio::time::advance(FRESH).await;
        assert!(learner.known().is_ok(), "some attempts may fail");
        assert!(!learner.health().up, "and it is seen that they do");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(learner.known().is_err_and(|why| why.contains("for 61 s: answered 500")));
    }

    #[test]
    fn only_what_could_be_told_is_believed() {
        let answer = |mesh: &str| format!(r#"{{"complete":true,"new":1,"meshes":[{mesh}]}}"#);
        let mesh = |namespace: &str, id: &str, name: &str| {
            format!(
                r#"{{"cluster":"c","namespace":"{namespace}","id":"{id}","expiration":"2027-01-01T00:00:00Z","renewalName":"{name}"}}"#
            )
        };
        let told = understand(answer(&mesh("istio-system", "demo", "demo-0123456789")).as_bytes()).unwrap();
        assert_eq!(told.meshes["c"][0].renewal_name, "demo-0123456789");
        for odd in [
            mesh("../kube-system", "demo", "demo-0"),
            mesh("a", "demo/../x", "demo-0"),
            mesh("a", "demo", "demo-0/status"),
            mesh("a", "demo", "demo?x"),
            mesh("", "demo", "demo-0"),
            mesh("a", "demo", ""),
        ] {
            assert!(understand(answer(&odd).as_bytes()).is_err(), "{odd}");
        }
        for garbage in ["", "[]", "{}", r#"{"complete":true,"meshes":[{}]}"#, "<html>"] {
            assert!(understand(garbage.as_bytes()).is_err(), "{garbage}");
        }
    }
}
