//! The envelope of every answer, over HTTP and to a listener.
//!
//! It is written as bytes: most of a large answer is JSON that the store has written, and is copied, not parsed.

use serde::Serialize;

use crate::error::Error;
use crate::limits::MemoryPermit;
use crate::store::WireText;

/// An envelope under construction. A success begins with `{"status":"OK","errormessage":""`; fields follow in call
/// order.
pub(crate) struct Reply {
    bytes: Vec<u8>,
    /// Memory reserved for the reply before it was made.
    permit: Option<MemoryPermit>,
}

impl Reply {
    pub(crate) fn ok() -> Self {
        Self::begin(br#"{"status":"OK","errormessage":"""#.to_vec())
    }

    /// Begins an event that a listener gets unasked.
    pub(crate) fn event(name: &str) -> Self {
        Self::begin(format!("{{\"event\":\"{name}\"").into_bytes())
    }

    fn begin(bytes: Vec<u8>) -> Self {
        Self { bytes, permit: None }
    }

    pub(crate) fn holding(self, permit: Option<MemoryPermit>) -> Self {
        Self { permit, ..self }
    }

    pub(crate) fn with(self, name: &str, value: &impl Serialize) -> Self {
        let value = serde_json::to_vec(value).expect("a reply has a JSON form");
        self.with_bytes(name, b"", &value, b"")
    }

    /// Appends a field that the store has already written as JSON.
    pub(crate) fn with_written(self, name: &str, value: &WireText) -> Self {
        self.with_bytes(name, b"", value, b"")
    }

    /// Appends an array whose entries the store has already written as JSON, separated by commas.
    pub(crate) fn with_entries(self, name: &str, entries: &WireText) -> Self {
        self.with_bytes(name, b"[", entries, b"]")
    }

    fn with_bytes(mut self, name: &str, open: &[u8], value: &[u8], close: &[u8]) -> Self {
        let needed = name.len() + value.len() + 6;
        if self.bytes.capacity() - self.bytes.len() < needed {
            // Leave room for short fields behind a long value: growing the vector again would double and copy it.
            self.bytes.reserve(needed + 256);
        }
        for part in [b",\"", name.as_bytes(), b"\":", open, value, close] {
            self.bytes.extend_from_slice(part);
        }
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.into_parts().0
    }

    pub(crate) fn into_parts(mut self) -> (Vec<u8>, Option<MemoryPermit>) {
        self.bytes.push(b'}');
        (self.bytes, self.permit)
    }
}

/// Builds the envelope of a refusal: the sentence, the code, and the server's time or the conversation's state where
/// the client needs it to go on.
pub(crate) fn refusal(error: &Error) -> Reply {
    let head = serde_json::to_string(&Head {
        status: "ERROR",
        errormessage: &error.to_string(),
        errorcode: error.code(),
    });
    let mut head = head.expect("a refusal has a JSON form").into_bytes();
    head.pop();
    let envelope = Reply::begin(head);
    match error {
        Error::TimestampOutOfRange { server_time, .. }
        | Error::SignedBeforeRestore { server_time } => {
            envelope.with("servertime", &server_time.to_string())
        }
        Error::Refused { conversation: Some(conversation), .. } => {
            envelope.with_written("conversation", conversation)
        }
        _ => envelope,
    }
}

#[derive(Serialize)]
struct Head<'a> {
    status: &'static str,
    errormessage: &'a str,
    errorcode: &'static str,
}
