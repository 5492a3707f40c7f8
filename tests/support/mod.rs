//! What several tests need.

pub mod daemon;
pub mod faults;
pub mod http;
pub mod prometheus;
pub mod rules;
pub mod terminal;
pub mod tools;
