//! The users and conversations that take the space, most bytes first.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::store::{ConversationSpace, DatabaseSize, Error, Space, Store, Usage};

/// The space of one user's conversations. A conversation counts for both of its users.
#[derive(Default)]
pub(crate) struct UserSpace {
    /// Empty for a deleted user.
    pub(crate) email: String,
    pub(crate) conversations: u64,
    pub(crate) space: Space,
}

/// Lists with the most bytes first.
pub(crate) struct Report {
    pub(crate) size: DatabaseSize,
    /// Number of users, number of conversations, and the sum of the conversations.
    pub(crate) total: (usize, usize, Space),
    pub(crate) users: Vec<UserSpace>,
    /// Conversations with the addresses of their users.
    pub(crate) conversations: Vec<([String; 2], ConversationSpace)>,
}

impl Report {
    /// Reads the space of all, and lists the `top` largest users and conversations.
    ///
    /// # Errors
    ///
    /// [`Error`] if a read failed.
    pub(crate) async fn read(store: &Store, top: usize) -> Result<Self, Error> {
        Ok(Self::new(store.usage().await?, top))
    }

    fn new(usage: Usage, top: usize) -> Self {
        let Usage { users: emails, mut conversations, size } = usage;
        let mut users: HashMap<i64, UserSpace> = HashMap::new();
        for (number, email) in &emails {
            users.insert(*number, UserSpace { email: email.clone(), ..UserSpace::default() });
        }
        let mut sum = Space::default();
        for ConversationSpace { users: both, space, .. } in &conversations {
            sum.add(*space);
            for number in both {
                let user = users.entry(*number).or_default();
                user.conversations += 1;
                user.space.add(*space);
            }
        }
        // Deleted users have conversations, and no address.
        let living = emails.values().filter(|email| !email.is_empty()).count();
        let total = (living, conversations.len(), sum);
        let mut users: Vec<_> = users.into_values().collect();
        users.sort_by(|one, other| {
            (Reverse(one.space), &one.email).cmp(&(Reverse(other.space), &other.email))
        });
        users.truncate(top);
        conversations
            .sort_by_key(|conversation| (Reverse(conversation.space), conversation.id.to_string()));
        conversations.truncate(top);
        let named = |conversation: ConversationSpace| {
            let email = |number| emails.get(&number).cloned().unwrap_or_default();
            let mut both = conversation.users.map(email);
            both.sort();
            (both, conversation)
        };
        let conversations = conversations.into_iter().map(named).collect();
        Self { size, total, users, conversations }
    }
}
