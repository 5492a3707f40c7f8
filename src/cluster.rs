//! The Kubernetes API of a control plane cluster, as far as certificates need it.

pub mod connect;
mod decode;
mod request;
pub mod secrets;
