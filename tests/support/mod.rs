//! What several tests need.

pub mod daemon;
pub mod faults;
pub mod rules;
pub mod tools;
