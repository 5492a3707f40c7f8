//! What several tests need.

pub mod daemon;
pub mod tools;
