//! The SQLite-only part of the store: its file and lock, its connections, and the write-ahead log. Each file begins with
//! the reason for it, and with the figure where the reason is speed.

pub(crate) mod backoff;
pub(crate) mod backup;
pub(crate) mod backup_record;
pub(crate) mod checkpointer;
pub(crate) mod checkup;
pub(crate) mod codes;
pub(crate) mod connections;
pub(crate) mod file;
pub(crate) mod invariants;
pub(crate) mod joined;
pub(crate) mod local;
pub(crate) mod reserve;
pub(crate) mod restore;
pub(crate) mod schema;
pub(crate) mod server_lock;
pub(crate) mod space;
pub(crate) mod unlisted;
pub(crate) mod wal;
pub(crate) mod watch;
