//! Places: what stands in a generation of a conversation is found by one number, which has the number of the generation
//! in its upper bits and in the lower 32 the sequence number there.

/// The sequence number within its generation.
pub(super) const fn seq(place: i64) -> i64 {
    place & 0xffff_ffff
}

/// The place with this sequence number in a generation.
pub(super) const fn place(generation: i64, seq: i64) -> i64 {
    (generation << 32) + seq
}
