//! What several tests need.

pub mod browser;
pub mod daemon;
pub mod faults;
pub mod helm;
pub mod http;
pub mod prometheus;
pub mod real_api;
pub mod rules;
pub mod terminal;
pub mod tools;
