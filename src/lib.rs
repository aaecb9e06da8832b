//! A chat server that speaks the Ozeki Chat Client API.
//!
//! Six things stay true, whatever is built on top:
//!
//! 1. **An answer is a promise.** A change that was answered OK is on disk. `kill -9` at any instant loses nothing that
//!    was acknowledged and leaves nothing half done.
//! 2. **Changes are idempotent.** A client may send every change again; at worst it is told that it was made already.
//! 3. **The server's order rules.** Each conversation has one sequence, assigned by the store. Client clocks order
//!    nothing.
//! 4. **What you may not see does not exist.** The answer has the same content and shape as for something that never
//!    existed.
//! 5. **Everything has a bound** with a name and a reason: bodies, pages, queues, stations, connections, time.
//! 6. **The store is the truth.** Caches save lookups but decide nothing. What decides about a change is checked inside
//!    the transaction that makes it. One staleness is permitted: a key that another process took away may pass for up
//!    to 5 s.
//!
//! Dependencies point one way. Two edges face the clients: [`api`] over HTTP and
//! [`live`] over WebSockets. A third one, [`admin`], serves operators. They call the [`store`], the only place that knows SQL. Where one call of the store is not
//! enough, they call a service: [`friends`], [`users`], [`stations`], [`conversations`], [`messages`], [`reports`],
//! [`availability`], [`notifications`], [`invitations`], [`export`], [`usage`],
//! [`retention`].
//!
//! [`domain`] has the types and the pure rules, which the store calls inside its transactions. The store announces what
//! was committed, and [`live`] notifies listeners. [`app`] is the state that requests share, [`server`] runs it, and
//! [`commands`] is the command line. [`client`] is the other side of the protocol, for the command line, the load generator
//! and the tests.

pub mod admin;
pub mod admin_links;
pub mod api;
pub mod app;
mod audit;
pub(crate) mod availability;
mod bounded;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
pub(crate) mod conversations;
pub mod domain;
mod envelope;
pub mod error;
mod export;
pub mod fields;
mod freshness;
pub mod friends;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod invitations;
pub(crate) mod jobs;
pub mod key_file;
pub mod keys;
pub(crate) mod limits;
pub mod listen;
pub(crate) mod live;
pub(crate) mod messages;
pub mod notifications;
pub(crate) mod random;
pub(crate) mod reports;
mod retention;
mod sealing;
pub mod server;
pub(crate) mod service_manager;
pub(crate) mod shutdown;
pub mod signature;
pub(crate) mod stations;
pub mod store;
pub(crate) mod telemetry;
pub mod tls;
mod usage;
pub mod users;
mod web;
