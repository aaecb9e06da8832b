//! Reports: a reader's notices to the sender of a message.

/// The content of a report about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportType {
    /// The message has reached the reader.
    Delivered,
    /// The reader has seen the message.
    Viewed,
}

impl ReportType {
    /// Returns the word on the wire and in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Viewed => "viewed",
        }
    }
}
