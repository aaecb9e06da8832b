//! Row keys: the primary key of messages and reports, with the generation in the upper bits and the sequence number in
//! the lower 32.

/// Returns the sequence number in a row key.
pub(crate) const fn seq(place: i64) -> i64 {
    place & 0xffff_ffff
}

/// Returns the row key of a sequence number in a generation.
pub(crate) const fn place(generation: i64, seq: i64) -> i64 {
    (generation << 32) + seq
}
