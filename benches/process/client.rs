//! The plainest HTTP/1.1 client: one connection, kept; one request at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

pub(crate) struct Client {
    stream: BufReader<Box<dyn Stream>>,
    /// Header lines of every request.
    head: String,
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

impl Client {
    /// A connection, if somebody listens.
    pub(crate) fn connect(address: SocketAddr) -> Option<Self> {
        Some(Self::on(tcp(address)?, String::new()))
    }

    /// A connection by TLS to who proves itself with these certificates, with a bearer token.
    pub(crate) fn secure(address: SocketAddr, trusted: &[u8], token: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(trusted).map(Result::unwrap));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), address.ip().into()).unwrap();
        let stream = StreamOwned::new(connection, tcp(address).unwrap());
        Self::on(stream, format!("Authorization: Bearer {token}\r\n"))
    }

    fn on(stream: impl Stream + 'static, head: String) -> Self {
        Self { stream: BufReader::with_capacity(64 << 10, Box::new(stream)), head }
    }

    pub(crate) fn scrape(&mut self) -> Vec<u8> {
        self.scrape_at("/metrics")
    }

    /// What Prometheus asks for.
    pub(crate) fn scrape_at(&mut self, path: &str) -> Vec<u8> {
        self.get(path, "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n")
    }

    pub(crate) fn get(&mut self, path: &str, head: &str) -> Vec<u8> {
        let (status, body) = self.ask(&format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{}{head}\r\n", self.head));
        assert_eq!(status, 200, "GET {path}: {}", String::from_utf8_lossy(&body));
        body
    }

    pub(crate) fn ok(&mut self, path: &str) -> bool {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")).0 == 200
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\n{}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
            self.head
        );
        let (status, answer) = self.ask(&(head + body));
        assert_eq!(status, 201, "POST {path}: {}", String::from_utf8_lossy(&answer));
    }

    fn ask(&mut self, request: &str) -> (u16, Vec<u8>) {
        let to = self.stream.get_mut();
        to.write_all(request.as_bytes()).unwrap();
        to.flush().unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let (mut length, mut in_chunks) = (0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            line.make_ascii_lowercase();
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("transfer-encoding", "chunked")) => in_chunks = true,
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = Vec::new();
        if !in_chunks {
            self.take(length, &mut body);
            return (status, body);
        }
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            self.take(size, &mut body);
            self.stream.read_line(&mut line).unwrap();
            if size == 0 {
                return (status, body);
            }
        }
    }

    /// The next bytes, behind those that are there.
    fn take(&mut self, size: usize, body: &mut Vec<u8>) {
        let before = body.len();
        body.resize(before + size, 0);
        self.stream.read_exact(&mut body[before..]).unwrap();
    }
}

fn tcp(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_nodelay(true).unwrap();
    Some(stream)
}
