//! Live connections: clients that listen are told at once that there is something new, and read it over HTTP.

mod connection;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod hub;
mod pace;
mod socket;
mod subscription;

pub use connection::run;
pub use hub::{Hub, SocketPermit};
