//! The store without a server, which allows more than clients can do over HTTP.

use std::sync::atomic::{AtomicI64, Ordering};

use chatserver::domain::{
    ConversationId, Cursor, Direction, FullName, Instance, Limits, Nick, PageForm, PageQuery,
    Parse, Property, Refusal, Replay, Signature, UserId,
};
use chatserver::friends;
use chatserver::keys::{ConversationSecret, EncryptionPassword};
use chatserver::store::{
    AddMessage, ChangeProperty, Clear, DatabaseUrl, Purged, Schema, Store, WireText, WriteError,
};
use chatserver::users;
use futures_util::future::join_all;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::history::{date, expiry, message, message_id};
use super::{Ask, Look, NICKS, Resolved, Said, Server, Shown, TALKS};
use crate::harness::database::objects;
use crate::harness::home::Home;
use crate::harness::world::ready_made_keys;

/// A store without a server around it, so that nothing runs in the background.
pub struct Direct {
    store: Store,
    url: DatabaseUrl,
    users: Vec<UserId>,
    second: AtomicI64,
    home: Home,
}

fn email(by: usize) -> String {
    format!("{}@example.com", NICKS[by].to_lowercase())
}

fn object(written: &WireText) -> Value {
    serde_json::from_slice(written).unwrap()
}

impl Direct {
    fn id(&self, talk: usize) -> ConversationId {
        let [one, other] = TALKS[talk];
        ConversationId::one_to_one(self.users[one], self.users[other])
    }

    async fn asked_one(&self, asked: &Resolved) -> Said {
        let instance = || Instance::parse(&asked.instance).unwrap();
        match &asked.ask {
            Ask::Add { by, to, id, version, .. } => {
                let add = AddMessage {
                    conversation: self.id(*to),
                    sender: self.users[*by],
                    station: None,
                    instance: instance(),
                    message: message(*id, *version),
                    now: date(self.second.load(Ordering::Relaxed)),
                };
                self.store.add_message(add).await.map_or_else(refused, |()| Said::Stored)
            }
            Ask::Clear { by, of, .. } => {
                let next = Instance::generate();
                let clear = Clear {
                    conversation: self.id(*of),
                    user: self.users[*by],
                    station: None,
                    instance: instance(),
                    next,
                };
                let cleared = self.store.write(clear).await.map(|seen| object(&seen));
                if let Ok(seen) = &cleared {
                    assert_eq!(seen["instance"], next.as_str());
                }
                cleared.map_or_else(refused, Said::Changed)
            }
            Ask::Set { by, of, property, number } => {
                let signature = self.signature(*by, *of, property, *number);
                let change = ChangeProperty {
                    conversation: self.id(*of),
                    property: property.clone(),
                    station: None,
                    replay: Replay {
                        user: self.users[*by],
                        signature: Signature::parse(&signature).unwrap(),
                        expires_at: date(expiry(*number)),
                    },
                };
                let changed = self.store.change_property(change).await;
                changed.map_or_else(refused, |seen| Said::Changed(object(&seen)))
            }
        }
    }
}

fn refused(error: WriteError) -> Said {
    match error {
        WriteError::Refused(Refusal::ConversationNotFound) => Said::NotFound,
        WriteError::Refused(Refusal::InstanceChanged) => Said::InstanceChanged(None),
        WriteError::Refused(Refusal::MessageConflict) => Said::Conflict,
        WriteError::Refused(Refusal::NotFriends) => Said::NotFriends,
        WriteError::Refused(Refusal::Replayed) => Said::Replayed(None),
        error => panic!("{error}"),
    }
}

impl Server for Direct {
    const AT_ONCE: bool = true;

    async fn start() -> Self {
        let home = Home::new("chat.db");
        let url = DatabaseUrl::parse(&home.url()).unwrap();
        let (limits, tasks) = (Limits::default(), TaskTracker::new());
        let key_file = home.key_file_of_store();
        let store = Store::open(&url, &key_file, Schema::Migrate, limits, &tasks).await.unwrap();
        let keys = ready_made_keys();
        let mut users = Vec::new();
        for (by, nick) in NICKS.into_iter().enumerate() {
            let user = users::add(
                &store,
                &keys,
                Parse::parse(&email(by)).unwrap(),
                Nick::parse(nick).unwrap(),
                FullName::default(),
                EncryptionPassword::generate(),
            );
            users.push(user.await.unwrap().id);
        }
        let mut direct = Self { store, url, users, second: AtomicI64::new(0), home };
        for talk in 0..TALKS.len() {
            direct.befriends(talk).await;
        }
        direct
    }

    fn conversation(&self, of: usize) -> String {
        self.id(of).to_string()
    }

    fn signature(&self, by: usize, _of: usize, _property: &Property, number: usize) -> String {
        // Users sign with their own keys, so their signatures never coincide.
        format!("{by:032x}{number:032x}")
    }

    fn bounds(&self) -> Option<(u32, u32)> {
        None
    }

    fn clock_shows(&self, second: i64) {
        self.second.store(second, Ordering::Relaxed);
    }

    async fn asked(&self, asks: &[Resolved]) -> Vec<Said> {
        // All changes are queued in this order before the writer takes the first.
        join_all(asks.iter().map(|asked| self.asked_one(asked))).await
    }

    async fn shows(&self, look: &Look, instance: Option<&str>) -> Shown {
        let instance = instance.map(|instance| Instance::parse(instance).unwrap());
        let cursor = Cursor { id: look.id.map(message_id), date: look.date.map(date) };
        let report_cursor = Cursor::default();
        let (conversation, user, bytes) = (self.id(look.of), self.users[look.by], look.bytes);
        let (entries, direction) = match look.limit {
            None => (look.messages, Direction::Forward),
            Some(limit) => (limit, Direction::Backward),
        };
        let form = PageForm::Documented;
        let query = PageQuery {
            conversation,
            user,
            cursor,
            report_cursor,
            entries,
            bytes,
            direction,
            form,
        };
        let page = self.store.large_page(&query, ()).await;
        let Some((page, ())) = page.unwrap() else {
            return Shown::NotFound;
        };
        let messages = objects(&page.messages);
        if instance.is_some_and(|instance| instance != page.instance) {
            return Shown::InstanceChanged;
        }
        Shown::Page { messages, more: page.more }
    }

    async fn lists(&self, by: usize) -> Vec<Value> {
        let listed = objects(&self.store.conversations(self.users[by]).await.unwrap());
        for talk in 0..TALKS.len() {
            let one = self.store.conversation(self.id(talk), self.users[by]).await.unwrap();
            let one = one.map(|one| object(&one));
            let id = self.conversation(talk);
            assert_eq!(one.as_ref(), listed.iter().find(|listed| listed["id"] == id));
        }
        listed
    }

    async fn befriends(&mut self, talk: usize) {
        let [one, other] = TALKS[talk].map(email);
        let secret = ConversationSecret::generate();
        friends::befriend(&self.store, &one, &other, &secret).await.unwrap();
    }

    async fn parts(&self, talk: usize) -> bool {
        let [one, other] = TALKS[talk].map(email);
        friends::unfriend(&self.store, &one, &other).await.unwrap()
    }

    async fn purges(&self) -> Option<bool> {
        Some(self.store.purge().await.unwrap() == Purged::Step)
    }

    async fn expires(&self, second: i64) -> Option<bool> {
        Some(self.store.expire_replays(date(second)).await.unwrap())
    }

    async fn restarts(&mut self) {
        self.store.close().await.unwrap();
        let mut database = self.home.opens().await;
        database.indexes_all_messages().await;
        database.closes().await;
        let (limits, tasks) = (Limits::default(), TaskTracker::new());
        let key_file = self.home.key_file_of_store();
        self.store =
            Store::open(&self.url, &key_file, Schema::MustBeCurrent, limits, &tasks).await.unwrap();
    }
}
