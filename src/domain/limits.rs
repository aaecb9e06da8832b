//! Bounds of stored data: those that the operator sets, and fixed ones.

/// Bounds of stored data; 0 turns a bound off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes of `Data` of one conversation.
    pub(crate) conversation_bytes: u64,
    /// Maximum friends of one user.
    pub(crate) friends: u32,
    /// Free bytes of the disk below which changes that grow the data are refused.
    pub(crate) disk_reserve_bytes: u64,
}

/// Maximum users that one user may block: more than a user meets, and few enough for one answer.
pub(crate) const MOST_BLOCKS: u16 = 1000;

/// Maximum workspaces per user: few enough that no user takes all names.
pub(crate) const MOST_WORKSPACES: u16 = 100;

/// Maximum open requests of one user: few enough that no user fills the database or tries addresses in bulk.
pub(crate) const MOST_OPEN_REQUESTS: u16 = 200;
