//! What several tests need.

pub mod browser;
pub mod daemon;
pub mod faults;
pub mod http;
pub mod prometheus;
pub mod terminal;
pub mod tools;
