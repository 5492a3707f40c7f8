//! TLS of a listener: what it shows, which clients it knows, both read again when the files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{Error, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use crate::cert::chain::identities;
use crate::cert::parse::{NamePool, Retain, read_entry};
use crate::digest;
use crate::metrics::listeners::{HandshakeFailure, Listener, ListenerMetrics};
use crate::time::UnixTime;

/// Files of a listener, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate, and the CAs between it and what clients trust.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// CAs of clients.
    pub client_ca: Option<PathBuf>,
}

/// Files with which no listener works.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is not what it must be.
    #[error("{path}: {message}")]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// Why, and what belongs there; without content.
        message: String,
    },
}

/// Who is at the other end, as far as TLS has shown: an extension of each request.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Whether the listener has a CA for clients.
    pub asked: bool,
    /// The names in the client's verified certificate, where it showed one.
    pub names: Option<Arc<[String]>>,
}

/// TLS of one listener.
#[derive(Debug)]
pub struct Tls {
    listener: Listener,
    metrics: Arc<ListenerMetrics>,
    current: ArcSwapOption<Loaded>,
    /// The digest of what was refused last: said once.
    refused: Mutex<Option<String>>,
}

/// What is in force.
#[derive(Debug)]
struct Loaded {
    files: TlsFiles,
    digest: String,
    acceptor: Acceptor,
    not_after: UnixTime,
}

/// A change of what is in force, if there is one; it cannot fail any more.
#[derive(Debug)]
pub struct Change(Option<Option<Arc<Loaded>>>);

/// From a connection to a proven one; beyond it the client is slow on purpose.
const HANDSHAKE: Duration = Duration::from_secs(10);

impl Tls {
    /// Plain HTTP, until files are set.
    pub fn new(listener: Listener, metrics: Arc<ListenerMetrics>) -> Arc<Self> {
        Arc::new(Self { listener, metrics, current: ArcSwapOption::empty(), refused: Mutex::default() })
    }

    /// What has to change for these files to be in force; `None`: plain HTTP. Nothing changes yet.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn prepare(&self, files: Option<TlsFiles>) -> Result<Change, TlsError> {
        let current = self.current.load();
        if current.as_ref().map(|current| &current.files) == files.as_ref() {
            return Ok(Change(None));
        }
        let loaded = files.map(|files| Contents::read(&files)?.load(files)).transpose()?;
        Ok(Change(Some(loaded.map(Arc::new))))
    }

    /// From the next connection on.
    pub fn apply(&self, change: Change) {
        let Some(loaded) = change.0 else { return };
        match &loaded {
            Some(loaded) => self.metrics.loaded(self.listener, loaded.not_after),
            None => self.metrics.off(self.listener),
        }
        self.current.store(loaded);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Looks at the files again; whether there was something new in them.
    ///
    /// # Errors
    /// They changed and cannot be used; what was in force stays in force. The same is said once.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(current) = self.current.load_full() else { return Ok(false) };
        let read = Contents::read(&current.files);
        let digest = read.as_ref().map(Contents::digest).unwrap_or_default();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.as_ref() == Some(&digest) || (digest == current.digest && refused.is_none()) {
            return Ok(false);
        }
        let loaded = read.and_then(|contents| contents.load(current.files.clone()));
        *refused = loaded.is_err().then_some(digest);
        drop(refused);
        match loaded {
            Ok(loaded) => self.apply(Change(Some(Some(Arc::new(loaded))))),
            Err(error) => {
                self.metrics.refused(self.listener);
                return Err(error);
            }
        }
        Ok(true)
    }

    /// The handshake of a new connection.
    pub(super) async fn handshake(&self, stream: TcpStream) -> Handshake {
        let Some(loaded) = self.current.load_full() else { return Handshake::Plain(stream) };
        let why = match tokio::time::timeout(HANDSHAKE, loaded.acceptor.0.accept(stream)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let names = shown.map(|leaf| identities(leaf).into());
                return Handshake::Done(Box::new(stream), Peer { asked: loaded.files.client_ca.is_some(), names });
            }
            Ok(Err(error)) => {
                let why = reason(&error);
                tracing::debug!(%error, listener = self.listener.as_str(), "no TLS handshake");
                why
            }
            Err(_) => HandshakeFailure::Timeout,
        };
        self.metrics.failed(self.listener, why);
        Handshake::Failed
    }
}

/// What came of a new connection.
pub(super) enum Handshake {
    /// The listener speaks plain HTTP.
    Plain(TcpStream),
    /// TLS, and what it has shown of the client.
    Done(Box<TlsStream<TcpStream>>, Peer),
    /// None came about, which is counted.
    Failed,
}

/// Its inner parts say nothing to anybody.
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

fn reason(error: &io::Error) -> HandshakeFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => HandshakeFailure::ClientCertificate,
        _ => HandshakeFailure::Protocol,
    }
}

/// What stands in the files.
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?.into(),
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> String {
        digest::sha256([&self.certificate[..], &self.key, self.client_ca.as_deref().unwrap_or_default()])
    }

    fn load(&self, files: TlsFiles) -> Result<Loaded, TlsError> {
        let (config, not_after) = self.config(&files)?;
        let acceptor = Acceptor(TlsAcceptor::from(Arc::new(config)));
        Ok(Loaded { files, digest: self.digest(), acceptor, not_after })
    }

    /// The configuration, and the end of the certificate that it shows.
    fn config(&self, files: &TlsFiles) -> Result<(ServerConfig, UnixTime), TlsError> {
        let unusable = |path: &Path, message: String| TlsError::Unusable { path: path.to_owned(), message };
        let chain = certificates(&self.certificate);
        let own = read_entry(&self.certificate, Retain::Facts, &mut NamePool::default()).certificates;
        let (Some(chain), Some(own)) = (chain, own.first()) else {
            return Err(unusable(&files.certificate, "there is no certificate in it; store it as PEM".to_owned()));
        };
        // The parser's own words could quote the file.
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            unusable(&files.key, "there is no private key in it; store it as PEM, not encrypted".to_owned())
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&files.certificate, error.to_string()))?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for ca in certificates(pem).unwrap_or_default() {
                    roots.add(ca).map_err(|error| unusable(path, format!("a CA cannot be used: {error}")))?;
                }
                // Who shows none is let in and judged by what it asks for; who shows a bad one is not.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| unusable(path, format!("no CA for clients: {error}; store them as PEM")))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let message = format!("does not work with the certificate in {}: {error}", files.certificate.display());
            unusable(&files.key, message)
        })?;
        // A resumed session would not look at the client's certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((config, own.certificate.not_after))
    }
}

/// All certificates in a PEM text; `None` where there is none, or one that is broken.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}
