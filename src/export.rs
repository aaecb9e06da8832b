//! All that is held about a user as one JSON object, made piece by piece.

use std::mem;
use std::vec;

use serde::Serialize;

use crate::domain::UserId;
use crate::store::{Error, Paged, Store};
use crate::users::{self, UserError};

/// An export on its way. Its pieces, one after the other, are the text of the object. A piece has at most one page of messages,
/// reports or entries of the audit log.
pub(crate) struct Export {
    user: UserId,
    step: Step,
    /// The user's row keys in the conversations that are still to come.
    participations: vec::IntoIter<i64>,
    separator: &'static str,
}

/// The next piece.
enum Step {
    /// The account, which is read already.
    Account(String),
    /// Entries of the audit log that follow this number.
    Audit(i64),
    Conversation,
    /// Rows of a generation that follow this sequence number; 0 is before the first one.
    Messages(i64, i64),
    Reports(i64, i64),
    Nothing,
}

impl Export {
    /// Begins an export of the user with this address or id.
    ///
    /// # Errors
    ///
    /// [`UserError::NotFound`], [`UserError::Store`].
    pub(crate) async fn begin(store: &Store, user: &str) -> Result<Self, UserError> {
        let id = users::find(store, user).await?.id;
        let account = store.exported_account(id).await?;
        let account = account.ok_or_else(|| UserError::NotFound(user.to_owned()))?;
        let account = opened(&account);
        let participations = store.participations(id).await?.into_iter();
        Ok(Self { user: id, step: Step::Account(account), participations, separator: "\n" })
    }

    /// Returns the next piece; `None` after the last one.
    pub(crate) async fn next(&mut self, store: &Store) -> Result<Option<String>, Error> {
        let (piece, step) = match &mut self.step {
            Step::Account(account) => (mem::take(account), Step::Audit(0)),
            &mut Step::Audit(after) => {
                let rows = store.exported_audit(self.user, after).await?;
                match page(&rows, after) {
                    (piece, Some(last)) => (piece, Step::Audit(last)),
                    (piece, None) => (piece + ",\"conversations\":[", Step::Conversation),
                }
            }
            Step::Conversation => self.conversation(store).await?,
            &mut Step::Messages(generation, after) => {
                let rows = store.exported_messages(generation, after).await?;
                match page(&rows, after) {
                    (piece, Some(last)) => (piece, Step::Messages(generation, last)),
                    (piece, None) => (piece, Step::Reports(generation, 0)),
                }
            }
            &mut Step::Reports(generation, after) => {
                let rows = store.exported_reports(generation, after).await?;
                match page(&rows, after) {
                    (piece, Some(last)) => (piece, Step::Reports(generation, last)),
                    (piece, None) => (piece + "}", Step::Conversation),
                }
            }
            Step::Nothing => return Ok(None),
        };
        self.step = step;
        Ok(Some(piece))
    }

    /// Opens the next conversation, or closes the whole object.
    async fn conversation(&mut self, store: &Store) -> Result<(String, Step), Error> {
        for participation in self.participations.by_ref() {
            // The conversation may have gone since it was listed.
            let Some(conversation) = store.exported_conversation(participation).await? else {
                continue;
            };
            let piece = mem::replace(&mut self.separator, ",\n").to_owned();
            return Ok((
                piece + &opened(&conversation),
                Step::Messages(conversation.generation, 0),
            ));
        }
        Ok(("]}\n".to_owned(), Step::Nothing))
    }
}

/// Returns the text of an object up to its closing brace, so that more can follow.
fn opened(object: &impl Serialize) -> String {
    let mut text = json(object);
    text.pop();
    text
}

/// Returns a page of rows as part of an array, and the sequence number of the last row. The first page names the array, and an empty one
/// ends it.
fn page<T: Paged>(rows: &[T], after: i64) -> (String, Option<i64>) {
    let mut piece = if after == 0 { format!(",\"{}\":[", T::NAME) } else { String::new() };
    let mut separator = if after == 0 { "\n" } else { ",\n" };
    for row in rows {
        piece.push_str(mem::replace(&mut separator, ",\n"));
        piece.push_str(&json(row));
    }
    let last = rows.last().map(T::seq);
    if last.is_none() {
        piece.push(']');
    }
    (piece, last)
}

fn json(object: &impl Serialize) -> String {
    serde_json::to_string(object).expect("a row of the database is an object of JSON")
}
