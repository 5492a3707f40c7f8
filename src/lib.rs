//! meshcert watches the certificates of hosted service meshes and exports when they end.

pub mod cert;
pub mod config;
pub mod inventory;
pub mod mesh;
pub mod metrics;
pub mod ports;
pub mod secret;
pub mod server;
pub mod time;
