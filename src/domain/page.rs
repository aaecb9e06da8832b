//! Which part of a conversation a download requests.

use super::{ConversationId, MessageId, Timestamp, UserId};

/// A position in the history. A known ID decides; without one the date decides; with neither the cursor is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The ID of a message or report.
    pub id: Option<MessageId>,
    /// A second of acceptance.
    pub date: Option<Timestamp>,
}

impl Cursor {
    /// Returns the sequence number in the last 12 digits of a report's ID, and the ID without hyphens and in lower
    /// case. `None` where the ID has another form. Clients may write the ID with or without hyphens.
    pub(crate) fn report(&self) -> Option<(i64, String)> {
        let id = self.id.as_ref()?.as_str().replace('-', "").to_ascii_lowercase();
        let seq = id.get(20..).filter(|seq| seq.len() == 12)?;
        Some((i64::from_str_radix(seq, 16).ok()?, id))
    }
}

/// The direction of a page from its cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the cursors on, their own entries included; an empty cursor is before the very first entry.
    Forward,
    /// The entries just before the cursors; an empty cursor is after the newest entry.
    Backward,
}

/// The form of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageForm {
    /// The documented one.
    Documented,
    /// Messages name their senders. A backward page has the reports of its own messages
    /// (docs/protocol.md#extended-answers-c).
    Extended {
        /// Whether the client chose the maximum number of entries.
        is_clients_limit: bool,
    },
}

/// A request for a page of a conversation: messages from one cursor, reports from another.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// The conversation to read.
    pub conversation: ConversationId,
    /// The reader. Only a participant gets a page.
    pub user: UserId,
    /// Where the messages begin or end.
    pub cursor: Cursor,
    /// Where the reports begin or end.
    pub report_cursor: Cursor,
    /// Maximum number of messages, and of reports, in the page.
    pub entries: u32,
    /// Maximum bytes of the page's entries; the nearest entry may exceed it.
    pub bytes: u32,
    /// Whether the page follows the cursors or precedes them.
    pub direction: Direction,
    /// Form of the page.
    pub form: PageForm,
}

impl PageQuery {
    /// Whether entries beyond `entries` count as cut off.
    pub(crate) fn counts_rest(&self) -> bool {
        match (self.direction, self.form) {
            (Direction::Forward, _) => true,
            (Direction::Backward, PageForm::Documented) => false,
            (Direction::Backward, PageForm::Extended { is_clients_limit }) => !is_clients_limit,
        }
    }
}
