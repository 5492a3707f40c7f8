//! The plainest HTTP/1.1 client: one connection, kept; one request at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// A connection, if somebody listens.
    pub(crate) fn connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).unwrap();
        Some(Self(BufReader::with_capacity(64 << 10, stream)))
    }

    /// What Prometheus asks for.
    pub(crate) fn scrape(&mut self) -> Vec<u8> {
        self.get("/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n")
    }

    pub(crate) fn get(&mut self, path: &str, head: &str) -> Vec<u8> {
        let (status, body) = self.ask(&format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{head}\r\n"));
        assert_eq!(status, 200, "GET {path}: {}", String::from_utf8_lossy(&body));
        body
    }

    pub(crate) fn ok(&mut self, path: &str) -> bool {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")).0 == 200
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let (status, answer) = self.ask(&(head + body));
        assert_eq!(status, 201, "POST {path}: {}", String::from_utf8_lossy(&answer));
    }

    fn ask(&mut self, request: &str) -> (u16, Vec<u8>) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, body)
    }
}
