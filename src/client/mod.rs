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
mod probe;
mod profile;
mod session;
mod transport;
mod wire;

pub use backoff::persist;
pub use credentials::Credentials;
pub use error::Error;
pub use http::{Answer, Api, server_url};
pub use inbox::{Inbox, Positions, Save};
pub use listener::{Listener, Notification};
pub use private_key::{KeyError, PrivateKey};
pub(crate) use probe::{probe, probe_socket};
pub use profile::{Profile, ProfileError};
pub use session::{Received, Session, derived_id, new_message_id};
pub use wire::{Conversation, Friend, Login, Participant, Requester, Requests};
