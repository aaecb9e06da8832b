//! The author of a change, and the kinds of changes that the audit log records. `store/audit.rs` keeps the log.

use std::net::IpAddr;

use crate::domain::UserId;

tokio::task_local! {
    static ACTOR: Actor;
}

/// The author of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// The server by itself.
    Server,
    /// A command, and the person who runs it, by the operating system.
    Command {
        /// Such as `user add`.
        name: String,
        operator: String,
    },
    /// An operator on the admin page, by the name of who made the link.
    AdminPage { operator: String },
    /// A user through the API.
    Client { user: UserId, address: Option<IpAddr> },
}

impl Actor {
    /// Runs this work as the actor: the changes that it writes carry the name. A task that it spawns is the server's.
    pub(crate) async fn does<F: Future>(self, work: F) -> F::Output {
        ACTOR.scope(self, work).await
    }

    /// Returns the author of the work of the calling task.
    pub(crate) fn current() -> Self {
        ACTOR.try_with(Self::clone).unwrap_or(Self::Server)
    }

    /// Returns the way of the change, such as `command user add`.
    pub(crate) fn via(&self) -> String {
        match self {
            Self::Server => "server".to_owned(),
            Self::Command { name, .. } => format!("command {name}"),
            Self::AdminPage { .. } => "admin page".to_owned(),
            Self::Client { .. } => "api".to_owned(),
        }
    }

    /// Returns the name of the person at the server's machine; empty where there is none.
    pub(crate) fn operator(&self) -> &str {
        match self {
            Self::Command { operator, .. } | Self::AdminPage { operator } => operator,
            Self::Server | Self::Client { .. } => "",
        }
    }

    /// Returns the user and the IP address, as far as they are known.
    pub(crate) fn client(&self) -> (Option<UserId>, Option<IpAddr>) {
        match self {
            Self::Client { user, address } => (Some(*user), *address),
            Self::Server | Self::Command { .. } | Self::AdminPage { .. } => (None, None),
        }
    }
}

/// A kind of change that the log records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    UserAdded,
    UserInvited,
    InvitationRevoked,
    UserRegistered,
    UserRenamed,
    UserDisabled,
    UserEnabled,
    UserDeleted,
    ApiKeyReplaced,
    StationRevoked,
    FriendshipMade,
    FriendshipEnded,
    SealingKeyActivated,
    SealingKeyDropped,
    RetentionSet,
    MessagesRemoved,
    AdminLinkMade,
    AdminPageEntered,
}

impl Action {
    /// Returns the name in the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::UserAdded => "user_added",
            Self::UserInvited => "user_invited",
            Self::InvitationRevoked => "invitation_revoked",
            Self::UserRegistered => "user_registered",
            Self::UserRenamed => "user_renamed",
            Self::UserDisabled => "user_disabled",
            Self::UserEnabled => "user_enabled",
            Self::UserDeleted => "user_deleted",
            Self::ApiKeyReplaced => "api_key_replaced",
            Self::StationRevoked => "station_revoked",
            Self::FriendshipMade => "friendship_made",
            Self::FriendshipEnded => "friendship_ended",
            Self::SealingKeyActivated => "sealing_key_activated",
            Self::SealingKeyDropped => "sealing_key_dropped",
            Self::RetentionSet => "retention_set",
            Self::MessagesRemoved => "messages_removed",
            Self::AdminLinkMade => "admin_link_made",
            Self::AdminPageEntered => "admin_page_entered",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_a_task_have_the_actor_of_its_scope() {
        let command = Actor::Command { name: "user add".to_owned(), operator: "root".to_owned() };
        assert_eq!(Actor::current(), Actor::Server);
        let (own, spawned) = command
            .clone()
            .does(async {
                let spawned = tokio::spawn(async { Actor::current() });
                (Actor::current(), spawned.await.unwrap())
            })
            .await;
        assert_eq!((own, spawned), (command, Actor::Server));
    }
}
