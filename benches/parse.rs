//! What reading costs: an entry with three certificates, a kubeconfig, and a page of 500 Secrets, each beside the least that anybody does with the same bytes.

#![allow(missing_docs, reason = "criterion's macros generate public items")]
#![allow(clippy::unwrap_used, reason = "a bench may")]

#[path = "support/bundles.rs"]
mod bundles;
#[path = "support/secrets.rs"]
mod secrets;

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bundles::{mk_bundle, mk_certificate, octets};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use meshcert::cert::parse::{NamePool, Retain, read_entry};
use meshcert::cluster::decode;
use meshcert::config::Config;
use meshcert::secret::Selection;
use secrets::mk_secret;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

const PAGE: u64 = 500;

fn entries(c: &mut Criterion) {
    let bundle = mk_bundle(1, 1);
    let bodies: Vec<String> = bundle
        .split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .map(|block| block.split("-----END").next().unwrap().split_whitespace().collect())
        .collect();
    let mut group = c.benchmark_group("PEM bundle of 3 certificates");
    group.throughput(Throughput::Bytes(bundle.len() as u64));
    group.bench_function("read_entry", |b| {
        let mut names = NamePool::default();
        b.iter(|| black_box(read_entry(bundle.as_bytes(), Retain::Facts, &mut names)));
    });
    group.bench_function("its base64 alone", |b| {
        b.iter(|| bodies.iter().map(|body| STANDARD.decode(black_box(body)).unwrap().len()).sum::<usize>());
    });
    group.finish();

    let kubeconfig = mk_kubeconfig();
    let mut group = c.benchmark_group("kubeconfig");
    group.throughput(Throughput::Bytes(kubeconfig.len() as u64));
    group.bench_function("read_entry", |b| {
        let mut names = NamePool::default();
        b.iter(|| black_box(read_entry(kubeconfig.as_bytes(), Retain::Der, &mut names)));
    });
    group.bench_function("its YAML alone", |b| {
        b.iter(|| serde_saphyr::from_str::<Value>(black_box(&kubeconfig)).unwrap());
    });
    group.finish();
}

fn page(c: &mut Criterion) {
    let items: Vec<Value> = (0..PAGE).map(|number| mk_secret(number, 100)).collect();
    let page =
        json!({ "kind": "SecretList", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items });
    let bytes = page.to_string().into_bytes();
    let config = Config::parse("secretRules: [{type: kubernetes.io/tls}]").unwrap();
    let selection =
        Selection { mesh_namespaces: None, naming: config.naming().unwrap(), rules: config.rules().unwrap() };
    assert_eq!(decode::page(&bytes, &selection).unwrap().secrets.len(), PAGE as usize);

    let mut group = c.benchmark_group("list page of 500 Secrets");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(50);
    group.bench_function("decode::page", |b| {
        b.iter(|| decode::page(black_box(&bytes), &selection).unwrap().secrets.len())
    });
    group.bench_function("its JSON alone, everything ignored", |b| {
        b.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&bytes)).unwrap());
    });
    group.bench_function("its JSON as values", |b| {
        b.iter(|| serde_json::from_slice::<Value>(black_box(&bytes)).unwrap());
    });
    group.finish();
}

/// As kubeadm writes it.
fn mk_kubeconfig() -> String {
    let (ca, client) =
        (mk_certificate("kubernetes CA", "kubernetes CA", 1), mk_certificate("kubernetes-admin", "kubernetes CA", 2));
    let (ca, client, key) = (STANDARD.encode(ca), STANDARD.encode(client), STANDARD.encode(octets(3, 1675)));
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: https://demo-hosted-apiserver:6443
  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: kubernetes-admin
  name: kubernetes-admin@kubernetes
current-context: kubernetes-admin@kubernetes
kind: Config
preferences: {{}}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: {client}
    client-key-data: {key}
"
    )
}

criterion_group!(benches, entries, page);
criterion_main!(benches);
