//! The object series of `/metrics`, rendered and compressed once per change.
//!
//! The series of a family must stand together, so the cache is cut by family and by shard of the inventory. A shard that did not change is the same `Arc` as
//! before; its pieces are used again. A scrape of what did not change costs two atomic loads and a comparison of pointers, whatever the size.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use hyper::body::Bytes;

use crate::inventory::{Shard, Snapshot};
use crate::metrics::family::{Family, Format};
use crate::metrics::lines::{self, SecretCluster};
use crate::metrics::segment::{Checksum, Deflater, GZIP_HEADER, Segment};
use crate::time::UnixTime;

/// A cluster and what is known of it.
#[derive(Clone, Debug)]
pub struct ClusterSnapshot {
    /// The value of `mesh_cluster`.
    pub name: Arc<str>,
    /// The same `Arc` as long as nothing changed.
    pub snapshot: Arc<Snapshot>,
}

/// The same cluster with the same snapshot behind its `Arc`; contents are never compared.
impl PartialEq for ClusterSnapshot {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.snapshot, &other.snapshot)
    }
}

/// The object series of all clusters in one format: all of the body but its live tail.
#[derive(Debug)]
pub struct ObjectPart {
    /// The gzip header and every segment.
    pub gzip: Bytes,
    /// The segments one by one, for those who do not read gzip.
    pub segments: Vec<Arc<Segment>>,
    /// CRC-32 over the text so far.
    pub checksum: Checksum,
    /// Bytes of the text so far.
    pub len: u64,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Exposition {
    current: ArcSwap<Current>,
    cache: Mutex<Cache>,
    rendered_shards: AtomicU64,
}

/// What was rendered last, and of what.
#[derive(Debug, Default)]
struct Current {
    clusters: Vec<ClusterSnapshot>,
    validity: Validity,
    bodies: Vec<Vec<Arc<Segment>>>,
    open_metrics: OnceLock<Arc<ObjectPart>>,
    classic: OnceLock<Arc<ObjectPart>>,
}

/// The rendered shards; only whoever renders holds it.
#[derive(Debug, Default)]
struct Cache {
    deflater: Deflater,
    clusters: HashMap<Arc<str>, Vec<Arc<Rendered>>>,
    secret_cluster: Option<SecretCluster>,
}

/// One shard's pieces; holding the shard keeps its address from being used again.
#[derive(Debug)]
struct Rendered {
    shard: Arc<Shard>,
    validity: Validity,
    segments: [Option<Arc<Segment>>; Family::ALL.len()],
}

/// From when until when a text is true.
#[derive(Clone, Copy, Debug, Default)]
struct Validity {
    since: Option<UnixTime>,
    until: Option<UnixTime>,
}

/// A shard that has to be rendered, and where the result belongs.
struct Job<'a> {
    cluster: &'a ClusterSnapshot,
    shard: &'a Arc<Shard>,
    at: (usize, usize),
}

impl Exposition {
    /// The object part as it is, if nothing changed since it was rendered. Never blocks.
    pub fn unchanged(&self, clusters: &[ClusterSnapshot], format: Format, now: UnixTime) -> Option<Arc<ObjectPart>> {
        let current = self.current.load();
        if !current.is_of(clusters, now) {
            return None;
        }
        current.slot(format).get().cloned()
    }

    /// The object part, with every changed shard rendered anew. Takes as long as the change is large: not for an asynchronous task. Callers at the same time
    /// share one rendering.
    pub fn render(&self, clusters: &[ClusterSnapshot], format: Format, now: UnixTime) -> Arc<ObjectPart> {
        // A panic while rendering leaves pieces that are whole or absent: the cache stays usable.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = self.current.load_full();
        if !current.is_of(clusters, now) {
            current = Arc::new(self.update(&mut cache, clusters, now));
            self.current.store(Arc::clone(&current));
        }
        Arc::clone(current.slot(format).get_or_init(|| Arc::new(cache.assemble(&current.bodies, format))))
    }

    /// How many shards have been rendered since the start.
    pub fn rendered_shards(&self) -> u64 {
        self.rendered_shards.load(Ordering::Relaxed)
    }

    fn update(&self, cache: &mut Cache, given: &[ClusterSnapshot], now: UnixTime) -> Current {
        let mut clusters: Vec<&ClusterSnapshot> = given.iter().collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        // Two clusters of one name would give every series twice, and Prometheus would refuse the whole scrape.
        clusters.dedup_by(|b, a| a.name == b.name);
        let secret_cluster = if clusters.len() > 1 { SecretCluster::Named } else { SecretCluster::Omitted };
        if cache.secret_cluster.replace(secret_cluster) != Some(secret_cluster) {
            cache.clusters.clear();
        }

        let mut slots: Vec<Vec<Option<Arc<Rendered>>>> = Vec::new();
        let mut jobs = Vec::new();
        for (c, cluster) in clusters.iter().enumerate() {
            let known = cache.clusters.remove(&cluster.name).unwrap_or_default();
            let mut row = Vec::with_capacity(cluster.snapshot.shards.len());
            for (s, shard) in cluster.snapshot.shards.iter().enumerate() {
                let reusable = known.get(s).filter(|old| Arc::ptr_eq(&old.shard, shard) && old.validity.holds(now));
                if reusable.is_none() {
                    jobs.push(Job { cluster, shard, at: (c, s) });
                }
                row.push(reusable.cloned());
            }
            slots.push(row);
        }
        self.rendered_shards.fetch_add(jobs.len() as u64, Ordering::Relaxed);
        for ((c, s), rendered) in run(&jobs, &mut cache.deflater, secret_cluster, now) {
            slots[c][s] = Some(Arc::new(rendered));
        }

        let rows: Vec<Vec<Arc<Rendered>>> = slots.into_iter().map(|row| row.into_iter().flatten().collect()).collect();
        let all = || rows.iter().flatten();
        let bodies = Family::ALL
            .iter()
            .map(|family| all().filter_map(|rendered| rendered.segments[*family as usize].clone()).collect())
            .collect();
        let validity = Validity {
            since: all().filter_map(|rendered| rendered.validity.since).max(),
            until: all().filter_map(|rendered| rendered.validity.until).min(),
        };
        cache.clusters = clusters.iter().map(|cluster| Arc::clone(&cluster.name)).zip(rows).collect();
        Current { clusters: given.to_vec(), validity, bodies, ..Current::default() }
    }
}

impl Cache {
    fn assemble(&mut self, bodies: &[Vec<Arc<Segment>>], format: Format) -> ObjectPart {
        let mut segments = Vec::new();
        for family in Family::ALL {
            let header = family.header(format);
            segments.push(Arc::new(self.deflater.inner(header.as_bytes())));
            segments.extend(bodies.get(family as usize).into_iter().flatten().cloned());
        }
        let size = segments.iter().map(|segment| segment.deflated.len()).sum::<usize>();
        let mut gzip = Vec::with_capacity(GZIP_HEADER.len() + size);
        gzip.extend_from_slice(&GZIP_HEADER);
        let mut checksum = Checksum::default();
        for segment in &segments {
            gzip.extend_from_slice(&segment.deflated);
            checksum.push(segment);
        }
        let len = segments.iter().map(|segment| segment.len).sum();
        ObjectPart { gzip: gzip.into(), segments, checksum, len }
    }
}

impl Current {
    fn is_of(&self, clusters: &[ClusterSnapshot], now: UnixTime) -> bool {
        self.validity.holds(now) && !self.bodies.is_empty() && self.clusters == clusters
    }

    fn slot(&self, format: Format) -> &OnceLock<Arc<ObjectPart>> {
        match format {
            Format::OpenMetrics => &self.open_metrics,
            Format::Classic => &self.classic,
        }
    }
}

impl Validity {
    /// Also false where the clock was set back behind the moment of rendering.
    fn holds(self, now: UnixTime) -> bool {
        self.since.is_none_or(|since| since <= now) && self.until.is_none_or(|until| now < until)
    }
}

/// Renders the jobs; many of them on several threads, each with a compressor of its own.
fn run(
    jobs: &[Job<'_>],
    deflater: &mut Deflater,
    secret_cluster: SecretCluster,
    now: UnixTime,
) -> Vec<((usize, usize), Rendered)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    if jobs.len() < WORTH_A_THREAD || threads < 2 {
        return jobs.iter().map(|job| (job.at, render_shard(job, deflater, secret_cluster, now))).collect();
    }
    let next = AtomicUsize::new(0);
    let work = |deflater: &mut Deflater| -> Vec<_> {
        std::iter::from_fn(|| jobs.get(next.fetch_add(1, Ordering::Relaxed)))
            .map(|job| (job.at, render_shard(job, deflater, secret_cluster, now)))
            .collect()
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(|| work(&mut Deflater::default()))).collect();
        let mut done = work(deflater);
        for helper in helpers {
            match helper.join() {
                Ok(part) => done.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    })
}

fn render_shard(job: &Job<'_>, deflater: &mut Deflater, secret_cluster: SecretCluster, now: UnixTime) -> Rendered {
    let lines = lines::render(job.shard, &job.cluster.name, secret_cluster, now);
    let segments = lines.families.map(|text| (!text.is_empty()).then(|| Arc::new(deflater.inner(text.as_bytes()))));
    let since = time_dependent(job.shard).then_some(now);
    Rendered { shard: Arc::clone(job.shard), validity: Validity { since, until: lines.valid_until }, segments }
}

/// A shard without certificates says the same at any time.
fn time_dependent(shard: &Shard) -> bool {
    !shard.meshes.is_empty() || !shard.others.is_empty()
}

const MAX_THREADS: usize = 4;
const WORTH_A_THREAD: usize = 16;
