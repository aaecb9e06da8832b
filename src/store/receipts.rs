//! Removing the receipts of a user who is to be deleted.
//!
//! Pages count on sequence numbers without gaps. So the receipts that stay move up, in the same transaction, and get new
//! IDs, because an ID ends with the sequence number. A client whose cursor is an old ID starts anew. New receipts never
//! follow: the other participant is no friend of the user any more.

use std::convert::Infallible;

use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError};
use crate::domain::UserId;

listed!(GENERATIONS, FIRST, REMOVE, MOVE_UP, MOVED, END);

/// Generations of the user's conversations, and those of any user that are being removed in the background.
const GENERATIONS: Sql = Sql::both(
    "
    SELECT c.generation FROM participants p JOIN conversations c ON c.number = p.conversation_number
    WHERE p.user_id = $1
    UNION ALL SELECT generation FROM purges",
);

/// The row key of the first receipt of a generation. Retention may have removed those before.
const FIRST: Sql = Sql::both(
    "
    SELECT place FROM reports WHERE place > $1 << 32 AND place < ($1 + 1) << 32
    ORDER BY place LIMIT 1",
);

const REMOVE: Sql = Sql::both(
    "
    DELETE FROM reports WHERE place > $1 << 32 AND place < ($1 + 1) << 32 AND user_id = $2",
);

/// SQL that moves the receipts of a generation up to the first row key, with their IDs. A row key is unique at any time, so
/// it is negative until [`MOVED`]. The argument is SQL for 12 hexadecimal digits of `moved.seq`.
macro_rules! move_up {
    ($digits:literal) => {
        concat!(
            "
    UPDATE reports SET place = -moved.place, id = concat(substr(reports.id, 1, 24), ",
            $digits,
            ")
    FROM (SELECT place AS old, $2 - 1 + row_number() OVER (ORDER BY place) AS place,
                 $2 - 1 + row_number() OVER (ORDER BY place) - ($1 << 32) AS seq
          FROM reports WHERE place > $1 << 32 AND place < ($1 + 1) << 32) AS moved
    WHERE reports.place = moved.old AND moved.place < moved.old"
        )
    };
}

const MOVE_UP: Sql =
    Sql::pair(move_up!("printf('%012x', moved.seq)"), move_up!("lpad(to_hex(moved.seq), 12, '0')"));

const MOVED: Sql = Sql::both(
    "
    UPDATE reports SET place = -place WHERE place < -($1 << 32) AND place > -(($1 + 1) << 32)",
);

/// Ends the reports of a generation behind the last one.
const END: Sql = Sql::both(
    "
    UPDATE conversations
    SET next_report_seq = coalesce(last.place + 1, $2) - ($1 << 32),
        last_report_id = coalesce((SELECT replace(r.id, '-', '') FROM reports r WHERE r.place = last.place), '')
    FROM (SELECT max(place) AS place FROM reports WHERE place > $1 << 32 AND place < ($1 + 1) << 32) AS last
    WHERE generation = $1",
);

impl Store {
    /// Removes all receipts of a user, one conversation at a time. The user must be disabled, so that no new ones follow.
    ///
    /// # Errors
    ///
    /// [`Error`] if a conversation failed; a second call goes on.
    pub(crate) async fn remove_receipts(&self, user: UserId) -> Result<(), Error> {
        let generations =
            self.reader().await?.query(GENERATIONS).bind(user.as_str()).values().await;
        let generations: Vec<i64> = generations.doing("listing the generations of a user")?;
        for generation in generations {
            self.write(RemoveReceipts { user, generation }).await?;
        }
        Ok(())
    }
}

/// Removes a user's receipts of one generation.
struct RemoveReceipts {
    user: UserId,
    generation: i64,
}

impl WriteOp for RemoveReceipts {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let generation = self.generation;
        let first = tx.query(FIRST).await?.bind(generation).optional_value().await;
        let first: Option<i64> = first.doing("looking for receipts")?;
        let Some(first) = first else { return Ok(()) };
        let remove = tx.query(REMOVE).await?.bind(generation).bind(self.user.as_str());
        if remove.execute().await.doing("removing receipts")? == 0 {
            return Ok(());
        }
        let moved = tx.query(MOVE_UP).await?.bind(generation).bind(first).execute().await;
        moved.doing("moving receipts up")?;
        let moved = tx.query(MOVED).await?.bind(generation).execute().await;
        moved.doing("moving receipts up")?;
        let end = tx.query(END).await?.bind(generation).bind(first).execute().await;
        end.doing("ending the reports of a conversation")?;
        Ok(())
    }
}
