//! Removing the receipts of a user who is to be deleted.
//!
//! Pages count on sequence numbers without gaps. So the receipts that stay move up, and get new IDs, because an ID ends
//! with the sequence number. A client whose cursor is an old ID starts anew. New receipts never follow: the other
//! participants are no longer friends of the user.

use std::convert::Infallible;

use super::error::Doing as _;
use super::listing::listed;
use super::reports::report_id;
use super::sql::Sql;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError};
use crate::domain::UserId;

listed!(GENERATIONS, NEXT, REMOVE, MOVE, END);

/// Generations of the user's conversations, and the ones of any user that are being removed in the background.
const GENERATIONS: Sql = Sql::both(
    "
    SELECT c.generation FROM participants p JOIN conversations c ON c.number = p.conversation_number
    WHERE p.user_id = $1
    UNION ALL SELECT generation FROM purges",
);

const NEXT: Sql = Sql::both(
    "
    SELECT place, user_id FROM reports WHERE place > $1 AND place < (($1 >> 32) + 1) << 32
    ORDER BY place LIMIT $2",
);

const REMOVE: Sql = Sql::both("DELETE FROM reports WHERE place = $1");

const MOVE: Sql = Sql::both("UPDATE reports SET place = $2, id = $3 WHERE place = $1");

/// Ends a generation's reports behind the last one, which has this row key.
const END: Sql = Sql::both(
    "
    UPDATE conversations
    SET next_report_seq = $2 - ($1 << 32) + 1, last_report_id = coalesce((
        SELECT replace(r.id, '-', '') FROM reports r WHERE r.place = $2), '')
    WHERE generation = $1",
);

/// Reports that one step looks at. It keeps a step from holding the writer for more than milliseconds.
const STEP: usize = 256;

/// The last step looks at up to this many. Steps leave a gap behind them, and the check of the database after a crash
/// looks for gaps among the last 32 reports.
const LAST_STEP: usize = STEP + 64;

impl Store {
    /// Removes all receipts of a user, in small steps. The user must be disabled, so that no new ones follow.
    ///
    /// # Errors
    ///
    /// [`Error`] if a step failed; a second call goes on.
    pub(crate) async fn remove_receipts(&self, user: UserId) -> Result<(), Error> {
        let generations =
            self.reader().await?.query(GENERATIONS).bind(user.as_str()).values().await;
        let generations: Vec<i64> = generations.doing("listing the generations of a user")?;
        for generation in generations {
            let mut next = Some(Step { user, read_to: generation << 32, written_to: None });
            while let Some(step) = next {
                next = self.write(step).await?;
            }
        }
        Ok(())
    }
}

/// Removes a user's receipts among the next ones of a generation.
#[derive(Clone)]
struct Step {
    user: UserId,
    /// Row key of the last report that was looked at, or below the first one.
    read_to: i64,
    /// Row key of the last report that stays. `None` before the first step: retention may have removed the first ones,
    /// so the row keys need not begin at 1.
    written_to: Option<i64>,
}

impl WriteOp for Step {
    /// The next step, unless this was the last one.
    type Output = Option<Self>;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Option<Self>, WriteError<Infallible>> {
        let most = i64::try_from(LAST_STEP).unwrap_or(i64::MAX);
        let next = tx.query(NEXT).await?.bind(self.read_to).bind(most).all().await;
        let mut reports: Vec<(i64, String)> = next.doing("reading receipts")?;
        let is_last = reports.len() < LAST_STEP;
        if !is_last {
            reports.truncate(STEP);
        }
        let Some((first, _)) = reports.first() else { return Ok(None) };
        let mut step = self.clone();
        let mut written_to = self.written_to.unwrap_or(first - 1);
        for (row_key, user) in &reports {
            if user == self.user.as_str() {
                let remove = tx.query(REMOVE).await?.bind(*row_key);
                remove.execute().await.doing("removing a receipt")?;
            } else {
                written_to += 1;
                move_up(tx, *row_key, written_to).await?;
            }
            step.read_to = *row_key;
        }
        step.written_to = Some(written_to);
        if is_last && written_to < step.read_to {
            let end = tx.query(END).await?.bind(self.read_to >> 32).bind(written_to);
            end.execute().await.doing("ending the reports of a conversation")?;
        }
        Ok((!is_last).then_some(step))
    }
}

async fn move_up(tx: &mut WriteTx, from: i64, to: i64) -> Result<(), Error> {
    if from == to {
        return Ok(());
    }
    let id = report_id(to & i64::from(u32::MAX));
    let moved = tx.query(MOVE).await?.bind(from).bind(to).bind(id.as_str());
    moved.execute().await.map(drop).doing("moving a receipt")
}
