//! The Kubernetes API of a control plane cluster, as far as certificates need it.

pub mod connect;
pub mod decode;
mod request;
pub mod secrets;
