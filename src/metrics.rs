//! The metrics of this process, and the body of `/metrics`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::exposition::{ClusterSnapshot, ObjectPart};
use crate::metrics::family::Format;
use crate::metrics::listeners::{ListenerCollector, ListenerMetrics};
use crate::metrics::permissions::{PermissionCollector, PermissionMetrics};
use crate::metrics::process::ProcessCollector;
use crate::metrics::renewals::{Received, Refusal, RenewalCollector, RenewalMetrics, Served};
use crate::metrics::segment::{Deflater, Segment};
use crate::time::UnixTime;

mod classic;
mod deflate;
pub mod exposition;
pub mod family;
mod labels;
pub mod lines;
pub mod listeners;
pub mod permissions;
mod process;
pub mod renewals;
pub mod segment;

/// What the observing plane tells at any time, without waiting.
pub trait Observed: Send + Sync {
    /// Each cluster and what is known of it; the same `Arc` as long as nothing changed.
    fn clusters(&self) -> Vec<ClusterSnapshot>;

    /// How each source is.
    fn sources(&self) -> Vec<SourceHealth>;

    /// Whether every source was listed or failed once.
    ///
    /// # Errors
    /// A sentence that says what is still awaited.
    fn ready(&self) -> Result<(), String>;
}

/// How a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceHealth {
    /// The value of the label `source`.
    pub source: Arc<str>,
    /// Whether its last list or watch succeeded.
    pub up: bool,
    /// When it last answered; `None` where it never did.
    pub last_success: Option<UnixTime>,
    /// Secrets held from it.
    pub objects: u64,
    /// Failed requests by reason; every reason is listed, from 0.
    pub errors: Vec<(&'static str, u64)>,
    /// How often it had to be listed again in full.
    pub resyncs: u64,
    /// What failed last, while it is down.
    pub message: Option<String>,
}

/// Handles of what this process counts. The rest of the registry is read at scrape time.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    http_requests: Arc<HttpRequests>,
    listeners: Arc<ListenerMetrics>,
    permissions: Arc<PermissionMetrics>,
    config_successful: Gauge,
    config_success_time: Gauge,
    renewals: Option<Arc<RenewalMetrics>>,
    tail: Mutex<Tail>,
}

/// The end of a body: what changes with every scrape, compressed, with the gzip trailer.
#[derive(Debug)]
pub struct LiveTail {
    /// Its text.
    pub text: Bytes,
    /// Its end of the gzip member.
    pub gzip: Bytes,
}

/// Which part of the server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the path it stands for")]
pub enum Handler {
    Metrics,
    Healthy,
    Ready,
    Page,
    Api,
    Webhook,
    Other,
}

/// The class of an answer's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the class it is named after")]
pub enum StatusClass {
    Success,
    ClientError,
    ServerError,
}

/// Counts by [`Handler`] and [`StatusClass`].
#[derive(Debug, Default)]
struct HttpRequests([[AtomicU64; StatusClass::ALL.len()]; Handler::ALL.len()]);

#[derive(Debug, Default)]
struct Tail {
    open_metrics: String,
    classic: String,
    deflater: Deflater,
}

/// Reads the observing plane at every scrape, so that a source that was removed has no series.
struct ObservedCollector(Arc<dyn Observed>);

impl Metrics {
    /// Registers everything; with the acting plane's where it is one of this process's roles.
    pub fn new(observed: Arc<dyn Observed>, renewals: Option<Arc<RenewalMetrics>>) -> Self {
        let mut registry = Registry::default();
        let http_requests = Arc::new(HttpRequests::default());
        let (config_successful, config_success_time) = (Gauge::default(), Gauge::default());
        let build =
            Info::new([("version", env!("CARGO_PKG_VERSION")), ("rust_version", env!("CARGO_PKG_RUST_VERSION"))]);
        registry.register("meshcert_build", "The running version", build);
        registry.register_collector(Box::new(ObservedCollector(observed)));
        registry.register(
            "meshcert_config_last_reload_successful",
            "Whether the configuration was valid when it was last read",
            config_successful.clone(),
        );
        registry.register_with_unit(
            "meshcert_config_last_reload_success_timestamp",
            "When a valid configuration was last read",
            Unit::Seconds,
            config_success_time.clone(),
        );
        if let Some(renewals) = &renewals {
            registry.register_collector(Box::new(RenewalCollector(Arc::clone(renewals))));
        }
        registry.register_collector(Box::new(Arc::clone(&http_requests)));
        let listeners = Arc::new(ListenerMetrics::default());
        registry.register_collector(Box::new(ListenerCollector(Arc::clone(&listeners))));
        let permissions = Arc::new(PermissionMetrics::default());
        registry.register_collector(Box::new(PermissionCollector(Arc::clone(&permissions))));
        registry.register_collector(Box::new(ProcessCollector));
        let tail = Mutex::default();
        Self { registry, http_requests, listeners, permissions, config_successful, config_success_time, renewals, tail }
    }

    /// A notification for a webhook that is disabled.
    pub fn webhook_is_disabled(&self) {
        if let Some(renewals) = &self.renewals {
            renewals.refused(Refusal::Disabled);
            renewals.received(Received::Refused);
        }
    }

    /// How the listeners' TLS is.
    pub fn listeners(&self) -> &Arc<ListenerMetrics> {
        &self.listeners
    }

    /// Which rights this process has and should not have.
    pub fn permissions(&self) -> &Arc<PermissionMetrics> {
        &self.permissions
    }

    /// What endpoints showed when this process asked them last.
    pub fn served(&self) -> Served {
        self.renewals.as_ref().map(|renewals| renewals.served()).unwrap_or_default()
    }

    /// A valid configuration is in force since `now`.
    pub fn config_accepted(&self, now: UnixTime) {
        self.config_successful.set(1);
        self.config_success_time.set(now.0);
    }

    /// A changed configuration was refused; the old one stays in force.
    pub fn config_refused(&self) {
        self.config_successful.set(0);
    }

    /// A request was answered.
    pub fn http_request(&self, handler: Handler, code: StatusClass) {
        self.http_requests.0[handler as usize][code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The live series, to stand after an object part.
    pub fn tail(&self, objects: &ObjectPart, format: Format) -> LiveTail {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let Tail { open_metrics, classic, deflater } = &mut *tail;
        open_metrics.clear();
        // Writing to a String cannot fail, and no native histogram is registered, the one thing that the encoder refuses.
        let _ = encode_registry(open_metrics, &self.registry);
        let text = match format {
            Format::OpenMetrics => {
                let _ = encode_eof(open_metrics);
                open_metrics
            }
            Format::Classic => {
                classic.clear();
                classic::append(classic, open_metrics);
                classic
            }
        };
        let segment = deflater.last(text.as_bytes());
        LiveTail { gzip: close(objects, &segment), text: Bytes::copy_from_slice(text.as_bytes()) }
    }
}

fn close(objects: &ObjectPart, last: &Segment) -> Bytes {
    let mut checksum = objects.checksum.clone();
    checksum.push(last);
    let trailer = checksum.trailer(objects.len + last.len);
    [&*last.deflated, &trailer].concat().into()
}

impl Collector for ObservedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let clusters: BTreeSet<_> = self.0.clusters().into_iter().map(|cluster| cluster.name).collect();
        let help = "1 for each cluster that is observed.";
        let mut info = encoder.encode_descriptor("meshcert_cluster", help, None, MetricType::Info)?;
        for cluster in &clusters {
            info.encode_info(&[("mesh_cluster", &**cluster)])?;
        }
        let mut sources = self.0.sources();
        sources.sort_by(|a, b| a.source.cmp(&b.source));
        sources.dedup_by(|b, a| a.source == b.source);
        let each = || sources.iter().map(|health| (("source", &*health.source), health));
        family(
            &mut encoder,
            "meshcert_source_up",
            "Whether the source's last list or watch succeeded.",
            None,
            each().map(|(label, health)| (label, ConstGauge::new(u32::from(health.up)))),
        )?;
        family(
            &mut encoder,
            "meshcert_source_last_success_timestamp",
            "When the source last answered.",
            Some(Unit::Seconds),
            each().filter_map(|(label, health)| Some((label, ConstGauge::new(health.last_success?.0)))),
        )?;
        family(
            &mut encoder,
            "meshcert_source_objects",
            "Secrets held from the source.",
            None,
            each().map(|(label, health)| (label, ConstGauge::new(health.objects))),
        )?;
        family(
            &mut encoder,
            "meshcert_source_errors",
            "Requests to the source that failed, by reason.",
            None,
            each().flat_map(|(label, health)| {
                health
                    .errors
                    .iter()
                    .map(move |(reason, count)| ([label, ("reason", *reason)], ConstCounter::new(*count)))
            }),
        )?;
        family(
            &mut encoder,
            "meshcert_source_resyncs",
            "How often the source had to be listed again in full.",
            None,
            each().map(|(label, health)| (label, ConstCounter::new(health.resyncs))),
        )
    }
}

impl Collector for HttpRequests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let series = Handler::ALL.into_iter().flat_map(|handler| {
            StatusClass::ALL.map(|code| {
                let counter = &self.0[handler as usize][code as usize];
                ([("handler", handler.as_str()), ("code", code.as_str())], count(counter))
            })
        });
        let help = "Answered requests by part of the server and class of status.";
        family(&mut encoder, "meshcert_http_requests", help, None, series)
    }
}

fn family<L: Labels, M: EncodeMetric + Typed>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    series: impl Iterator<Item = (L, M)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), M::TYPE)?;
    for (labels, value) in series {
        value.encode(metric.encode_family(&labels.set())?)?;
    }
    Ok(())
}

/// How far it has counted.
fn count(counter: &AtomicU64) -> ConstCounter<u64> {
    ConstCounter::new(counter.load(Ordering::Relaxed))
}

/// Whether a constant metric is a gauge or a counter, known without one.
trait Typed {
    const TYPE: MetricType;
}

impl<N> Typed for ConstGauge<N> {
    const TYPE: MetricType = MetricType::Gauge;
}

impl<N> Typed for ConstCounter<N> {
    const TYPE: MetricType = MetricType::Counter;
}

/// One label or several.
trait Labels {
    fn set(self) -> impl EncodeLabelSet;
}

impl Labels for (&str, &str) {
    fn set(self) -> impl EncodeLabelSet {
        [self]
    }
}

impl<const N: usize> Labels for [(&str, &str); N] {
    fn set(self) -> impl EncodeLabelSet {
        self
    }
}

impl fmt::Debug for ObservedCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObservedCollector")
    }
}

impl Handler {
    const ALL: [Self; 7] =
        [Self::Metrics, Self::Healthy, Self::Ready, Self::Page, Self::Api, Self::Webhook, Self::Other];

    fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Healthy => "healthy",
            Self::Ready => "ready",
            Self::Page => "page",
            Self::Api => "api",
            Self::Webhook => "webhook",
            Self::Other => "other",
        }
    }
}

impl StatusClass {
    const ALL: [Self; 3] = [Self::Success, Self::ClientError, Self::ServerError];

    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}
