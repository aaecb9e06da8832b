//! Row keys: the primary key of messages and reports, with the generation in the upper bits and the sequence number in
//! the lower 32. So the entries of a generation are one range of keys. The column is `place`, which the checks of a
//! database with an older schema read before its migration.

pub(crate) const fn seq(row_key: i64) -> i64 {
    row_key & 0xffff_ffff
}

pub(crate) const fn row_key(generation: i64, seq: i64) -> i64 {
    (generation << 32) + seq
}
