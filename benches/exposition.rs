//! What `/metrics` costs for 10,000 Secrets with 3 certificates each: the first time, after one change, and when nothing changed.

#![allow(missing_docs, reason = "criterion's macros generate public items")]
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a bench may")]

#[path = "../tests/support/values.rs"]
mod values;

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use meshcert::clock::ManualClock;
use meshcert::inventory::{Shard, Snapshot};
use meshcert::metrics::Metrics;
use meshcert::metrics::exposition::{ClusterSnapshot, Exposition};
use meshcert::metrics::family::Format;
use meshcert::policy::Thresholds;
use meshcert::server::{App, Limits, router, serve};
use meshcert::time::DAY;
use tokio_util::sync::CancellationToken;
use values::*;

const SECRETS: u64 = 10_000;
const SHARDS: u64 = 256;

fn mk_secrets(shard: u64, generation: u64) -> Arc<Shard> {
    let secrets = (0..SECRETS).filter(|i| i % SHARDS == shard).map(|i| {
        let certificates = ["leaf", "issuing", "root"].iter().zip(0..).map(|(role, j)| {
            let serial = (i * 3 + j + generation).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mk_certificate(&format!("{role}-{i}.example.org"), serial, NOW.plus((i % 400) as i64 * DAY + 1))
        });
        mk_tls(&format!("ns-{}", i % 100), &format!("tls-{i}"), certificates.collect(), vec![])
    });
    mk_shard(vec![], secrets.collect())
}

fn exposition(c: &mut Criterion) {
    let shards: Vec<_> = (0..SHARDS).map(|shard| mk_secrets(shard, 0)).collect();
    let cluster = |shards: &[Arc<Shard>]| {
        [ClusterSnapshot { name: "cp-1".into(), snapshot: Arc::new(Snapshot { shards: shards.to_vec() }) }]
    };
    let base = cluster(&shards);
    let part = Exposition::default().render(&base, Format::OpenMetrics, NOW);
    eprintln!("object part: {} bytes of text, {} bytes of gzip", part.len, part.gzip.len());

    let mut group = c.benchmark_group("exposition of 10,000 Secrets x 3 certificates");
    group.sample_size(10);
    group.bench_function("first render", |b| {
        b.iter_batched(
            Exposition::default,
            |exposition| black_box(exposition.render(&base, Format::OpenMetrics, NOW)),
            BatchSize::PerIteration,
        );
    });
    group.sample_size(50);
    group.bench_function("one Secret changed", |b| {
        let exposition = Exposition::default();
        exposition.render(&base, Format::OpenMetrics, NOW);
        let mut generation = 0;
        b.iter_batched(
            || {
                generation += 1;
                let mut changed = shards.clone();
                changed[7] = mk_secrets(7, generation);
                cluster(&changed)
            },
            |changed| black_box(exposition.render(&changed, Format::OpenMetrics, NOW)),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("unchanged scrape, with its live tail", |b| {
        let exposition = Exposition::default();
        exposition.render(&base, Format::OpenMetrics, NOW);
        let metrics = Metrics::new(Told::new(base.to_vec()), None);
        b.iter(|| {
            let part = exposition.unchanged(&base, Format::OpenMetrics, NOW).unwrap();
            black_box(metrics.tail(&part, Format::OpenMetrics))
        });
    });
    group.finish();
    over_a_socket(c, base.to_vec());
}

/// A scrape as Prometheus makes it, beside a server that sends the same bytes from memory.
fn over_a_socket(c: &mut Criterion, clusters: Vec<ClusterSnapshot>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let told = Told::new(clusters);
    let app = App::new(
        told.clone(),
        Arc::new(Metrics::new(told, None)),
        Arc::new(ManualClock::new(NOW)),
        Thresholds::default(),
        Arc::default(),
    );
    let ours = listen(&runtime, router(app));
    let body = axum::body::Bytes::from(Client::default().get(ours));
    let fixed = listen(&runtime, axum::Router::new().route("/metrics", axum::routing::get(async move || body.clone())));

    let mut group = c.benchmark_group("gzip scrape over loopback");
    for (name, address) in [("meshcert", ours), ("the same bytes from memory", fixed)] {
        let mut client = Client::default();
        group.bench_function(name, |b| b.iter(|| black_box(client.get(address).len())));
    }
    group.finish();
}

fn listen(runtime: &tokio::runtime::Runtime, router: axum::Router) -> SocketAddr {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(serve(listener, router, Limits::default(), CancellationToken::new()));
    address
}

/// A client that keeps its connection.
#[derive(Default)]
struct Client(Option<BufReader<TcpStream>>);

impl Client {
    fn get(&mut self, address: SocketAddr) -> Vec<u8> {
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            BufReader::with_capacity(64 << 10, stream)
        };
        let reader = self.0.get_or_insert_with(connect);
        let request = "GET /metrics HTTP/1.1\r\nHost: meshcert\r\nAccept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n\r\n";
        reader.get_mut().write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        body
    }
}

criterion_group!(benches, exposition);
criterion_main!(benches);
