//! Live connections: a client that listens is notified at once of something new, and reads it over HTTP.

mod connection;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hub;
mod pace;
mod socket;
mod subscription;

pub use connection::run;
pub(crate) use hub::{Hub, SocketPermit};
