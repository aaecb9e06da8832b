//! A client of the protocol: signing, keys, payloads, requests and the listener.
//!
//! The command line (`chatserver client`), the load generator and the tests share it. It knows the domain's types and the
//! key material, and no other part of the server: everything else it learns over the network.

mod backoff;
mod credentials;
mod error;
mod http;
mod inbox;
mod listener;
pub mod payload;
mod private_key;
mod profile;
mod session;
mod transport;
mod wire;

pub use credentials::Credentials;
pub use error::Error;
pub use http::Api;
pub use inbox::{Inbox, Positions};
pub use listener::{Listener, Notification};
pub use private_key::{KeyError, PrivateKey};
pub use profile::{Profile, ProfileError};
pub use session::{Received, Session};
pub use wire::{Conversation, Friend, Login, Participant, Requests, Stranger};
