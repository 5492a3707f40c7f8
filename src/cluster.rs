//! The Kubernetes API of a control plane cluster, as far as certificates need it.

mod access;
pub mod api;
pub mod connect;
pub mod decode;
mod events;
pub(crate) mod feed;
pub mod forward;
mod jobs;
pub mod lease;
pub mod material;
pub mod renewal_watch;
pub mod renewals;
mod request;
pub mod secrets;
pub mod server;
pub mod workloads;
