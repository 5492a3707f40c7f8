//! A Kubernetes API to call, whosever it is.

use std::path::Path;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;

/// What can be called.
pub struct Server(kube::Client);

/// Status code and body.
pub type Answer = (u16, Value);

impl Server {
    pub async fn of(kubeconfig: &Path) -> Self {
        let config = Kubeconfig::read_from(kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        // Each answer counts.
        config.default_retry = false;
        Self(kube::Client::try_from(config).unwrap())
    }

    /// A call with a body of this kind.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let response = self.0.send(request.body(Body::from(body.to_owned().into_bytes())).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "application/json", "").await
    }

    /// The body in the form that is asked for.
    pub async fn bytes(&self, path: &str, accept: &str) -> Vec<u8> {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        self.0.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", &body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, "application/json", &body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, "application/merge-patch+json", &body.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.send(Method::DELETE, path, "application/json", &options.to_string()).await
    }

    /// A watch that is under way.
    pub async fn open(&self, path: &str) -> Body {
        let request = Request::get(path).body(Body::empty()).unwrap();
        self.0.send(request).await.unwrap().into_body()
    }

    /// The first events of a watch.
    pub async fn events(&self, path: &str, count: usize) -> Vec<Value> {
        Self::read(self.open(path).await, count).await
    }

    /// The next events of a watch, or those until it ends.
    pub async fn read(mut body: Body, count: usize) -> Vec<Value> {
        let mut text = Vec::new();
        let complete = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() >= count;
        while !complete(&text) {
            let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await;
            let Some(frame) = frame.unwrap() else { break };
            text.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).take(count);
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }
}
