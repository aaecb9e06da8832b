//! Places: what stands in a generation of a conversation is found by one number, which has the number of the generation
//! in its upper bits and in the lower 32 the sequence number there.

use uuid::Uuid;

/// The number of messages in a run, as text of SQL and as a number.
macro_rules! run {
    () => {
        16
    };
}

/// IDs of messages are written to their table in whole runs. So of 16 messages one writes a page of it, and not
/// each; who looks for an ID looks at up to 15 messages besides.
pub(super) const RUN: i64 = run!();

/// The sequence number within its generation.
pub(super) const fn seq(place: i64) -> i64 {
    place & 0xffff_ffff
}

/// The place with this sequence number in a generation.
pub(super) const fn place(generation: i64, seq: i64) -> i64 {
    (generation << 32) + seq
}

/// SQL for an ID of a message as `message_ids` has it: the bytes of a UUID, or the text of any other.
macro_rules! known_id {
    ($id:literal) => {
        concat!(
            "CASE WHEN ",
            $id,
            " GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-\
             [0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]",
            "' THEN unhex(",
            $id,
            ", '-') ELSE ",
            $id,
            " END"
        )
    };
}

/// SQL for the place of the message with an ID, or NULL: of a generation and its `next_seq`, all of these SQL as well. The
/// ID may be given as [`known_id`] has it, too.
macro_rules! place_of_id {
    ($generation:literal, $next_seq:literal, $id:literal) => {
        place_of_id!($generation, $next_seq, $id, known_id!($id))
    };
    ($generation:literal, $next_seq:literal, $id:literal, $known_id:expr) => {
        concat!(
            "coalesce(
                (SELECT known.place FROM message_ids known
                 WHERE known.generation = ",
            $generation,
            " AND known.id = ",
            $known_id,
            "), (SELECT young.place FROM messages young
                 WHERE young.place > (",
            $generation,
            " << 32) + (",
            $next_seq,
            " - 1) / ",
            run!(),
            " * ",
            run!(),
            " AND young.place < (",
            $generation,
            " << 32) + ",
            $next_seq,
            " AND young.id = ",
            $id,
            "))"
        )
    };
}

/// The bytes of a UUID in lower case, as [`known_id`] has it, or `None` for any other ID.
pub(super) fn uuid_bytes(id: &str) -> Option<Vec<u8>> {
    let uuid = Uuid::try_parse(id).ok()?;
    let written = uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id;
    written.then(|| uuid.as_bytes().to_vec())
}

pub(super) use {known_id, place_of_id, run};
