//! How the listeners' TLS is.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::metrics::{count, family};
use crate::time::UnixTime;

/// A place where connections are taken; the label `listener`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Metrics, health, page, API.
    Main,
    /// The webhook's own.
    Webhook,
}

/// Why no handshake came about; the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client's certificate has ended, is of another CA, or its key was not proven.
    ClientCertificate,
    /// No TLS, no common version, or the client hung up.
    Protocol,
    /// It took too long.
    Timeout,
}

impl Listener {
    const ALL: [Self; 2] = [Self::Main, Self::Webhook];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Webhook => "webhook",
        }
    }
}

impl HandshakeFailure {
    const ALL: [Self; 3] = [Self::ClientCertificate, Self::Protocol, Self::Timeout];

    fn as_str(self) -> &'static str {
        match self {
            Self::ClientCertificate => "client_certificate",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
        }
    }
}

/// By listener; one without TLS has no series.
#[derive(Debug, Default)]
pub struct ListenerMetrics([State; Listener::ALL.len()]);

#[derive(Debug, Default)]
struct State {
    reload: AtomicU8,
    not_after: AtomicI64,
    failures: [AtomicU64; HandshakeFailure::ALL.len()],
}

/// Values of `State::reload`.
const OFF: u8 = 0;
const GOOD: u8 = 1;
const BAD: u8 = 2;

impl ListenerMetrics {
    /// The listener speaks TLS, with a certificate that ends at `not_after`.
    pub fn loaded(&self, listener: Listener, not_after: UnixTime) {
        let state = &self.0[listener as usize];
        state.not_after.store(not_after.0, Ordering::Relaxed);
        state.reload.store(GOOD, Ordering::Relaxed);
    }

    /// Its changed files cannot be used; the former ones stay in force.
    pub fn refused(&self, listener: Listener) {
        self.0[listener as usize].reload.store(BAD, Ordering::Relaxed);
    }

    /// It speaks no TLS (any more).
    pub fn off(&self, listener: Listener) {
        self.0[listener as usize].reload.store(OFF, Ordering::Relaxed);
    }

    /// No handshake came about.
    pub fn failed(&self, listener: Listener, why: HandshakeFailure) {
        self.0[listener as usize].failures[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn each(&self) -> impl Iterator<Item = ((&'static str, &'static str), &State, u8)> {
        let all = Listener::ALL.iter().zip(&self.0);
        let all = all.map(|(one, state)| (("listener", one.as_str()), state, state.reload.load(Ordering::Relaxed)));
        all.filter(|(_, _, reload)| *reload != OFF)
    }
}

/// Reads the state at every scrape.
#[derive(Debug)]
pub(super) struct ListenerCollector(pub(super) std::sync::Arc<ListenerMetrics>);

impl Collector for ListenerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        family(
            &mut encoder,
            "meshcert_tls_last_reload_successful",
            "Whether the listener's certificate, key and client CA could be used when they were last read.",
            None,
            self.0.each().map(|(label, _, reload)| (label, ConstGauge::new(u32::from(reload == GOOD)))),
        )?;
        family(
            &mut encoder,
            "meshcert_tls_certificate_not_after_timestamp",
            "Last moment of validity of the certificate that the listener shows.",
            Some(Unit::Seconds),
            self.0.each().map(|(label, state, _)| (label, ConstGauge::new(state.not_after.load(Ordering::Relaxed)))),
        )?;
        let failures = self.0.each().flat_map(|(label, state, _)| {
            let each = HandshakeFailure::ALL.iter().zip(&state.failures);
            each.map(move |(reason, counter)| ([label, ("reason", reason.as_str())], count(counter)))
        });
        let help = "TLS handshakes that did not come about, by reason.";
        family(&mut encoder, "meshcert_tls_handshake_failures", help, None, failures)
    }
}
