//! The request that authentication passes to a handler.

use std::sync::Arc;

use crate::app::App;
use crate::fields::Fields;
use crate::users::Caller;

/// An authenticated request with everything that its handler may use.
pub(super) struct Request<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) caller: Caller,
    /// A handler takes the fields it needs and frees the rest before its first `await`.
    pub(super) fields: Fields<'a>,
}
