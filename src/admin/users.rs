//! Users: the list with its search, and the page of one user.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};
use sha2::{Digest as _, Sha256};
use unicode_normalization::UnicodeNormalization as _;
use url::form_urlencoded::byte_serialize;

use super::Admin;
use super::figures;
use super::form::{Fields, Form};
use super::page::{Page, Section, page, see_other, token_field};
use super::problem::Problem;
use super::session::Operator;
use super::table::{Column, table};
use super::user_changes;
use crate::domain::{StationId, UserId};
use crate::store::{Acquaintance, Invitation, ListedUser, Station, User, UserFacts, UserPage};
use crate::users;

/// Maximum bytes of a text to search for. No address, nick or name is longer.
const SEARCH_BYTES: usize = 256;

/// Lists users, newest first: all, or those that a search finds.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    operator: Operator,
    uri: Uri,
) -> Result<Page, Problem> {
    let fields = Fields::of_query(&uri);
    let search: String = fields.get("search").trim().nfc().collect();
    let before = fields.get("before").parse().ok();
    let (users, disabled) = admin.app.store.count_users().await?;
    let _turn = (!search.is_empty()).then(|| admin.turn()).transpose()?;
    let is_too_long = search.len() > SEARCH_BYTES;
    let found = if is_too_long {
        UserPage { users: Vec::new(), next: None }
    } else {
        admin.app.store.find_users(&search, before).await?
    };
    let content = html! {
        p {
            "Users: " (users) ". Disabled: " (disabled) ". "
            a href="/invitations" { "Invite a person" }
        }
        form.search method="get" action="/users" role="search" {
            label for="search" { "Address, nick or name" }
            input id="search" name="search" type="search" value=(search) autocomplete="off";
            button { "Search" }
        }
        (table_of(&found.users, &search))
        @if let Some(next) = found.next {
            p { a href=(next_page(&search, next)) {
                @if search.is_empty() { "Earlier users" } @else { "Search earlier users" }
            } }
        }
    };
    Ok(page(&operator, Section::Users, "Users", &content))
}

fn next_page(search: &str, before: i64) -> String {
    let search: String = byte_serialize(search.as_bytes()).collect();
    format!("/users?search={search}&before={before}")
}

fn table_of(users: &[ListedUser], search: &str) -> Markup {
    let columns = ["Address", "Nick", "Full name", "State"].map(Column::Text);
    let caption =
        if search.is_empty() { "Users, newest first" } else { "Users found, newest first" };
    let rows = html! {
        @for user in users {
            tr {
                th scope="row" { a href=(path_of(user.id)) { (user.email) } }
                td { (user.nick) }
                td { (user.full_name) }
                td { (state(user.is_disabled)) }
            }
        }
    };
    html! {
        @if users.is_empty() && !search.is_empty() {
            p { "No user here has “" (search) "” in the address, the nick or the name." }
        } @else {
            (table(caption, &columns, &rows))
        }
    }
}

pub(super) fn path_of(user: UserId) -> String {
    format!("/users/{user}")
}

/// Makes a link to the user with this address, which is empty for a deleted one.
pub(super) fn link_to(email: &str) -> Markup {
    html! {
        @match UserId::named(email) {
            Some(user) => a href=(path_of(user)) { (email) },
            None => (users::DELETED_NICK),
        }
    }
}

fn state(is_disabled: bool) -> Markup {
    html! { @if is_disabled { span.bad { "disabled" } } @else { "enabled" } }
}

/// Shows one user.
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    operator: Operator,
    Path(user): Path<String>,
) -> Result<Page, Problem> {
    let store = &admin.app.store;
    let user = users::find(store, &user).await?;
    let facts = store.facts_about(user.id).await?;
    let stations = store.stations(Some(user.id)).await?;
    let friends = store.some_friends(user.id).await?;
    let invitation = store.invitation_of(&user.email, admin.app.clock.now()).await?;
    let content = html! {
        (facts_of(&user, &facts, invitation.as_ref()))
        (user_changes::buttons(&operator, &user))
        h2 { "Stations" }
        (stations_of(&operator, &user, &stations))
        h2 { "Friends" }
        (friends_of(&friends, facts.friends))
    };
    Ok(page(&operator, Section::Users, user.email.as_str(), &content))
}

fn facts_of(user: &User, facts: &UserFacts, invitation: Option<&Invitation>) -> Markup {
    html! {
        dl {
            dt { "Nick" }
            dd { (user.nick) }
            dt { "Full name" }
            dd { @if user.full_name.is_empty() { "none" } @else { (user.full_name) } }
            dt { "State" }
            dd { (state(user.is_disabled)) }
            dt { "User id" }
            dd { code { (user.id) } }
            dt { "Conversations" }
            dd { (facts.conversations) ", with " (figures::bytes(facts.bytes)) " of messages" }
            @if let Some(invitation) = invitation {
                dt { "Invitation" }
                dd { "can be used until " (invitation.expires_at) " UTC" }
            }
        }
    }
}

fn stations_of(operator: &Operator, user: &User, stations: &[Station]) -> Markup {
    let columns = ["Station", "First use (UTC)", "Last use (UTC)", "Action"].map(Column::Text);
    let rows = html! {
        @for station in stations {
            tr {
                th scope="row" { code { (beginning(&station.id)) "…" } }
                td { (station.bound_at) }
                td { (station.used_at) }
                td { (revoke_button(operator, user, &station.id)) }
            }
        }
    };
    html! {
        @if stations.is_empty() {
            p { "No device has logged in." }
        } @else {
            (table("Devices of the user, most recently used first", &columns, &rows))
            p.hint { "A revoked station is bound again by its next login or signed request. To lock a device out, rotate the key: "
                code { "chatserver user rotate-key" } "." }
        }
    }
}

/// Returns as much of a station's id as tells it apart. The whole id is a secret, and no page has it.
fn beginning(station: &StationId) -> &str {
    &station.as_str()[..8]
}

/// Names a station in a form without revealing its id.
fn handle(station: &StationId) -> String {
    hex::encode(Sha256::digest(station.as_str()))
}

fn revoke_button(operator: &Operator, user: &User, station: &StationId) -> Markup {
    html! {
        form method="post" action=(format!("{}/stations/revoke", path_of(user.id))) {
            (token_field(operator))
            input type="hidden" name="station" value=(handle(station));
            button aria-label=(format!("Revoke station {}", beginning(station))) { "Revoke" }
        }
    }
}

fn friends_of(friends: &[Acquaintance], count: i64) -> Markup {
    html! {
        @if friends.is_empty() {
            p { "The user has no friends." }
        } @else {
            ul {
                @for friend in friends {
                    li { a href=(path_of(friend.id)) { (friend.email) } " (" (friend.nick) ")" }
                }
            }
            @let more = count - i64::try_from(friends.len()).unwrap_or(i64::MAX);
            @if more > 0 { p { "And " (more) " more." } }
        }
    }
}

/// Revokes a station, which the form names by its [`handle`].
pub(super) async fn revoke_station(
    State(admin): State<Arc<Admin>>,
    Path(user): Path<String>,
    form: Form,
) -> Result<Response, Problem> {
    let user = users::find(&admin.app.store, &user).await?;
    let stations = admin.app.store.stations(Some(user.id)).await?;
    let named = stations.iter().find(|station| handle(&station.id) == form.field("station"));
    let revoked = match named {
        Some(station) => {
            let revoke = admin.app.stations.revoke(&admin.app.store, user.id, station.id);
            form.operator.changes(&format!("revoked a station of user {}", user.id), revoke).await?
        }
        None => false,
    };
    let message =
        if revoked { "The station is revoked." } else { "The user has no such station any more." };
    form.operator.tell(message);
    Ok(see_other(&path_of(user.id)))
}
