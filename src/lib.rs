//! meshcert watches the certificates of hosted service meshes and exports when they end.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cert;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod config;
pub mod controller;
pub mod crd;
#[cfg(feature = "demo")]
pub mod demo;
pub mod digest;
pub mod follower;
pub mod inventory;
pub mod job;
pub mod material;
pub mod mesh;
pub mod metrics;
pub mod name;
pub mod native;
pub mod notification;
pub mod observer;
pub mod plan;
pub mod policy;
pub mod ports;
pub mod probe;
pub mod renewal;
pub mod requests;
pub mod rollout;
pub mod runbook;
pub mod secret;
pub mod server;
pub mod tasks;
pub mod time;

#[cfg(test)]
mod testpki;
