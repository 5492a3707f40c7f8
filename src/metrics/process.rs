//! `process_*`: what the operating system knows of this process. Nothing where there is no procfs.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads the figures at every scrape.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

/// The figures of one moment.
#[derive(Clone, Copy, Debug)]
struct Figures {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    start_seconds: f64,
    threads: i64,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(figures) = read() else { return Ok(()) };
        let mut metric = |name: &str, help: &str, unit: Option<Unit>, value: &dyn EncodeMetric| {
            value.encode(encoder.encode_descriptor(name, help, unit.as_ref(), value.metric_type())?)
        };
        metric(
            "process_cpu",
            "Total user and system CPU time spent.",
            Some(Unit::Seconds),
            &ConstCounter::new(figures.cpu_seconds),
        )?;
        metric(
            "process_resident_memory",
            "Resident memory size.",
            Some(Unit::Bytes),
            &ConstGauge::new(figures.resident_bytes),
        )?;
        metric(
            "process_virtual_memory",
            "Virtual memory size.",
            Some(Unit::Bytes),
            &ConstGauge::new(figures.virtual_bytes),
        )?;
        metric(
            "process_start_time",
            "Start time of the process since the Unix epoch.",
            Some(Unit::Seconds),
            &ConstGauge::new(figures.start_seconds),
        )?;
        metric("process_threads", "Number of operating system threads.", None, &ConstGauge::new(figures.threads))?;
        if let Some(count) = figures.open_fds {
            metric("process_open_fds", "Number of open file descriptors.", None, &ConstGauge::new(count))?;
        }
        if let Some(count) = figures.max_fds {
            metric("process_max_fds", "Maximum number of open file descriptors.", None, &ConstGauge::new(count))?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn read() -> Option<Figures> {
    use std::sync::OnceLock;

    use procfs::process::{LimitValue, Process};

    // Neither changes while the process lives; reading the boot time means parsing all of /proc/stat.
    static BOOT: OnceLock<Option<u64>> = OnceLock::new();
    static MAX_FDS: OnceLock<Option<u64>> = OnceLock::new();

    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second() as f64;
    let boot = (*BOOT.get_or_init(|| procfs::boot_time_secs().ok()))?;
    let max_fds = *MAX_FDS.get_or_init(|| match process.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(count) => Some(count),
        LimitValue::Unlimited => None,
    });
    Some(Figures {
        cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        start_seconds: boot as f64 + stat.starttime as f64 / ticks,
        threads: stat.num_threads,
        open_fds: process.fd_count().ok().map(|count| count as u64),
        max_fds,
    })
}

#[cfg(not(target_os = "linux"))]
fn read() -> Option<Figures> {
    None
}
