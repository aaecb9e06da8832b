//! `chatserver friend add --group`: makes all pairs of a team friends.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::failure::Refusal;
use super::list_file::{self, Line, Mistakes, show_progress};
use super::output::Output;
use super::{Failed, Settings};
use crate::friends;
use crate::keys::ConversationSecret;
use crate::store::{Store, User};
use crate::users::{self, UserError};

/// Friendships that are made at a time. The writer makes one transaction of those that wait for it.
const AT_A_TIME: usize = 64;

/// Friendships between two lines of progress.
const STEP: usize = 1000;

/// Befriends all pairs of the users in the file who are not friends yet.
pub(super) async fn befriend(file: &str, settings: &Settings) -> Result<(), Failed> {
    let mut mistakes = Mistakes::default();
    let names = names(list_file::read(file)?, &mut mistakes);
    let database = settings.open().await?;
    let befriend = async {
        let users = find(&database.store, names, mistakes, file).await?;
        let pairs = new_pairs(&database.store, &users).await?;
        make(&database.store, &pairs).await?;
        Ok::<_, Failed>((users.len(), pairs.len()))
    };
    let befriended = befriend.await;
    database.close().await;
    let (users, added) = befriended?;
    let existing = users * (users - 1) / 2 - added;
    let text = format!(
        "{users} users are friends of each other: {added} friendships are new, {existing} existed already"
    );
    let json = json!({ "users": users, "added": added, "existing": existing });
    Output::new(text, json).print_after_change(settings.json)
}

/// Returns the users that the lines name, each with its line: of the column `email` if the first line has that name,
/// or else the only column.
fn names(lines: Vec<Line>, mistakes: &mut Mistakes) -> Vec<(usize, String)> {
    let is_email = |name: &str| name.trim() == "email";
    let column = lines.first().and_then(|header| header.fields.iter().position(is_email));
    let mut names = Vec::new();
    for line in lines.into_iter().skip(usize::from(column.is_some())) {
        match (column, line.fields.get(column.unwrap_or(0))) {
            (None, Some(_)) if line.fields.len() > 1 => {
                let sentence =
                    "a line must be one address, or the first line must name a column email";
                mistakes.add(line.number, sentence.to_owned());
            }
            (_, Some(name)) => names.push((line.number, name.trim().to_owned())),
            (_, None) => mistakes.add(line.number, "the field email is missing".to_owned()),
        }
    }
    names
}

/// Finds the users. Refuses the file with all that are unknown or named twice.
async fn find(
    store: &Store,
    names: Vec<(usize, String)>,
    mut mistakes: Mistakes,
    file: &str,
) -> Result<Vec<User>, Failed> {
    let mut users: Vec<User> = Vec::new();
    let mut known = HashSet::new();
    for (line, name) in names {
        match users::find(store, &name).await {
            Ok(user) if known.insert(user.id) => users.push(user),
            Ok(user) => mistakes.add(line, format!("{} is in an earlier line already", user.email)),
            Err(error @ UserError::NotFound(_)) => mistakes.add(line, error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    mistakes.refuse(file)?;
    if users.len() < 2 {
        return Err(Refusal::argument(format!(
            "{file} must name at least two users, not {}",
            users.len()
        )));
    }
    Ok(users)
}

/// Returns the pairs that are not friends yet.
async fn new_pairs<'u>(
    store: &Store,
    users: &'u [User],
) -> Result<Vec<(&'u User, &'u User)>, Failed> {
    let mut pairs = Vec::new();
    for (n, user) in users.iter().enumerate() {
        let friends = store.friends(user.id).await?;
        let friends: HashSet<_> = friends.into_iter().map(|friend| friend.id).collect();
        let others = users[n + 1..].iter().filter(|other| !friends.contains(&other.id));
        pairs.extend(others.map(|other| (user, other)));
    }
    Ok(pairs)
}

async fn make(store: &Store, pairs: &[(&User, &User)]) -> Result<(), Failed> {
    let befriend = |(one, other): &(&User, &User)| {
        let (one, other) = (one.id, other.id);
        async move {
            let secret = ConversationSecret::generate();
            friends::befriend(store, one.as_str(), other.as_str(), &secret).await
        }
    };
    let mut made = stream::iter(pairs).map(befriend).buffer_unordered(AT_A_TIME);
    let mut count = 0;
    while made.try_next().await?.is_some() {
        count += 1;
        if count % STEP == 0 || count == pairs.len() {
            show_progress(&format!("made {count} of {} friendships", pairs.len()));
        }
    }
    Ok(())
}
