//! Handlers of `chatfriends` (docs/protocol.md#5-friends): friends, and requests to become one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::request::Request;
use crate::domain::{Approach, Availability, Parse as _};
use crate::envelope::Reply;
use crate::error::Error;
use crate::friends::{self, Addressee};
use crate::store::{DeclineFriend, Friend, OncePerSignature, RemoveFriend};
use crate::users::Caller;

/// An entry of `availabilities`: a friend, with what a client needs to write to that friend.
#[derive(JsonSchema, Serialize)]
#[schemars(rename = "Friend")]
pub(super) struct Entry<'a> {
    friendid: &'a str,
    friendname: &'a str,
    publickey: &'a str,
    availability: &'static str,
}

impl<'a> Entry<'a> {
    fn of(friend: &'a Friend, is_reachable: bool) -> Self {
        let availability = if is_reachable { friend.chosen } else { Availability::Offline };
        Self {
            friendid: friend.id.as_str(),
            friendname: &friend.nick,
            publickey: friend.public_key.as_str(),
            availability: availability.as_str(),
        }
    }
}

pub(crate) async fn list(request: Request<'_>) -> Result<Reply, Error> {
    drop(request.fields);
    let (app, caller) = (request.app, request.caller);
    let friends = app.store.friends(caller.user).await?;
    let nicks: BTreeMap<_, _> =
        friends.iter().map(|friend| (friend.id.as_str(), friend.nick.as_str())).collect();
    let ids = friends.iter().map(|friend| friend.id);
    let reachable = app.presence.reachable_friends(&app.store, caller.user, ids).await?;
    let entry = |friend| Entry::of(friend, reachable.contains(&friend.id));
    let availabilities: Vec<_> = friends.iter().map(entry).collect();
    Ok(Reply::ok().with("friends", &nicks).with("availabilities", &availabilities))
}

pub(crate) async fn requests(request: Request<'_>) -> Result<Reply, Error> {
    drop(request.fields);
    let (app, caller) = (request.app, request.caller);
    let requests = app.store.friend_requests(caller.user).await?;
    let reply = Reply::ok().with_entries("incoming", &requests.incoming);
    Ok(reply.with_entries("outgoing", &requests.outgoing))
}

pub(crate) async fn add(request: Request<'_>) -> Result<Reply, Error> {
    let Addressee(friend) = request.fields.take(|fields| fields.required("friend"))?;
    if friend == request.caller.user {
        return Err(Error::malformed("friend", Addressee::EXPECTED));
    }
    friends::approach(&request.app.store, &request.caller, Approach::Add, friend).await?;
    Ok(Reply::ok())
}

pub(crate) async fn accept(request: Request<'_>) -> Result<Reply, Error> {
    let friend = request.fields.take(|fields| fields.required("friendid"))?;
    friends::approach(&request.app.store, &request.caller, Approach::Accept, friend).await?;
    Ok(Reply::ok())
}

pub(crate) async fn decline(request: Request<'_>) -> Result<Reply, Error> {
    let other = request.fields.take(|fields| fields.required("friendid"))?;
    let Caller { user, station, replay, .. } = request.caller;
    let change = DeclineFriend { user, other, station };
    request.app.store.write(OncePerSignature { replay, change }).await?;
    Ok(Reply::ok())
}

pub(crate) async fn remove(request: Request<'_>) -> Result<Reply, Error> {
    let other = request.fields.take(|fields| fields.required("friendid"))?;
    let Caller { user, station, replay, .. } = request.caller;
    let change = RemoveFriend { user, other, station };
    let change = request.app.store.write(OncePerSignature { replay, change });
    request.caller.actor().does(change).await?;
    Ok(Reply::ok())
}
