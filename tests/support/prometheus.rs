//! A real Prometheus that scrapes what a test runs.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;

use super::daemon::Process;
use super::tools;

pub struct Prometheus {
    address: String,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes the targets every second; `None` where there is no Prometheus.
    pub fn start(targets: &[&str]) -> Option<Self> {
        let program = tools::built("prometheus")?;
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("prometheus.yaml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: meshcert, static_configs: [{{targets: {}}}]}}]\n",
            serde_json::to_string(targets).unwrap(),
        );
        std::fs::write(&config, text).unwrap();
        let address = free_address();
        let process = Process::start(
            &program,
            &[
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", folder.path().join("data").display()),
                format!("--web.listen-address={address}"),
            ],
        );
        Some(Self { address, _process: process, _folder: folder })
    }

    /// The series that an expression has now; an error in words where it cannot be evaluated.
    pub async fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/query?query={}", encoded(expr));
        let answer = get_json(&self.address, &path).await.unwrap_or_default();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"].as_array().unwrap().clone()),
            Some(_) => Err(answer["error"].to_string()),
            None => Err("Prometheus does not listen yet".to_owned()),
        }
    }
}

pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

pub async fn get_json(address: &str, path: &str) -> Option<Value> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", address).body(String::new()).unwrap();
    let body = sender.send_request(request).await.ok()?.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
