//! Bounds of what is stored, which the operator sets.

/// Bounds of what is stored; 0 turns one off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of `Data` of one conversation.
    pub conversation_bytes: u64,
    /// Friends of one user.
    pub friends: u32,
    /// Free bytes of the disk below which changes that grow the data are refused.
    pub disk_reserve_bytes: u64,
}
