//! Reports: what a reader tells the sender of a message.

/// What a report says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportType {
    /// It has reached the reader.
    Delivered,
    /// The reader has seen it.
    Viewed,
}

impl ReportType {
    /// The word of the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Viewed => "viewed",
        }
    }
}
