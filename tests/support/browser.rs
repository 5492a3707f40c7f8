//! A headless Chromium, by the WebDriver protocol (W3C) of its chromedriver.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::daemon::Process;
use super::http::request;
use super::tools;

/// What may take this long takes for ever.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Browser {
    address: String,
    session: String,
    _driver: Process,
}

impl Browser {
    /// Starts one; `None` where there is none and none is required.
    pub fn start() -> Option<Self> {
        let (chromium, driver) = tools::chromium()?;
        let mut child =
            Command::new(driver).arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let driver = Process(child);
        let port = lines.by_ref().find_map(|line| {
            line.unwrap()
                .split_once("started successfully on port ")
                .map(|(_, port)| port.trim_end_matches('.').to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        let address = format!("127.0.0.1:{}", port.unwrap());
        let options = json!({
            "binary": chromium,
            // Nothing but the page is asked for anything. Whoever runs tests as root, in a container, has no sandbox.
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run", "--no-proxy-server"],
        });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let mut browser = Self { address, session: String::new(), _driver: driver };
        let session = browser.call("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer = request(&self.address, method, &format!("{}{path}", self.session), &body);
        let mut value: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.status, 200, "{path}: {value}");
        value["value"].take()
    }

    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// What a function body returns in the page.
    pub fn eval(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The same; it hands its result to the function `done`.
    pub fn eval_async(&self, script: &str) -> Value {
        let script = format!("const done = arguments[0]; {script}");
        self.call("POST", "/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true in the page.
    pub fn wait(&self, expression: &str) {
        let begin = Instant::now();
        while self.eval(&format!("return Boolean({expression})")) != true {
            assert!(begin.elapsed() < PATIENCE, "{expression}\n{}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All that is to be read.
    pub fn text(&self) -> String {
        self.eval("return document.body.innerText").as_str().unwrap().to_owned()
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    pub fn scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }, { "name": "prefers-reduced-motion", "value": "reduce" }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    pub fn size(&self, width: u32, height: u32, scale: f64) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// What the browser complained of since it was asked last.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// The whole page as PNG.
    pub fn screenshot(&self, file: &Path) {
        let png =
            self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true, "clip": self.whole() }));
        std::fs::write(file, STANDARD.decode(png["data"].as_str().unwrap()).unwrap()).unwrap();
    }

    fn whole(&self) -> Value {
        let size = &self.devtools("Page.getLayoutMetrics", json!({}))["cssContentSize"];
        json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session; the driver alone would leave it behind.
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call("DELETE", "", &Value::Null);
        } else if !self.session.is_empty() {
            let _ = std::panic::catch_unwind(|| request(&self.address, "DELETE", &self.session, ""));
        }
    }
}
