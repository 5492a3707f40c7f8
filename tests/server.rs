//! The server as its clients see it, over real sockets on loopback.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "a test may")]

#[path = "support/values.rs"]
mod values;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use meshcert::clock::ManualClock;
use meshcert::mesh::HostedMesh;
use meshcert::metrics::Metrics;
use meshcert::policy::Thresholds;
use meshcert::server::{App, Limits, router, serve};
use meshcert::time::DAY;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use values::*;

struct Server {
    told: Arc<Told>,
    app: Arc<App>,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn within(renew_before: i64) -> Thresholds {
    Thresholds { renew_before, urgent_before: 3 * DAY }
}

async fn mk_server(limits: Limits) -> Server {
    let told = Told::new(mk_fleet());
    let metrics = Arc::new(Metrics::new(told.clone(), None));
    let app = App::new(told.clone(), metrics, Arc::new(ManualClock::new(NOW)), within(30 * DAY), Arc::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, router(Arc::clone(&app)), limits, shutdown.clone()));
    Server { told, app, address, shutdown, task }
}

impl Server {
    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: meshcert\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Answer { status, headers, body: bytes[end + 4..].to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.get(path).await.body).unwrap()
    }
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value)
    }
}

/// Without what changes from scrape to scrape.
fn steady(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with("process_") && !line.starts_with("meshcert_http_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let server = mk_server(Limits::default()).await;
    let classic = server.get("/metrics").await;
    assert_eq!((classic.status, classic.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(!classic.text().contains("# EOF") && !classic.text().contains("# UNIT"));
    let open = server.ask("GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n").await;
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text().ends_with("# EOF\n"));
    assert_eq!(open.header("vary"), "Accept, Accept-Encoding");
    assert_eq!(open.header("content-length"), open.body.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_and_identity_say_the_same() {
    let server = mk_server(Limits::default()).await;
    let plain = server.ask("GET", "/metrics", "Accept-Encoding: gzip;q=0\r\n").await;
    let packed = server.ask("GET", "/metrics", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((plain.header("content-encoding"), packed.header("content-encoding")), ("", "gzip"));
    assert_eq!(packed.header("content-length"), packed.body.len().to_string());
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(steady(&text), steady(plain.text()));
    assert!(packed.body.len() < plain.body.len() / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_the_compressed_body() {
    let server = mk_server(Limits::default()).await;
    let url = format!("http://{}/metrics", server.address);
    let Ok(output) =
        tokio::process::Command::new("curl").args(["-sS", "--noproxy", "*", "--compressed", &url]).output().await
    else {
        eprintln!("SKIPPED: curl is missing");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plain = server.get("/metrics").await;
    assert_eq!(steady(std::str::from_utf8(&output.stdout).unwrap()), steady(plain.text()));
}

#[tokio::test(flavor = "multi_thread")]
async fn head_says_the_length_and_sends_nothing() {
    let server = mk_server(Limits::default()).await;
    for path in ["/metrics", "/", "/-/healthy"] {
        let head = server.ask("HEAD", path, "").await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert!(head.header("content-length").parse::<u64>().unwrap() > 10, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_at_the_next_scrape_and_a_refresh_prepares_it() {
    let server = mk_server(Limits::default()).await;
    assert!(server.get("/metrics").await.text().contains(r#"mesh_id="hosted-broken""#));
    *server.told.clusters.lock().unwrap() =
        vec![mk_cluster("cp-1", vec![mk_shard(vec![mk_small_mesh("newcomer", NOW.plus(DAY))], vec![])])];
    server.app.refresh().await;
    let text = server.get("/metrics").await;
    assert!(text.text().contains(r#"mesh_id="newcomer""#) && !text.text().contains("hosted-broken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_from_zero() {
    let server = mk_server(Limits::default()).await;
    let line = r#"meshcert_http_requests_total{handler="other",code="4xx"}"#;
    assert!(server.get("/metrics").await.text().contains(&format!("{line} 0\n")));
    server.get("/nowhere").await;
    assert!(server.get("/metrics").await.text().contains(&format!("{line} 1\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_waits_for_the_observing_plane_once_and_healthy_does_not() {
    let server = mk_server(Limits::default()).await;
    let awaits = |cluster: &str| *server.told.ready.lock().unwrap() = Err(format!("{cluster} was not listed yet"));
    awaits("cp-2");
    let answer = server.get("/-/ready").await;
    assert_eq!((answer.status, answer.text()), (503, "meshcert is not ready: cp-2 was not listed yet\n"));
    assert_eq!(server.get("/-/healthy").await.status, 200);
    *server.told.ready.lock().unwrap() = Ok(());
    assert_eq!(server.get("/-/ready").await.status, 200);
    awaits("cp-3");
    assert_eq!(server.get("/-/ready").await.status, 200, "it was added while it runs");
    server.app.stop();
    let answer = server.get("/-/ready").await;
    assert_eq!((answer.status, answer.text()), (503, "meshcert is not ready: it is stopping\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_and_methods_are_refused_in_words() {
    let server = mk_server(Limits::default()).await;
    let missing = server.get("/metric").await;
    assert_eq!((missing.status, missing.text()), (404, "there is nothing at this path; / lists what there is\n"));
    let wrong = server.ask("DELETE", "/metrics", "").await;
    assert_eq!((wrong.status, wrong.text()), (405, "this path answers GET and HEAD only\n"));
    assert_eq!(wrong.header("allow").replace(' ', ""), "GET,HEAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_lists_meshes_worst_first() {
    let server = mk_server(Limits::default()).await;
    let list = server.json("/api/v1/meshes").await;
    let brief: Vec<_> = list["meshes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| ["cluster", "id", "state", "timeLeft"].map(|field| m[field].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(
        brief,
        [
            ["cp-1", "hosted-broken", "expired", "expired 24 hours ago"],
            ["cp-2", "hosted-demo", "expiring", "20 days"],
            ["cp-1", "hosted-demo", "ok", "200 days"],
        ]
        .map(|row| row.map(str::to_owned))
    );
    insta::assert_json_snapshot!("api_v1_meshes", list);
    server.app.set_thresholds(within(10 * DAY));
    assert_eq!(
        server.json("/api/v1/meshes").await["meshes"][1]["state"],
        "ok",
        "a reloaded renewBefore counts at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_escapes_everything_and_loads_nothing() {
    let server = mk_server(Limits::default()).await;
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    let html = page.text();
    assert!(html.contains("&lt;b&gt;no&lt;/b&gt; PEM") && !html.contains("<b>no"));
    // Only what stands in the page is run, and what stands in it is what the policy allows.
    let (_, policy) = page.header("content-security-policy").split_once("script-src 'sha256-").unwrap();
    let script = html.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
    let digest = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        ring::digest::digest(&ring::digest::SHA256, script.as_bytes()),
    );
    assert!(policy.starts_with(&digest) && html.matches("<script").count() == 1, "{policy}");
    let rest = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!rest.contains(" src=") && !rest.contains("http:") && !rest.contains("https:"), "{html}");
    let order: Vec<_> = ["hosted-broken", "20 days", "200 days"].iter().map(|word| html.find(word).unwrap()).collect();
    assert!(order.is_sorted(), "worst first");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_meshes_the_worst_are_shown_and_the_others_are_a_link_away() {
    let server = mk_server(Limits::default()).await;
    let meshes = (0..1_000).map(|i| mk_small_mesh(&format!("mesh-{i:03}"), NOW.plus(DAY / 3 * (i + 1)))).collect();
    *server.told.clusters.lock().unwrap() = vec![mk_cluster("cp/1", vec![mk_shard(meshes, vec![])])];
    let page = server.get("/").await;
    let names = |html: &str| -> Vec<String> {
        let link = regex::Regex::new(r#"href="/meshes/cp%2F1/istio-system/([^"]+)""#).unwrap();
        let mut names: Vec<_> = link.captures_iter(html).map(|found| found[1].to_owned()).collect();
        names.dedup();
        names
    };
    assert!(page.body.len() < 48 << 10, "{} bytes", page.body.len());
    assert_eq!(names(page.text()), (0..20).map(|i| format!("mesh-{i:03}")).collect::<Vec<_>>());
    assert!(page.text().contains("89 of 1000 meshes need attention") && page.text().contains("Page 1 of 50"));
    assert_eq!(names(server.get("/?page=50").await.text()).last().unwrap(), "mesh-999");
    assert_eq!(names(server.get("/?q=SH-77&page=9").await.text()).len(), 10);
    assert_eq!(names(server.get("/?state=ok").await.text())[0], "mesh-089");
    assert!(server.get("/?q=%22%3E%3Cb%3E").await.text().contains("value=\"&quot;&gt;&lt;b&gt;\""));
    let one = server.get("/meshes/cp%2F1/istio-system/mesh-007").await;
    assert!(one.status == 200 && one.text().contains("<h1>mesh-007</h1>") && one.text().contains("2 days left"));
    assert_eq!(server.get("/meshes/cp-1/istio-system/nobody").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_fleet_has_a_page_that_helps() {
    let server = mk_server(Limits::default()).await;
    server.told.clusters.lock().unwrap().clear();
    let some = server.get("/").await;
    assert!(some.text().contains("No hosted meshes where sources can be read"), "{}", some.text());
    assert!(some.text().contains("list secrets: no answer") && !some.text().contains("None found"));
    server.told.sources.lock().unwrap().retain(|source| source.up);
    assert!(server.get("/").await.text().contains("None found"));
    assert_eq!(server.json("/api/v1/meshes").await["meshes"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_arrives_whole() {
    let server = mk_server(Limits::default()).await;
    let secrets = (0..3_000).map(|i| {
        let cert = mk_certificate(&format!("host-{i}.example.org"), i, NOW.plus(DAY));
        mk_tls("web", &format!("tls-{i}"), vec![cert], vec![])
    });
    *server.told.clusters.lock().unwrap() =
        vec![mk_cluster("cp-1", vec![mk_shard(Vec::<HostedMesh>::new(), secrets.collect())])];
    let answer = server.get("/metrics").await;
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert_eq!(answer.text().lines().filter(|line| line.starts_with("x509_cert_not_after{")).count(), 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_refuses_new_connections_and_lets_requests_end() {
    let server = mk_server(Limits::default()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: meshcert\r\n").await.unwrap();
    // Both connections are accepted once a third one, accepted after them, was answered.
    server.get("/-/healthy").await;
    server.shutdown.cancel();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(server.address).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "still accepting");
        tokio::task::yield_now().await;
    }
    busy.write_all(b"\r\n").await.unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(idle.read_to_end(&mut Vec::new()).await.unwrap(), 0, "an idle connection is closed");
    tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_no_longer_than_its_grace() {
    let server = mk_server(Limits { grace: Duration::from_millis(50), ..Limits::default() }).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    server.get("/-/healthy").await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_and_are_served_when_slow_ones_were_given_up() {
    let limits = Limits { connections: 2, request: Duration::from_millis(200), ..Limits::default() };
    let server = mk_server(limits).await;
    let mut loris = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /metrics HTT").await.unwrap();
        loris.push(stream);
    }
    assert_eq!(server.get("/-/healthy").await.status, 200);
}

/// Asks on a connection that stays open, and reads the answer.
async fn ask_and_stay(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: meshcert\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut rest = [0; 4096];
    assert!(stream.read(&mut rest).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_holds_connections_makes_way_for_who_asks() {
    let server = mk_server(Limits::default()).await;
    let mut holders = Vec::new();
    for number in 0..Limits::default().connections {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // Some have asked once, the others never.
        if number % 2 == 1 {
            ask_and_stay(&mut stream, "/-/healthy").await;
        }
        holders.push(stream);
    }
    for _ in 0..3 {
        assert_eq!(server.get("/-/healthy").await.status, 200);
    }
    let last = holders.len() - 1;
    ask_and_stay(&mut holders[last], "/-/healthy").await;
    let mut first = holders.swap_remove(0);
    let gone = tokio::time::timeout(Duration::from_secs(20), first.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)), "that which was idle longest has made way: {gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_being_answered_makes_way_for_nobody() {
    let limits = Limits { connections: 2, request: Duration::from_millis(500), ..Limits::default() };
    let server = mk_server(limits).await;
    let mut events = TcpStream::connect(server.address).await.unwrap();
    ask_and_stay(&mut events, "/api/v1/events").await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /-/hea").await.unwrap();
    // Waits for the end of the slow one's time.
    let start = tokio::time::Instant::now();
    assert_eq!(server.get("/-/healthy").await.status, 200);
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    let silent = tokio::time::timeout(Duration::from_millis(200), async {
        while events.read(&mut [0; 4096]).await.unwrap() > 0 {}
    });
    assert!(silent.await.is_err(), "the stream goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused() {
    let server = mk_server(Limits::default()).await;
    let answer = server.ask("GET", "/", &format!("X-Long: {}\r\n", "x".repeat(64 << 10))).await;
    assert_eq!(answer.status, 431);
}
