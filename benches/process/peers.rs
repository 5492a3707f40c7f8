//! Other exporters at the same work: the real programs, one after the other, on the same API server with the same Secrets.
//!
//! `tools/build.sh bench` builds them. Each is configured as its own documentation does it, and measured as meshcert is.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::child::{Process, free_address};
use crate::client::Client;
use crate::table::{Table, median};

/// Scrapes of each.
const SCRAPES: usize = 10;
/// How long between two looks whether one is ready: some take 40 s, and would be busy answering.
const PAUSE: Duration = Duration::from_millis(10);

/// What is compared.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) first: Duration,
    pub(crate) scrape: Duration,
    /// Processor time per scrape.
    pub(crate) cpu: Duration,
    pub(crate) peak: u64,
    pub(crate) text: u64,
    pub(crate) gzip: u64,
}

struct Peer {
    name: &'static str,
    program: &'static str,
    arguments: Arguments,
    ready: Ready,
    path: &'static str,
    /// Of which each certificate has one series.
    family: &'static str,
    information: Information,
}

/// What it says about each certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Information {
    /// The families and labels of meshcert.
    Same,
    Other,
}

/// By which it is ready for the first scrape.
#[derive(Clone, Copy)]
enum Ready {
    Answers(&'static str),
    /// It writes this for each Secret, and has no other sign.
    Logs(&'static str),
    /// It reads the Secrets while it is scraped.
    Listens,
}

/// Its configuration, by the kubeconfig and where it shall listen.
enum Arguments {
    Flags(fn(&str, &str) -> Vec<String>),
    /// Text of a file, and the flags by which it is given.
    File(fn(&str, &str) -> String, fn(&str, &str) -> Vec<String>),
}

const X509: Peer = Peer {
    name: "x509-certificate-exporter 4.2, default",
    program: "x509-certificate-exporter",
    arguments: Arguments::File(|kubeconfig, address| x509(kubeconfig, address, "", ""), x509_flags),
    ready: Ready::Answers("/readyz"),
    path: "/metrics",
    family: "x509_cert_not_after",
    information: Information::Other,
};

const PEERS: [Peer; 5] = [
    X509,
    Peer {
        name: "the same, tuned",
        arguments: Arguments::File(
            |kubeconfig, address| {
                let few = "exposeExpired: false, exposeSubjectFields: [CN], exposeIssuerFields: [CN], collisionDiscriminator: never";
                x509(kubeconfig, address, few, FAST)
            },
            x509_flags,
        ),
        ..X509
    },
    Peer {
        name: "the same, with meshcert's families",
        arguments: Arguments::File(
            |kubeconfig, address| x509(kubeconfig, address, "exposeNotBefore: true, exposePerCertError: true", FAST),
            x509_flags,
        ),
        information: Information::Same,
        ..X509
    },
    Peer {
        name: "cert-exporter 2.18",
        program: "cert-exporter",
        arguments: Arguments::Flags(|kubeconfig, address| {
            vec![
                format!("--kubeconfig={kubeconfig}"),
                format!("--prometheus-listen-address={address}"),
                "--secrets-annotation-selector=cert-manager.io/certificate-name".to_owned(),
                "--secrets-include-glob=*.crt".to_owned(),
            ]
        }),
        ready: Ready::Logs("Publishing metrics"),
        path: "/metrics",
        family: "cert_exporter_secret_not_after_timestamp",
        information: Information::Other,
    },
    Peer {
        name: "ssl_exporter 2.4",
        program: "ssl_exporter",
        arguments: Arguments::File(
            |kubeconfig, _| {
                let module = format!("prober: kubernetes, timeout: 60s, kubernetes: {{kubeconfig: '{kubeconfig}'}}");
                format!("modules: {{kubernetes: {{{module}}}}}")
            },
            |file, address| vec![format!("--config.file={file}"), format!("--web.listen-address={address}")],
        ),
        ready: Ready::Listens,
        path: "/probe?module=kubernetes&target=*/*",
        family: "ssl_kubernetes_cert_not_after",
        information: Information::Other,
    },
];

/// Without the client library's brake of five requests a second, and with the largest pages.
const FAST: &str = "listPageSize: 1000, rateLimit: {qps: 1000, burst: 1000}, ";

fn x509(kubeconfig: &str, address: &str, metrics: &str, source: &str) -> String {
    let secrets = r"types: [{type: kubernetes.io/tls, keyPatterns: ['^tls\.crt$'], format: pem}]";
    format!(
        "server: {{listen: '{address}'}}\nmetrics: {{{metrics}}}\n\
         sources: [{{kind: kubernetes, name: bench, {source}kubeconfig: '{kubeconfig}', secrets: {{{secrets}}}}}]\n"
    )
}

fn x509_flags(file: &str, _: &str) -> Vec<String> {
    vec![format!("--config={file}")]
}

/// Measures those that are there, and tells how meshcert stands beside each; the target is one beside the best of them.
pub(crate) fn compare(ours: &Measured, title: &str, kubeconfig: &Path, folder: &Path, secrets: usize) {
    let mut measured = vec![];
    for peer in &PEERS {
        match built(peer.program) {
            Some(program) => {
                let theirs = peer.measure(&program, kubeconfig, folder, secrets);
                eprintln!("{}: {theirs:?}", peer.name);
                measured.push((peer, theirs));
            }
            None => println!("not measured, for `tools/build.sh bench` has not built it: {}\n", peer.name),
        }
    }
    if measured.is_empty() {
        return;
    }
    let mut table = Table::new(title);
    let mut times = |what: &str, of: fn(&Measured) -> Duration, target: f64| {
        let best = measured.iter().map(|(_, theirs)| of(theirs)).min();
        for (peer, theirs) in &measured {
            let target = if Some(of(theirs)) == best { target } else { f64::INFINITY };
            table.ratio(what, of(ours), peer.name, of(theirs), target);
        }
    };
    times("first complete scrape", |of| of.first, 0.25);
    times("scrape with gzip, p50", |of| of.scrape, 0.01);
    times("processor time per scrape", |of| of.cpu, 0.01);
    let mut sizes = |what: &str, of: fn(&Measured) -> u64, target: f64| {
        for (peer, theirs) in &measured {
            let target = if peer.information == Information::Same { target } else { f64::INFINITY };
            table.sizes(what, of(ours), peer.name, of(theirs), target);
        }
    };
    sizes("resident memory, peak", |of| of.peak, f64::INFINITY);
    sizes("body as text", |of| of.text, 1.0);
    sizes("body with gzip", |of| of.gzip, 1.0);
    table.print();
}

/// The median of so many scrapes, and the processor time of each.
pub(crate) fn scraped(process: &Process, path: &str, scrapes: usize) -> (Duration, Duration) {
    let mut client = Client::connect(process.address).unwrap();
    let before = process.cpu();
    let mut times: Vec<Duration> = (0..scrapes)
        .map(|_| {
            let start = Instant::now();
            client.scrape_at(path);
            start.elapsed()
        })
        .collect();
    (median(&mut times), (process.cpu() - before) / scrapes as u32)
}

impl Peer {
    fn measure(&self, program: &Path, kubeconfig: &Path, folder: &Path, secrets: usize) -> Measured {
        let (process, first, body) = self.first_scrape(program, kubeconfig, folder, secrets);
        let (scrape, cpu) = scraped(&process, self.path, SCRAPES);
        Measured {
            first,
            scrape,
            cpu,
            peak: process.peak_memory(),
            text: crate::text(&body).len() as u64,
            gzip: body.len() as u64,
        }
    }

    /// Starts it and scrapes it as soon as it is ready, until all certificates are there.
    fn first_scrape(
        &self,
        program: &Path,
        kubeconfig: &Path,
        folder: &Path,
        secrets: usize,
    ) -> (Process, Duration, Vec<u8>) {
        let address = free_address();
        let mut command = Command::new(program);
        command.args(self.arguments.of(kubeconfig, &address.to_string(), &folder.join("peer.yaml")));
        let logs = matches!(self.ready, Ready::Logs(_));
        command.stderr(if logs { Stdio::piped() } else { Stdio::null() });
        let start = Instant::now();
        let mut process = Process::of(&mut command, address);
        let told = Arc::new(AtomicUsize::new(0));
        if let Ready::Logs(line) = self.ready {
            let (log, told) = (BufReader::new(process.log()), Arc::clone(&told));
            std::thread::spawn(move || {
                let lines = log.lines().map_while(Result::ok).filter(|found| found.contains(line));
                lines.for_each(|_| _ = told.fetch_add(1, Ordering::Relaxed));
            });
        }
        let mut client = process.wait_until(|| Client::connect(address));
        process.wait_until(|| {
            let is_ready = match self.ready {
                Ready::Answers(path) => client.ok(path),
                Ready::Logs(_) => told.load(Ordering::Relaxed) >= secrets,
                Ready::Listens => true,
            };
            if !is_ready {
                std::thread::sleep(PAUSE);
            }
            is_ready.then_some(())
        });
        let (took, body) = process.wait_until(|| {
            let body = client.scrape_at(self.path);
            let took = start.elapsed();
            (crate::series(&body, self.family) == 3 * secrets).then_some((took, body))
        });
        (process, took, body)
    }
}

impl Arguments {
    fn of(&self, kubeconfig: &Path, address: &str, file: &Path) -> Vec<String> {
        let kubeconfig = kubeconfig.display().to_string();
        match self {
            Self::Flags(flags) => flags(&kubeconfig, address),
            Self::File(text, flags) => {
                std::fs::write(file, text(&kubeconfig, address)).unwrap();
                flags(&file.display().to_string(), address)
            }
        }
    }
}

fn built(program: &str) -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/bin").join(program)).filter(|path| path.exists())
}
