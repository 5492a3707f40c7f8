//! meshcert on a real Kubernetes with real hosted meshes. `make e2e` brings both up and runs these; anywhere else they are shown as ignored.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may"
)]

#[path = "e2e/acting.rs"]
mod acting;
#[path = "e2e/alerting.rs"]
mod alerting;
#[path = "support/client.rs"]
mod client;
#[path = "e2e/cluster.rs"]
mod cluster;
#[path = "e2e/fake.rs"]
mod fake;
#[path = "e2e/fleet.rs"]
mod fleet;
#[path = "e2e/harm.rs"]
mod harm;
#[path = "e2e/job.rs"]
mod job;
#[path = "e2e/manual.rs"]
mod manual;
#[path = "e2e/mesh.rs"]
mod mesh;
#[path = "e2e/outage.rs"]
mod outage;
#[path = "e2e/pods.rs"]
mod pods;
#[path = "e2e/rollback.rs"]
mod rollback;
#[path = "support/mod.rs"]
mod support;
