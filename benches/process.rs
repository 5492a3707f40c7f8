//! The daemon as its users run it: the release binary against an API in a process of its own. `docs/PERFORMANCE.md` says how to read the figures.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr, reason = "a bench may")]

#[path = "support/bundles.rs"]
mod bundles;
#[path = "process/child.rs"]
mod child;
#[path = "process/client.rs"]
mod client;
#[path = "process/paced.rs"]
mod paced;
#[path = "process/peers.rs"]
mod peers;
#[path = "support/secrets.rs"]
mod secrets;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "process/table.rs"]
mod table;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bundles::octets;
use child::Process;
use client::Client;
use secrets::mk_secret;
use serde_json::{Value, json};
use support::real_api::{self, RealApi};
use table::{Table, bytes, median, milliseconds, percentile};

const SECRETS: u64 = 10_000;
const NAMESPACES: u64 = 100;
/// What Helm keeps of its releases, and how large each is before base64.
const RELEASES: u64 = 9_000;
const RELEASE_BYTES: usize = 20_000;
/// Beside so many certificates.
const FEW: u64 = 1_000;
const MESHES: u64 = 1_000;
/// Starts of the daemon, each between two raw reads.
const STARTS: usize = 7;
/// Scrapes of each server, in turns.
const SCRAPES: usize = 3_000;
/// An argument: only what is measured beside other exporters.
const PEERS: &str = "peers";

/// A cluster to observe, and what proves that a scrape is complete.
struct Scene {
    title: String,
    /// Arguments of `demo`.
    demo: Vec<String>,
    config: String,
    /// Where the Secrets are.
    secrets: &'static str,
    family: &'static str,
    series: usize,
    /// The most resident memory that it may take.
    most: Option<u64>,
}

/// An API with Secrets.
enum Origin<'a> {
    /// By HTTP, open to everybody.
    Plain(&'a Process),
    Real(&'a RealApi),
}

/// The last of several starts, and what was measured at each.
struct Starts {
    daemon: Process,
    body: Vec<u8>,
    peaks: Vec<u64>,
    /// The median of the first complete scrapes.
    first: Duration,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match &arguments[..] {
        [_, role, file] if role == child::STATIC => return child::serve(child::fixed(Path::new(file))),
        [_, role, folder] if role == paced::PACED => return child::serve(paced::router(Path::new(folder))),
        _ => {}
    }
    let folder = tempfile::tempdir().unwrap();
    println!("{} on {} cores\n", env!("CARGO_PKG_VERSION"), std::thread::available_parallelism().unwrap());
    if arguments.iter().any(|argument| argument == PEERS) {
        return beside_peers(folder.path());
    }
    measure(&secrets_scene(), folder.path());
    beside_peers(folder.path());
    measure(&meshes_scene(), folder.path());
    beside_releases(folder.path());
}

fn secrets_scene() -> Scene {
    Scene {
        title: format!("{SECRETS} kubernetes.io/tls Secrets x 3 certificates in {NAMESPACES} namespaces"),
        demo: vec!["--scenario=healthy".to_owned(), "--meshes=0".to_owned()],
        config: "namespaces: ['*']}]\nsecretRules: [{type: kubernetes.io/tls, namespaces: []}]\n".to_owned(),
        secrets: "/api/v1/secrets",
        family: "x509_cert_not_after",
        // Two more of the demo's own, self-signed.
        series: SECRETS as usize * 3 + 2,
        most: Some(65_000_000),
    }
}

fn meshes_scene() -> Scene {
    Scene {
        title: format!("{MESHES} hosted meshes, {} certificates", MESHES * 12),
        demo: vec!["--scenario=fleet".to_owned(), format!("--meshes={MESHES}")],
        config: "namespaces: [istio-system]}]\n".to_owned(),
        secrets: "/api/v1/namespaces/istio-system/secrets",
        family: "meshcert_hosted_kube_api_certificate_expiration_timestamp_seconds",
        series: MESHES as usize,
        most: None,
    }
}

fn measure(scene: &Scene, folder: &Path) {
    let kubeconfig = folder.join("kubeconfig");
    let api = start_api(scene, &kubeconfig);
    if scene.series > SECRETS as usize {
        fill(&mut Origin::Plain(&api).client(), SECRETS);
    }
    let pages = paced::pages(&mut Client::connect(api.address).unwrap(), scene.secrets);
    let size: usize = pages.iter().map(|(_, page)| page.len()).sum();
    let mut table = Table::new(&format!("{}, {} of JSON", scene.title, bytes(size as u64)));
    let in_folder = folder.join(scene.family);
    paced::store(&in_folder, &pages);
    drop(pages);

    let Starts { daemon, body, mut peaks, .. } =
        starts(&mut table, scene, "embedded API", &Origin::Plain(&api), folder);
    scrapes(&mut table, &daemon, &body, folder);
    peaks.sort_unstable();
    table.bound("resident memory, peak, median of the starts", peaks[peaks.len() / 2], scene.most);
    table.bound("resident memory, peak, worst of the starts", peaks[peaks.len() - 1], scene.most);
    table.bound("resident memory, peak, after the scrapes", daemon.peak_memory(), scene.most);
    table.bound("resident memory, after the scrapes", daemon.memory(), None);
    let text = text(&body);
    table.bound("body as text", text.len() as u64, None);
    table.bound("body with gzip, beside zlib's of the same text", body.len() as u64, Some(zlib(&text)));
    drop((daemon, api));

    let paced = Process::start_with(paced::PACED, &in_folder);
    starts(&mut table, scene, "API at a real one's pace", &Origin::Plain(&paced), folder);
    table.print();
}

/// On a real kube-apiserver, where other exporters read the same Secrets.
fn beside_peers(folder: &Path) {
    let Some(api) = RealApi::start() else { return };
    let real = Origin::Real(&api);
    fill(&mut real.client(), SECRETS);
    let scene = Scene { series: SECRETS as usize * 3, ..secrets_scene() };
    let title = format!("{}, on a real kube-apiserver", scene.title);
    let mut table = Table::new(&title);
    let Starts { daemon, body, first, .. } = starts(&mut table, &scene, "real kube-apiserver", &real, folder);
    table.print();
    let (scrape, cpu) = peers::scraped(&daemon, "/metrics", SCRAPES);
    let (peak, gzip, text) = (daemon.peak_memory(), body.len() as u64, text(&body).len() as u64);
    drop(daemon);
    let ours = peers::Measured { first, scrape, cpu, peak, text, gzip };
    peers::compare(&ours, &format!("{title}, beside other exporters"), &api.kubeconfig, folder, SECRETS as usize);
}

/// Few certificates among much that holds none. The raw read reads it all; meshcert has the API server leave it out.
fn beside_releases(folder: &Path) {
    let title = format!("{FEW} kubernetes.io/tls Secrets x 3 certificates beside {RELEASES} Helm releases of 20 KB");
    let scene = Scene { title, series: FEW as usize * 3 + 2, most: Some(30_000_000), ..secrets_scene() };
    let api = start_api(&scene, &folder.join("kubeconfig-of-releases"));
    let mut client = Origin::Plain(&api).client();
    fill(&mut client, FEW);
    for n in 0..RELEASES {
        let path = format!("/api/v1/namespaces/team-{}/secrets", n % NAMESPACES);
        client.post(&path, &mk_release(n).to_string());
    }
    let mut table = Table::new(&scene.title);
    let Starts { mut peaks, .. } = starts(&mut table, &scene, "embedded API", &Origin::Plain(&api), folder);
    peaks.sort_unstable();
    table.bound("resident memory, peak, median of the starts", peaks[peaks.len() / 2], scene.most);
    table.print();
}

impl Origin<'_> {
    fn client(&self) -> Client {
        match self {
            Self::Plain(api) => Client::connect(api.address).unwrap(),
            Self::Real(api) => Client::secure(api.address(), &api.certificates(), real_api::ADMIN),
        }
    }

    fn kubeconfig(&self, folder: &Path) -> PathBuf {
        match self {
            Self::Plain(api) => {
                let kubeconfig = folder.join("own-kubeconfig");
                let cluster = format!("[{{name: bench, cluster: {{server: 'http://{}'}}}}]", api.address);
                let context = "[{name: bench, context: {cluster: bench, user: bench}}]";
                let text = format!(
                    "{{apiVersion: v1, kind: Config, current-context: bench, clusters: {cluster}, contexts: {context}, users: [{{name: bench, user: {{}}}}]}}"
                );
                std::fs::write(&kubeconfig, text).unwrap();
                kubeconfig
            }
            Self::Real(api) => api.kubeconfig.clone(),
        }
    }
}

/// Starts the daemon again and again, each time between two raw reads.
fn starts(table: &mut Table, scene: &Scene, name: &str, api: &Origin<'_>, folder: &Path) -> Starts {
    let kubeconfig = api.kubeconfig(folder);
    let config = folder.join("meshcert.yaml");
    let text = format!("clusters: [{{name: bench, kubeconfig: {}, {}", kubeconfig.display(), scene.config);
    std::fs::write(&config, text).unwrap();

    let (mut reads, mut firsts, mut peaks, mut cpus) = (vec![], vec![], vec![], vec![]);
    let mut last = None;
    let mut compact = vec![];
    let tokens: Vec<String> =
        paced::pages(&mut api.client(), scene.secrets).into_iter().map(|(token, _)| token).collect();
    for _ in 0..STARTS {
        reads.push(raw_read(api, scene.secrets));
        compact.extend((!tokens.is_empty()).then(|| raw_read_of_protobuf(api, scene.secrets, &tokens)));
        drop(last.take());
        let (daemon, took, body) = first_scrape(&config, scene);
        firsts.push(took);
        peaks.push(daemon.peak_memory());
        cpus.push(daemon.cpu());
        reads.push(raw_read(api, scene.secrets));
        last = Some((daemon, body));
    }
    let (read, first) = (median(&mut reads), median(&mut firsts));
    table.ratio(&format!("first complete scrape, {name}"), first, "raw read of its pages", read, 1.5);
    if !compact.is_empty() {
        let read = median(&mut compact);
        table.ratio(
            &format!("first complete scrape, {name}"),
            first,
            "raw read of its pages in protobuf",
            read,
            f64::INFINITY,
        );
    }
    table.plain("processor time until then", milliseconds(median(&mut cpus)));
    let (daemon, body) = last.unwrap();
    Starts { daemon, body, peaks, first }
}

/// The embedded API in a process of its own.
fn start_api(scene: &Scene, kubeconfig: &Path) -> Process {
    let address = child::free_address();
    let mut arguments = vec!["demo".to_owned(), "--log-level=warn".to_owned(), "--listen=127.0.0.1:0".to_owned()];
    arguments.extend(scene.demo.iter().cloned());
    arguments.push(format!("--api-listen={address}"));
    arguments.push(format!("--kubeconfig-out={}", kubeconfig.display()));
    let api = Process::start(&PathBuf::from(env!("CARGO_BIN_EXE_meshcert")), &arguments, address);
    // The kubeconfig is written once the meshes are made.
    api.wait_until(|| kubeconfig.exists().then_some(()));
    api.wait_until(|| Client::connect(address));
    api
}

fn fill(client: &mut Client, secrets: u64) {
    for n in 0..NAMESPACES {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("team-{n}") } });
        client.post("/api/v1/namespaces", &namespace.to_string());
    }
    for n in 0..secrets {
        let path = format!("/api/v1/namespaces/team-{}/secrets", n % NAMESPACES);
        client.post(&path, &mk_secret(n, NAMESPACES).to_string());
    }
}

/// What Helm keeps of a release: octets that no compressor makes smaller.
fn mk_release(number: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": { "name": format!("sh.helm.release.v1.web-{number}.v1"), "labels": { "owner": "helm", "status": "deployed" } },
        "data": { "release": STANDARD.encode(octets(number, RELEASE_BYTES)) }
    })
}

/// How long it takes to read all pages and do nothing with them.
fn raw_read(api: &Origin<'_>, path: &str) -> Duration {
    let start = Instant::now();
    let mut client = api.client();
    let mut token = Some(String::new());
    while let Some(known) = token {
        token = paced::next(&client.get(&paced::uri(path, &known), ""));
    }
    start.elapsed()
}

/// The same pages in the form that meshcert asks for, which a real API server has.
fn raw_read_of_protobuf(api: &Origin<'_>, path: &str, tokens: &[String]) -> Duration {
    let start = Instant::now();
    let mut client = api.client();
    for token in tokens {
        client.get(&paced::uri(path, token), "Accept: application/vnd.kubernetes.protobuf\r\n");
    }
    start.elapsed()
}

/// Starts the daemon and scrapes it as soon as it is ready: the process, the time since its start, the body.
fn first_scrape(config: &Path, scene: &Scene) -> (Process, Duration, Vec<u8>) {
    let address = child::free_address();
    let arguments = [
        "serve".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--config={}", config.display()),
        format!("--listen={address}"),
    ];
    let start = Instant::now();
    let daemon = Process::start(&PathBuf::from(env!("CARGO_BIN_EXE_meshcert")), &arguments, address);
    let mut client = daemon.wait_until(|| Client::connect(address));
    daemon.wait_until(|| client.ok("/-/ready").then_some(()));
    let body = client.scrape();
    let took = start.elapsed();
    assert_eq!(series(&body, scene.family), scene.series, "the first scrape is complete");
    (daemon, took, body)
}

/// Scrapes the daemon and a server that sends the same bytes from memory, in turns.
fn scrapes(table: &mut Table, daemon: &Process, body: &[u8], folder: &Path) {
    let file = folder.join("body");
    std::fs::write(&file, body).unwrap();
    let fixed = Process::start_with(child::STATIC, &file);

    let servers = [daemon, &fixed];
    let mut clients = servers.map(|server| Client::connect(server.address).unwrap());
    let mut times = [vec![], vec![]];
    let before = servers.map(Process::cpu);
    for _ in 0..SCRAPES {
        for (client, times) in clients.iter_mut().zip(&mut times) {
            let start = Instant::now();
            let got = client.scrape();
            times.push(start.elapsed());
            // The tail of counters changes from scrape to scrape.
            assert!(got.len().abs_diff(body.len()) < 1024);
        }
    }
    let [ours, theirs] = [0, 1].map(|n| (servers[n].cpu() - before[n]) / SCRAPES as u32);
    let [mut own, mut other] = times;
    table.ratio(
        "scrape with gzip, p50",
        percentile(&mut own, 50),
        "the same bytes from memory",
        percentile(&mut other, 50),
        1.5,
    );
    table.ratio(
        "scrape with gzip, p99",
        percentile(&mut own, 99),
        "the same bytes from memory",
        percentile(&mut other, 99),
        1.5,
    );
    table.ratio("processor time per scrape", ours, "the same bytes from memory", theirs, f64::INFINITY);
}

/// How much any exporter sends that compresses the same text with zlib's usual level, as Go's library does too.
fn zlib(text: &str) -> u64 {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap().len() as u64
}

/// How many series of a family a body has.
fn series(body: &[u8], family: &str) -> usize {
    text(body).lines().filter(|line| line.split('{').next() == Some(family)).count()
}

fn text(body: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}
