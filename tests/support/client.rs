//! A PKI and an HTTP client that can show a certificate.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A CA in memory.
pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

fn days_from_now(days: i64) -> SystemTime {
    let distance = Duration::from_secs(days.unsigned_abs() * 86_400);
    #[allow(clippy::disallowed_methods, reason = "TLS libraries look at the system's clock")]
    let now = SystemTime::now();
    if days < 0 { now - distance } else { now + distance }
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Valid from 30 days before its end, which is so many days from now.
    pub fn issue(&self, common_name: &str, names: &[SanType], days: i64) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names.to_vec();
        (params.not_before, params.not_after) = (days_from_now(days - 30).into(), days_from_now(days).into());
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    /// For a server on loopback.
    pub fn server(&self) -> Pair {
        let names = [SanType::IpAddress([127, 0, 0, 1].into()), SanType::DnsName("localhost".try_into().unwrap())];
        self.issue("meshcert", &names, 20)
    }
}

/// Writes a file and says where it is.
pub fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// How a client speaks.
#[derive(Clone, Default)]
pub struct Client {
    tls: Option<Arc<ClientConfig>>,
}

impl Client {
    /// TLS that trusts a CA, with a certificate of its own or without.
    pub fn tls(ca: &str, own: Option<&Pair>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        Self { tls: Some(Arc::new(config)) }
    }

    /// Status and body; an error where the connection is refused, which TLS 1.3 shows at the first answer.
    pub async fn send(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<(u16, String), String> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = "localhost".try_into().unwrap();
                exchange(connector.connect(name, stream).await.map_err(|error| error.to_string())?, request).await
            }
        }
    }

    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
        self.send(address, "GET", path, &[], "").await
    }

    pub async fn post(
        &self,
        address: SocketAddr,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<(u16, String), String> {
        self.send(address, "POST", "/webhook", headers, body).await
    }
}

async fn exchange<S>(stream: S, request: http::Request<Full<Bytes>>) -> Result<(u16, String), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let words = |error: hyper::Error| format!("{error:?}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(words)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(words)?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
