//! The Kubernetes API of a control plane cluster, as far as certificates need it.

pub mod api;
pub mod connect;
pub mod decode;
mod events;
mod jobs;
pub mod lease;
pub mod material;
pub mod renewals;
mod request;
pub mod secrets;
mod workloads;
