//! `chatfriends` (protocol, section 2.3).

use std::collections::BTreeMap;

use serde::Serialize;

use super::envelope::Reply;
use super::fields::Fields;
use crate::app::App;
use crate::error::Error;
use crate::friends;
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

pub async fn requests(app: &App, caller: &Caller) -> Result<Reply, Error> {
    let requests = app.store.friend_requests(caller.user).await?;
    let reply = Reply::ok().with_entries("incoming", &requests.incoming);
    Ok(reply.with_entries("outgoing", &requests.outgoing))
}

pub async fn add(app: &App, caller: &Caller, fields: Fields<'_>) -> Result<Reply, Error> {
    let friend = fields.take(|fields| fields.required("friend"))?;
    friends::add(&app.store, caller, friend).await?;
    Ok(Reply::ok())
}

pub async fn accept(app: &App, caller: &Caller, fields: Fields<'_>) -> Result<Reply, Error> {
    let friend = fields.take(|fields| fields.required("friendid"))?;
    friends::accept(&app.store, caller, friend).await?;
    Ok(Reply::ok())
}

pub async fn decline(app: &App, caller: &Caller, fields: Fields<'_>) -> Result<Reply, Error> {
    let friend = fields.take(|fields| fields.required("friendid"))?;
    friends::decline(&app.store, caller, friend).await?;
    Ok(Reply::ok())
}

pub async fn remove(app: &App, caller: &Caller, fields: Fields<'_>) -> Result<Reply, Error> {
    let friend = fields.take(|fields| fields.required("friendid"))?;
    friends::remove(&app.store, caller, friend).await?;
    Ok(Reply::ok())
}
