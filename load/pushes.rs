//! Sent messages that await the push to their recipient.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chatserver::domain::ConversationId;

/// Sent messages whose recipients have not received a push yet, by conversation.
#[derive(Default)]
pub struct PendingPushes(Mutex<HashMap<ConversationId, Vec<Sent>>>);

/// A sent message.
pub struct Sent {
    pub at: Instant,
    /// Whether it was due in the measured part of the run.
    pub is_measured: bool,
}

impl PendingPushes {
    /// Records a message that is about to be sent.
    pub fn record(&self, conversation: ConversationId, is_measured: bool) {
        let sent = Sent { at: Instant::now(), is_measured };
        self.lock().entry(conversation).or_default().push(sent);
    }

    /// Removes and returns all messages of a conversation. One push announces all that were committed before it.
    pub fn take(&self, conversation: ConversationId) -> Vec<Sent> {
        self.lock().remove(&conversation).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConversationId, Vec<Sent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
