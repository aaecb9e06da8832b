//! Entry points of the fuzz targets in `fuzz/`: the code that parses bytes from clients, without a store behind it.
//!
//! Each takes any bytes and must not panic. It returns the names of what it parsed, so that a test can measure how far
//! the corpus reaches.

pub use crate::api::fuzzing::{headers, message, request};
pub use crate::live::fuzzing::listener;

/// A fuzz target: returns the names of what it parsed.
pub type Target = fn(&[u8]) -> Vec<&'static str>;

/// All targets by name. Their corpora have the same names.
pub const TARGETS: &[(&str, Target)] =
    &[("request", request), ("headers", headers), ("message", message), ("listener", listener)];
