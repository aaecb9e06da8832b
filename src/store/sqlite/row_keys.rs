//! Row keys: the primary key of messages and reports, with the generation in the upper bits and the sequence number in
//! the lower 32. So the entries of a generation are one range of keys. The columns call it `place`.

pub(crate) const fn seq(place: i64) -> i64 {
    place & 0xffff_ffff
}

pub(crate) const fn place(generation: i64, seq: i64) -> i64 {
    (generation << 32) + seq
}
