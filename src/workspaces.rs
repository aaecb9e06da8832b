//! Workspaces: names of the DNS that belong to whoever registers them first.

use crate::domain::{Timestamp, WorkspaceName};
use crate::error::Error;
use crate::store::{MOST_WORKSPACES, RegisterWorkspace, Registered, Store};
use crate::users::Caller;

/// Registers a workspace for the caller, who may have done so before.
///
/// # Errors
///
/// [`Error::WorkspaceTaken`], [`Error::TooMany`]; then nothing was changed.
pub async fn register(
    store: &Store,
    caller: &Caller,
    name: WorkspaceName,
    now: Timestamp,
) -> Result<(), Error> {
    let register = RegisterWorkspace { name, owner: caller.user, now };
    match store.change(register).await? {
        Registered::Registered => Ok(()),
        Registered::Taken => Err(Error::WorkspaceTaken),
        Registered::TooMany => {
            Err(Error::TooMany { what: "workspaces", most: MOST_WORKSPACES.into() })
        }
    }
}
