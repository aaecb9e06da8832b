//! `chatserver client friends`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::text::{visible, visible_nick};
use super::{Profiled, refused};
use crate::client::Session;
use crate::commands::Failed;
use crate::commands::failure::Refusal;
use crate::commands::output::Output;
use crate::domain::UserId;

#[derive(Subcommand)]
pub(crate) enum Friends {
    /// List friends and their availability
    #[command(after_help = "\
Example:
  chatserver client friends list")]
    List(Profiled),
    /// Request a friendship, or accept the other user's request
    #[command(after_help = "\
Example:
  chatserver client friends add bob@example.com
Nothing tells whether there is such a user.")]
    Add(Peer),
    /// Accept a friend request
    #[command(after_help = "\
Example:
  chatserver client friends accept Alice")]
    Accept(Peer),
    /// Decline a friend request, silently
    #[command(after_help = "\
Example:
  chatserver client friends decline Alice")]
    Decline(Peer),
    /// End a friendship, or withdraw one's own request
    #[command(after_help = "\
Example:
  chatserver client friends remove bob@example.com")]
    Remove(Peer),
    /// List open friend requests
    #[command(after_help = "\
Example:
  chatserver client friends requests")]
    Requests(Profiled),
}

#[derive(Args)]
pub(crate) struct Peer {
    /// The other user: an e-mail address or a user id; a nick too, unless a friendship is requested
    user: String,
    #[command(flatten)]
    profiled: Profiled,
}

impl Friends {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::List(profiled) => list(&profiled).await,
            Self::Add(peer) => peer.add().await,
            Self::Accept(peer) => peer.answer("accept").await,
            Self::Decline(peer) => peer.answer("decline").await,
            Self::Remove(peer) => peer.remove().await,
            Self::Requests(profiled) => requests(&profiled).await,
        }
    }
}

/// Lists friends and their availability.
pub(super) async fn list(profiled: &Profiled) -> Result<(), Failed> {
    let friends = profiled.session()?.friends().await.map_err(refused)?;
    let lines = friends.iter().map(|friend| {
        let (nick, availability) =
            (visible_nick(&friend.friendname), visible(&friend.availability));
        format!("{nick} {} {availability}", visible(&friend.friendid))
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let friends: Vec<_> = friends
        .iter()
        .map(|friend| {
            json!({
                "userid": friend.friendid, "nick": friend.friendname,
                "availability": friend.availability,
            })
        })
        .collect();
    Output::new(text, json!({ "friends": friends })).print(profiled.json)
}

async fn requests(profiled: &Profiled) -> Result<(), Failed> {
    let requests = profiled.session()?.friend_requests().await.map_err(refused)?;
    let incoming = requests.incoming.iter().map(|one| ("from", one));
    let both = incoming.chain(requests.outgoing.iter().map(|one| ("to", one)));
    let lines = both.map(|(direction, one)| {
        format!("{direction} {} {}", visible(&one.userid), visible_nick(&one.nick))
            .trim_end()
            .to_owned()
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let listed = |requesters: &[crate::client::Requester]| -> Vec<_> {
        requesters.iter().map(|one| json!({ "userid": one.userid, "nick": one.nick })).collect()
    };
    let json = json!({
        "incoming": listed(&requests.incoming), "outgoing": listed(&requests.outgoing),
    });
    Output::new(text, json).print(profiled.json)
}

impl Peer {
    async fn add(self) -> Result<(), Failed> {
        let session = self.profiled.session()?;
        if UserId::named(&self.user).is_none() {
            return Err(Refusal::argument("USER must be an e-mail address or a user id"));
        }
        self.change(&session, "add", "friend", &self.user).await
    }

    async fn answer(self, action: &str) -> Result<(), Failed> {
        let session = self.profiled.session()?;
        let user = if let Some(user) = UserId::named(&self.user) {
            user.to_string()
        } else {
            let requests = session.friend_requests().await.map_err(refused)?;
            let users = requests.incoming.into_iter().map(|one| (one.userid, one.nick));
            self.called(users)?
        };
        self.change(&session, action, "friendid", &user).await
    }

    async fn remove(self) -> Result<(), Failed> {
        let session = self.profiled.session()?;
        let user = if let Some(user) = UserId::named(&self.user) {
            user.to_string()
        } else {
            let friends = session.friends().await.map_err(refused)?;
            let users = friends.into_iter().map(|friend| (friend.friendid, friend.friendname));
            self.called(users)?
        };
        self.change(&session, "remove", "friendid", &user).await
    }

    /// Returns the only user with the nick.
    fn called(&self, users: impl Iterator<Item = (String, String)>) -> Result<String, Failed> {
        let mut found = users.filter(|(_, nick)| *nick == self.user).map(|(user, _)| user);
        let not_found = |sentence: String| Refusal::with_code("not_found", sentence);
        let user = found.next();
        let user = user.ok_or_else(|| not_found(format!("there is no {}", self.user)))?;
        if found.next().is_some() {
            let sentence = format!("more than one is called {}: give the user id", self.user);
            return Err(not_found(sentence));
        }
        Ok(user)
    }

    async fn change(
        &self,
        session: &Session,
        action: &str,
        field: &str,
        user: &str,
    ) -> Result<(), Failed> {
        let mut fields = json!({ "action": action });
        fields[field] = user.into();
        session.call("chatfriends", &fields).await.map_err(refused)?;
        Output::new("", json!({ "action": action })).print_after_change(self.profiled.json)
    }
}
