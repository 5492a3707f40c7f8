//! Asks endpoints what they serve, and uses the hosted API as its administrator would.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime as TlsTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cert::Certificate;
use crate::cert::parse::{NamePool, Retain, read_entry};

/// Of a handshake, and of a request.
const DEADLINE: Duration = Duration::from_secs(5);
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
    /// Whether a certificate was refused, by this side or the other.
    pub refused: bool,
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

/// The certificate that an endpoint shows, valid or not. One that demands a client certificate shows its own before it hangs up.
///
/// # Errors
/// No handshake came about.
pub async fn served(address: SocketAddr, name: &str) -> Result<Certificate, ProbeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let recorder = Arc::new(Recorder { seen: Mutex::default(), schemes });
    let config = builder(provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as _)
        .with_no_client_auth();
    let result = handshake(address, name, config).await.map(drop);
    let der = recorder.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (der, result) {
        (Some(der), _) => {
            let entry = read_entry(&der, Retain::Facts, &mut NamePool::default());
            let first = entry.certificates.into_iter().next().map(|found| found.certificate);
            first.ok_or_else(|| ProbeError {
                message: format!("{address} shows something that is no certificate"),
                refused: false,
            })
        }
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(ProbeError { message: format!("{address} showed no certificate"), refused: false }),
    }
}

/// One HTTPS request with a client certificate; status and body.
///
/// # Errors
/// The connection failed, or a certificate was refused.
pub async fn request(
    address: SocketAddr,
    name: &str,
    credentials: &Credentials<'_>,
    (method, path, body): (Method, &str, Option<String>),
) -> Result<(StatusCode, Bytes), ProbeError> {
    let unusable = |what: &str| ProbeError { message: format!("the stored {what} cannot be used"), refused: false };
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(credentials.ca) {
        roots.add(ca.map_err(|_| unusable("CA"))?).map_err(|_| unusable("CA"))?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(credentials.certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(credentials.key).map_err(|_| unusable("client key"))?;
    let config = builder(Arc::new(rustls::crypto::ring::default_provider()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.map_err(|_| unusable("client certificate"))?, key)
        .map_err(|_| unusable("client certificate"))?;
    let stream = handshake(address, name, config).await?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(address, &error))?;
        let connection = tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header("host", name).header("content-type", "application/json");
        let request =
            request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|error| failed(address, &error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(address, &error));
        let answer = match response {
            Ok(response) => {
                let status = response.status();
                let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
                body.map(|body| (status, body.to_bytes())).map_err(|error| failed(address, &*error))
            }
            Err(error) => Err(error),
        };
        connection.abort();
        answer
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap_or_else(|_| Err(too_slow(address)))
}

fn builder(
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, ProbeError> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ProbeError { message: error.to_string(), refused: false })
}

async fn handshake(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ProbeError> {
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| ProbeError { message: format!("{name:?} is no server name"), refused: false })?;
    let connecting = async {
        let stream = TcpStream::connect(address).await.map_err(|error| failed(address, &error))?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| failed(address, &error))
    };
    tokio::time::timeout(DEADLINE, connecting).await.unwrap_or_else(|_| Err(too_slow(address)))
}

fn too_slow(address: SocketAddr) -> ProbeError {
    ProbeError { message: format!("{address}: no answer within {} s", DEADLINE.as_secs()), refused: false }
}

/// Whether it says that a certificate is not good; a missing name or a protocol that does not fit say nothing about renewing.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(why) => matches!(
            why,
            CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
        ),
        Error::AlertReceived(alert) => matches!(
            alert,
            AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
        ),
        _ => false,
    }
}

/// The error with its causes; whether one of them is about a certificate.
fn failed(address: SocketAddr, error: &(dyn std::error::Error + 'static)) -> ProbeError {
    let mut message = format!("{address}");
    let mut refused = false;
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = error.downcast_ref::<Error>().or_else(|| inner.and_then(|inner| inner.downcast_ref::<Error>()));
        refused |= tls.is_some_and(is_refusal);
        next = error.source();
    }
    ProbeError { message, refused }
}
