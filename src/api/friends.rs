//! `chatfriends` (protocol, section 2.3).

use std::collections::BTreeMap;

use serde::Serialize;

use super::envelope::Reply;
use crate::app::App;
use crate::error::Error;
use crate::store::{Availability, Friend};
use crate::users::Caller;

/// An entry of `availabilities`: a friend and what a client needs to write to one.
#[derive(Serialize)]
struct Entry<'a> {
    friendid: &'a str,
    friendname: &'a str,
    publickey: &'a str,
    availability: &'static str,
}

impl<'a> Entry<'a> {
    fn of(app: &App, friend: &'a Friend) -> Self {
        let is_reachable = app.presence.is_reachable(friend.id);
        let availability = if is_reachable { friend.chosen } else { Availability::Offline };
        Self {
            friendid: friend.id.as_str(),
            friendname: &friend.nick,
            publickey: friend.public_key.as_str(),
            availability: availability.as_str(),
        }
    }
}

pub async fn list(app: &App, caller: &Caller) -> Result<Reply, Error> {
    let friends = app.store.friends(caller.user).await?;
    let nicks: BTreeMap<_, _> =
        friends.iter().map(|friend| (friend.id.as_str(), friend.nick.as_str())).collect();
    let availabilities: Vec<_> = friends.iter().map(|friend| Entry::of(app, friend)).collect();
    Ok(Reply::ok().with("friends", &nicks).with("availabilities", &availabilities))
}
