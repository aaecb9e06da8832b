//! Blocking users, so that nothing of them arrives.

use crate::domain::UserId;
use crate::error::Error;
use crate::store::{BlockChanged, ChangeBlock, MOST_BLOCKS, Store};
use crate::users::Caller;

/// Blocks or unblocks somebody, whether or not there is such a user.
///
/// # Errors
///
/// [`Error::InvalidField`] for oneself, [`Error::TooMany`], [`Error::Replayed`]; then nothing was changed.
pub async fn change(
    store: &Store,
    caller: &Caller,
    other: UserId,
    blocked: bool,
) -> Result<(), Error> {
    if other == caller.user {
        return Err(Error::malformed("userid", "the user id of somebody else"));
    }
    let (station, replay) = (caller.station, caller.replay);
    match store.change(ChangeBlock { other, blocked, station, replay }).await? {
        BlockChanged::Done => Ok(()),
        BlockChanged::Replayed => Err(Error::Replayed { conversation: None }),
        BlockChanged::TooMany => {
            Err(Error::TooMany { what: "blocked users", most: MOST_BLOCKS.into() })
        }
    }
}
