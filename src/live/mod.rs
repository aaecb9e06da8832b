//! Live connections: a client that listens is notified at once of something new, and reads it over HTTP.

mod connection;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod hub;
mod pace;
mod socket;
mod subscription;

pub use connection::run;
pub use hub::{Hub, SocketPermit};
