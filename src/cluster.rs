//! The Kubernetes API of a control plane cluster, as far as certificates need it.

pub mod api;
pub mod connect;
pub mod decode;
mod events;
pub mod forward;
pub mod lease;
pub mod material;
pub mod renewals;
mod request;
pub mod secrets;
pub mod workloads;
