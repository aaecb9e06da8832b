//! Retention: what is removed, or would be, and the rule of one conversation.

use std::fmt;

use crate::config::MAX_RETENTION_DAYS;
use crate::domain::{ConversationId, Retention, Timestamp};
use crate::store::{Error, Removed, RemovedOf, Store, Swept, Vacuumed};

/// The time for which one conversation keeps its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Days(u32),
    ForEver,
    /// As `retention.days` says.
    Default,
}

impl Keep {
    /// Returns the rule of this many days; `None` above [`MAX_RETENTION_DAYS`], and for 0.
    pub(crate) fn days(days: u32) -> Option<Self> {
        (1..=MAX_RETENTION_DAYS).contains(&days).then_some(Self::Days(days))
    }

    /// Returns the days as the database and the command line's JSON have them.
    pub(crate) fn stored(self) -> Option<u32> {
        match self {
            Self::Days(days) => Some(days),
            Self::ForEver => Some(0),
            Self::Default => None,
        }
    }
}

/// Completes the sentence "The conversation keeps its messages …".
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => write!(f, "for {days} days"),
            Self::ForEver => f.write_str("for ever"),
            Self::Default => f.write_str("as retention.days says"),
        }
    }
}

/// The result of a sweep or a dry run, the conversation with the most bytes first.
pub(crate) struct Report {
    pub(crate) total: Removed,
    /// Conversations with the addresses of their users.
    pub(crate) conversations: Vec<(ConversationId, Vec<String>, Removed)>,
    /// Number of conversations beside these.
    pub(crate) more: usize,
}

impl Report {
    /// Looks up at most `most` conversations: each takes a read.
    async fn of(store: &Store, removed: RemovedOf, most: usize) -> Result<Self, Error> {
        let mut total = Removed::default();
        for removed in removed.values() {
            total.add(*removed);
        }
        let mut removed: Vec<_> = removed.into_iter().collect();
        removed.sort_by_key(|(generation, removed)| (-removed.bytes, *generation));
        let more = removed.len().saturating_sub(most);
        let mut conversations = Vec::new();
        for (generation, removed) in removed.into_iter().take(most) {
            // A conversation that was cleared meanwhile has none of its messages any more.
            if let Some((id, emails)) = store.conversation_with(generation).await? {
                conversations.push((id, emails, removed));
            }
        }
        Ok(Self { total, conversations, more })
    }
}

/// Counts what a sweep at this moment would remove, and names at most `most` conversations.
pub(crate) async fn preview(
    store: &Store,
    retention: Retention,
    now: Timestamp,
    most: usize,
) -> Result<Report, Error> {
    Report::of(store, store.preview(retention, now).await?, most).await
}

/// Removes all that is kept no longer, and returns its space to the file system. `None` if another server or command
/// is at it.
pub(crate) async fn sweep(
    store: &Store,
    retention: Retention,
    now: Timestamp,
) -> Result<Option<Report>, Error> {
    let Some(mut sweep) = store.sweep(retention, now).await? else { return Ok(None) };
    let mut all = RemovedOf::new();
    while let Swept::Step(removed) = sweep.step(store).await? {
        for (generation, removed) in removed {
            all.entry(generation).or_default().add(removed);
        }
    }
    store.note_removal(&all).await?;
    while !all.is_empty() && store.vacuum().await? == Vacuumed::Step {}
    Report::of(store, all, usize::MAX).await.map(Some)
}
