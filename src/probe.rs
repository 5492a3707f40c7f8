//! Asks endpoints what they serve, and uses the hosted API as its administrator would.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime as TlsTime};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cert::Certificate;
use crate::cert::parse::{NamePool, Retain, read_entry};

/// Of a connection, of a handshake, and of a request.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a [`Stream`] says when its way broke, not its endpoint.
pub const BROKEN_WAY: std::io::ErrorKind = std::io::ErrorKind::ConnectionAborted;
/// Of an answer.
const LARGEST_ANSWER: usize = 1 << 20;

/// The credentials of a client and the CA that it trusts, all PEM.
pub struct Credentials<'a> {
    /// CA certificates.
    pub ca: &'a [u8],
    /// The client's certificate.
    pub certificate: &'a [u8],
    /// Its key.
    pub key: &'a [u8],
}

/// Why an endpoint could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProbeError {
    /// What happened.
    pub message: String,
    /// Whose fault it is.
    pub fault: Fault,
}

/// Whose fault it is that an endpoint could not be used, as far as that can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The other side refused a certificate.
    Certificate,
    /// It answered, but not what was hoped for.
    Answer,
    /// The endpoint does not do what it should.
    Endpoint,
    /// The way to it is barred or broke: nothing is known about the endpoint.
    Way,
}

impl ProbeError {
    /// The endpoint's own fault.
    pub fn of_endpoint(message: impl Into<String>) -> Self {
        Self { message: message.into(), fault: Fault::Endpoint }
    }
}

/// Takes any certificate and keeps it: what is served is to be seen, whatever it is.
#[derive(Debug)]
struct Recorder {
    seen: Mutex<Option<Vec<u8>>>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// A connection to an endpoint, by whichever way it was made.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The end of a way to an endpoint.
pub struct Line {
    /// What carries the bytes.
    pub stream: Box<dyn Stream>,
    /// The endpoint's name in messages.
    pub endpoint: String,
}

/// A line straight to an address.
///
/// # Errors
/// Nobody answers there.
pub async fn connect(address: SocketAddr, endpoint: String) -> Result<Line, ProbeError> {
    match tokio::time::timeout(DEADLINE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(Line { stream: Box::new(stream), endpoint }),
        Ok(Err(error)) => Err(failed(&endpoint, &error)),
        Err(_) => Err(too_slow(&endpoint)),
    }
}

/// The certificate that an endpoint shows, valid or not. One that demands a client certificate shows its own before it hangs up.
///
/// # Errors
/// No handshake came about.
pub async fn served(line: Line, name: &str) -> Result<Certificate, ProbeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let recorder = Arc::new(Recorder { seen: Mutex::default(), schemes });
    let config = builder(provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as _)
        .with_no_client_auth();
    let Line { stream, endpoint } = line;
    let result = handshake(stream, &endpoint, name, config).await.map(drop);
    let der = recorder.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (der, result) {
        (Some(der), _) => {
            let entry = read_entry(&der, Retain::Facts, &mut NamePool::default());
            let first = entry.certificates.into_iter().next().map(|found| found.certificate);
            first.ok_or_else(|| ProbeError::of_endpoint(format!("{endpoint} shows something that is no certificate")))
        }
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(ProbeError::of_endpoint(format!("{endpoint} showed no certificate"))),
    }
}

/// HTTPS with a client certificate, on one connection.
pub struct Session {
    endpoint: String,
    name: String,
    sender: SendRequest<Full<Bytes>>,
    /// Taken when it has ended.
    connection: Option<JoinHandle<hyper::Result<()>>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }
}

impl Session {
    /// Shakes hands as the holder of these credentials with a server of this name.
    ///
    /// # Errors
    /// The credentials cannot be used, the connection failed, or a certificate was refused.
    pub async fn open(line: Line, name: &str, credentials: &Credentials<'_>) -> Result<Self, ProbeError> {
        let config = credentials.config()?;
        let Line { stream, endpoint } = line;
        let stream = handshake(stream, &endpoint, name, config).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&endpoint, &error))?;
        Ok(Self { endpoint, name: name.to_owned(), sender, connection: Some(tokio::spawn(connection)) })
    }

    /// One request; status and body.
    ///
    /// # Errors
    /// The connection failed, or a certificate was refused.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(StatusCode, Bytes), ProbeError> {
        let Self { endpoint, name, sender, connection } = self;
        let exchange = async {
            let request = Request::builder().method(method).uri(path).header("host", &**name);
            let request = request
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes()))
        };
        let whole = async {
            let error = match exchange.await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // What ended the connection says more than that it has ended: a certificate that was refused is told here.
            if error.is::<hyper::Error>()
                && let Some(connection) = connection.take()
                && let Ok(Err(cause)) = connection.await
            {
                return Err(failed(endpoint, &cause));
            }
            Err(failed(endpoint, &*error))
        };
        tokio::time::timeout(DEADLINE, whole).await.unwrap_or_else(|_| Err(too_slow(endpoint)))
    }
}

impl Credentials<'_> {
    fn config(&self) -> Result<ClientConfig, ProbeError> {
        let unusable = |what: &str| ProbeError::of_endpoint(format!("the stored {what} cannot be used"));
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.ca) {
            roots.add(ca.map_err(|_| unusable("CA"))?).map_err(|_| unusable("CA"))?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.certificate).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key).map_err(|_| unusable("client key"))?;
        builder(Arc::new(rustls::crypto::ring::default_provider()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.map_err(|_| unusable("client certificate"))?, key)
            .map_err(|_| unusable("client certificate"))
    }
}

fn builder(
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, ProbeError> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ProbeError::of_endpoint(error.to_string()))
}

async fn handshake(
    stream: Box<dyn Stream>,
    endpoint: &str,
    name: &str,
    config: ClientConfig,
) -> Result<TlsStream<Box<dyn Stream>>, ProbeError> {
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| ProbeError::of_endpoint(format!("{name:?} is no server name")))?;
    match tokio::time::timeout(DEADLINE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(endpoint, &error)),
        Err(_) => Err(too_slow(endpoint)),
    }
}

fn too_slow(endpoint: &str) -> ProbeError {
    ProbeError::of_endpoint(format!("{endpoint}: no answer within {} s", DEADLINE.as_secs()))
}

/// Whether the other side says that a certificate is not good. What this side has against the server's is not the renewal's doing: its CA is what it was before.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(
            AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
        )
    )
}

/// The error with its causes; whose fault one of them says it is.
fn failed(endpoint: &str, error: &(dyn std::error::Error + 'static)) -> ProbeError {
    let mut message = endpoint.to_owned();
    let mut fault = Fault::Endpoint;
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        let io = error.downcast_ref::<std::io::Error>();
        let inner = io.and_then(std::io::Error::get_ref);
        let tls = error.downcast_ref::<Error>().or_else(|| inner.and_then(|inner| inner.downcast_ref::<Error>()));
        if tls.is_some_and(is_refusal) {
            fault = Fault::Certificate;
        } else if io.is_some_and(|io| io.kind() == BROKEN_WAY) {
            fault = Fault::Way;
        }
        next = error.source();
    }
    ProbeError { message, fault }
}
