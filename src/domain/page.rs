//! Which part of a conversation a download asks for.

use super::{ConversationId, MessageId, Timestamp, UserId};

/// A place in the history: a known ID wins, then the date decides, and with neither it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The ID of a message or report.
    pub id: Option<MessageId>,
    /// A second of acceptance.
    pub date: Option<Timestamp>,
}

impl Cursor {
    /// The place that the ID of a report ends with, and the ID without hyphens: either way it names the report.
    pub(crate) fn report(&self) -> Option<(i64, String)> {
        let id = self.id.as_ref()?.as_str().replace('-', "").to_ascii_lowercase();
        let place = id.get(20..).filter(|place| place.len() == 12)?;
        Some((i64::from_str_radix(place, 16).ok()?, id))
    }
}

/// Which way a page goes from its cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the cursors on, their own entries included; an empty cursor is before the very first entry.
    Forward,
    /// What stands just before the cursors; an empty cursor is behind the newest entry.
    Backward,
}

/// Asks for a page of a conversation: messages from one cursor, reports from another.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who asks.
    pub user: UserId,
    /// Where the messages begin or end.
    pub cursor: Cursor,
    /// Where the reports begin or end.
    pub report_cursor: Cursor,
    /// Maximum messages of the page, and maximum reports.
    pub entries: u32,
    /// Maximum bytes of the page's entries; the nearest entry may exceed it.
    pub bytes: u32,
    /// Which way it goes.
    pub direction: Direction,
}
