//! TLS servers with the manners of a hosted kube-apiserver and of etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime as TlsTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::demo::access::Access;
use crate::demo::api::{Api, json_response, router};
use crate::demo::schema::Schemas;
use crate::demo::status::Failure;
use crate::demo::store::Store;
use crate::ports::Clock;

/// What a server shows: its chain and its key.
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads `NAME.crt` and `NAME.key`.
    pub(super) fn read(data: &BTreeMap<String, Vec<u8>>, name: &str) -> anyhow::Result<Self> {
        let entry = |end: &str| data.get(&format!("{name}.{end}")).with_context(|| format!("there is no {name}.{end}"));
        let chain = CertificateDer::pem_slice_iter(entry("crt")?)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{name}.crt cannot be read"))?;
        let key = PrivateKeyDer::from_pem_slice(entry("key")?).with_context(|| format!("{name}.key cannot be read"))?;
        Ok(Self { chain, key })
    }
}

/// A TLS server with a router behind it.
pub(super) struct Server {
    acceptor: TlsAcceptor,
    router: Router,
}

/// What the checks of a request need.
struct Gate {
    clients: Arc<dyn ClientCertVerifier>,
    /// When the hosted API's own certificate for etcd ends: after that it cannot reach its store.
    etcd_client_ends: i64,
    clock: Arc<dyn Clock>,
}

/// The certificate that a client showed.
#[derive(Clone)]
struct Client(Option<CertificateDer<'static>>);

/// The hosted API: reads a client's certificate after the handshake and answers 401 or 403, as kube-apiserver does.
pub(super) fn kube_apiserver(
    identity: Identity,
    client_ca: &[u8],
    etcd_client: &[u8],
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Server> {
    let etcd_client =
        CertificateDer::from_pem_slice(etcd_client).context("apiserver-etcd-client.crt cannot be read")?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&etcd_client)?;
    let clients = verifier(client_ca)?;
    let gate = Arc::new(Gate {
        clients: Arc::clone(&clients),
        etcd_client_ends: parsed.validity().not_after.timestamp(),
        clock: Arc::clone(&clock),
    });
    let router = router(Arc::new(Api {
        store,
        clock: Arc::clone(&clock),
        access: Access::default(),
        nodes: Arc::default(),
        schemas: Schemas::default(),
    }))
    .layer(middleware::from_fn_with_state(gate, check));
    Server::new(identity, Arc::new(Lenient(clients)), router, clock)
}

/// etcd: demands a client certificate in the handshake, and tells its health.
pub(super) fn etcd(identity: Identity, ca: &[u8], clock: Arc<dyn Clock>) -> anyhow::Result<Server> {
    let healthy = || async { axum::Json(json!({ "health": "true", "reason": "" })) };
    Server::new(identity, verifier(ca)?, Router::new().route("/health", get(healthy)), clock)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn verifier(ca: &[u8]) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.context("ca.crt cannot be read")?)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|error| anyhow!("{error}"))
}

impl Server {
    fn new(
        identity: Identity,
        clients: Arc<dyn ClientCertVerifier>,
        router: Router,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let config = ServerConfig::builder_with_details(provider(), Arc::new(TlsClock(clock)))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(identity.chain, identity.key)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), router })
    }

    /// Serves until it is aborted.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors: others will be freed.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let server = Arc::clone(&self);
            connections.spawn(async move { server.answer(stream).await });
        }
    }

    /// Answers one connection until the client ends it.
    pub(super) async fn answer(&self, stream: TcpStream) {
        // A handshake that fails is the client's to report.
        let Ok(stream) = self.acceptor.accept(stream).await else { return };
        let client = stream.get_ref().1.peer_certificates().and_then(|all| all.first().cloned());
        let router = self.router.clone().layer(axum::Extension(Client(client.map(CertificateDer::into_owned))));
        let service = TowerToHyperService::new(router);
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<Client>().cloned();
    let refusal = match client.and_then(|client| client.0) {
        None => Some(unauthorized("no client certificate")),
        Some(certificate) => gate.refuse(&certificate, request.method(), request.uri().path()),
    };
    match refusal {
        Some(failure) => json_response(failure.code, &failure.body()),
        None => next.run(request).await,
    }
}

fn unauthorized(why: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", format!("Unauthorized: {why}"))
}

impl Gate {
    fn refuse(&self, certificate: &CertificateDer<'_>, method: &Method, path: &str) -> Option<Failure> {
        let now = self.clock.now();
        let moment = TlsTime::since_unix_epoch(Duration::from_secs(now.0.max(0).unsigned_abs()));
        if let Err(error) = self.clients.verify_client_cert(certificate, &[], moment) {
            return Some(unauthorized(&format!("x509: {error}")));
        }
        if now.0 >= self.etcd_client_ends {
            let message = "etcdserver: x509: certificate has expired or is not yet valid";
            return Some(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message));
        }
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let is_master = subject.iter_organization().any(|name| name.as_str() == Ok("system:masters"));
        let user = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        (!is_master).then(|| {
            let verb = method.as_str().to_lowercase();
            Failure::new(StatusCode::FORBIDDEN, "Forbidden", format!("User {user:?} cannot {verb} path {path:?}"))
        })
    }
}

/// Takes any client certificate whose key the client has; the gate behind it judges.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: TlsTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The demo's clock, for rustls.
struct TlsClock(Arc<dyn Clock>);

impl std::fmt::Debug for TlsClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClock")
    }
}

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<TlsTime> {
        Some(TlsTime::since_unix_epoch(Duration::from_secs(self.0.now().0.max(0).unsigned_abs())))
    }
}
