//! meshcert watches the certificates of hosted service meshes and exports when they end.

pub mod app;
pub mod cert;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod inventory;
pub mod mesh;
pub mod metrics;
pub mod observer;
pub mod ports;
pub mod secret;
pub mod server;
pub mod time;

#[cfg(test)]
mod testpki;
