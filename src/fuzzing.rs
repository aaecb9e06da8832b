//! Entry points of the fuzz targets in `fuzz/`: the code that reads bytes of clients, without a store behind it.
//!
//! Each takes any bytes, never panics on account of them, and says what it has read, so that a test can see how far the
//! corpus reaches.

pub use crate::api::fuzzing::{headers, message, request};
pub use crate::live::fuzzing::listener;

/// A fuzz target.
pub type Target = fn(&[u8]) -> Vec<&'static str>;

/// All targets by their names, which are those of their corpora too.
pub const TARGETS: &[(&str, Target)] =
    &[("request", request), ("headers", headers), ("message", message), ("listener", listener)];
