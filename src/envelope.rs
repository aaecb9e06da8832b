//! The envelope that every answer comes in, over HTTP and over a listener.

use serde::Serialize;

use crate::error::Error;
use crate::limits::MemoryPermit;
use crate::store::WireText;

/// An envelope: of a success, `{"status":"OK","errormessage":""` and what follows it, in the order of the calls.
pub struct Reply {
    bytes: Vec<u8>,
    /// Memory that was taken before the reply was made.
    permit: Option<MemoryPermit>,
}

impl Reply {
    /// The bare envelope.
    #[must_use]
    pub fn ok() -> Self {
        Self::begin(br#"{"status":"OK","errormessage":"""#.to_vec())
    }

    /// What a listener is told without having asked.
    #[must_use]
    pub fn event(name: &str) -> Self {
        Self::begin(format!("{{\"event\":\"{name}\"").into_bytes())
    }

    fn begin(bytes: Vec<u8>) -> Self {
        Self { bytes, permit: None }
    }

    /// Keeps the memory that was taken for this reply.
    #[must_use]
    pub fn holding(self, permit: Option<MemoryPermit>) -> Self {
        Self { permit, ..self }
    }

    /// Goes on with a field.
    #[must_use]
    pub fn with(self, name: &str, value: &impl Serialize) -> Self {
        let value = serde_json::to_vec(value).expect("what is replied has a JSON form");
        self.with_bytes(name, b"", &value, b"")
    }

    /// Goes on with a field that the store has written as JSON.
    #[must_use]
    pub fn with_written(self, name: &str, value: &WireText) -> Self {
        self.with_bytes(name, b"", value, b"")
    }

    /// Goes on with an array whose entries the store has written as JSON, separated by commas.
    #[must_use]
    pub fn with_entries(self, name: &str, entries: &WireText) -> Self {
        self.with_bytes(name, b"[", entries, b"]")
    }

    fn with_bytes(mut self, name: &str, open: &[u8], value: &[u8], close: &[u8]) -> Self {
        let needed = name.len() + value.len() + 6;
        if self.bytes.capacity() - self.bytes.len() < needed {
            // Behind a long value there is room for short ones: a vector that grows again doubles, and is copied.
            self.bytes.reserve(needed + 256);
        }
        for part in [b",\"", name.as_bytes(), b"\":", open, value, close] {
            self.bytes.extend_from_slice(part);
        }
        self
    }

    /// The whole envelope.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.into_parts().0
    }

    /// The whole envelope, and the memory that was taken for it.
    #[must_use]
    pub fn into_parts(mut self) -> (Vec<u8>, Option<MemoryPermit>) {
        self.bytes.push(b'}');
        (self.bytes, self.permit)
    }
}

/// A refusal as the client reads it: the sentence, the code, and what helps the client to go on.
#[must_use]
pub fn refusal(error: &Error) -> Reply {
    let head = serde_json::to_string(&Head {
        status: "ERROR",
        errormessage: &error.to_string(),
        errorcode: error.code(),
    });
    let mut head = head.expect("a refusal has a JSON form").into_bytes();
    head.pop();
    let envelope = Reply::begin(head);
    match error {
        Error::TimestampOutOfRange { server_time } | Error::SignedBeforeRestore { server_time } => {
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
