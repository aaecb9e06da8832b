//! Sent messages that await the push to their recipient.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chatserver::domain::ConversationId;

/// Sent messages whose recipients have not received a push yet, by conversation. A conversation has one sender, which
/// sends one message at a time.
#[derive(Default)]
pub struct PendingPushes(Mutex<HashMap<ConversationId, Sequence>>);

/// Messages of a conversation in the order in which they were sent.
#[derive(Default)]
struct Sequence {
    /// Number of messages before the first that waits.
    pushed: u64,
    waiting: VecDeque<Sent>,
}

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
        self.lock().entry(conversation).or_default().waiting.push_back(sent);
    }

    /// Removes the message that was recorded last: the server has refused it.
    pub fn withdraw(&self, conversation: ConversationId) {
        if let Some(sequence) = self.lock().get_mut(&conversation) {
            sequence.waiting.pop_back();
        }
    }

    /// Removes and returns the messages of a conversation up to the nth, the first being 1. A push announces all that
    /// were committed before it. The next message may be on its way already.
    pub fn take_up_to(&self, conversation: ConversationId, nth: u64) -> Vec<Sent> {
        let mut all = self.lock();
        let Some(sequence) = all.get_mut(&conversation) else { return Vec::new() };
        let more = usize::try_from(nth.saturating_sub(sequence.pushed)).unwrap_or(usize::MAX);
        let taken: Vec<_> = sequence.waiting.drain(..more.min(sequence.waiting.len())).collect();
        sequence.pushed += u64::try_from(taken.len()).unwrap_or(u64::MAX);
        taken
    }

    pub fn is_empty(&self) -> bool {
        self.lock().values().all(|sequence| sequence.waiting.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConversationId, Sequence>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
