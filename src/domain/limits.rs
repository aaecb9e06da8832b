//! Bounds of stored data, which the operator sets.

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
