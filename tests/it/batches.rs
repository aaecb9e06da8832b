//! Group commit: with many changes in one commit, each caller gets its own correct answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use chatserver::domain::{
    ApiKey, ConversationId, Instance, Message, MessageId, Parse as _, Property, Refusal, Replay,
    Signature, Timestamp,
};
use chatserver::store::{
    AddMessage, ChangeProperty, Clear, Error, Store, WriteError, WriteOp, WriteTx,
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::person::Person;
use crate::harness::world::{PATIENCE, World, until};
use crate::harness::ws_client::WsClient;

type Answers<'a, T> = Vec<Pin<Box<dyn Future<Output = T> + Send + 'a>>>;

/// Enqueues the changes in this order.
async fn queue<T>(changes: &mut Answers<'_, T>) {
    for change in changes {
        let polled =
            std::future::poll_fn(|context| Poll::Ready(change.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "a change waits for the commit");
    }
}

/// A change that blocks the writer until its gate opens.
#[derive(Clone, Default)]
struct Gate {
    reached: Arc<Notify>,
    opened: Arc<Notify>,
}

impl WriteOp for Gate {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, _: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        self.reached.notify_one();
        self.opened.notified().await;
        Ok(())
    }
}

/// Opens the gate on drop, also after a failed assertion. Otherwise the runtime would wait for the writer
/// forever.
struct Closed(Gate);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.opened.notify_one();
    }
}

/// Blocks the writer at a gate, alone in its batch. Returns the gate and the pending answer.
async fn closed_gate(world: &World) -> (Closed, Answers<'_, Result<(), WriteError<Infallible>>>) {
    // Wait until the station uses that the server records in the background are written. They must not be queued
    // among the changes.
    world.app().stations.ended().await;
    let gate = Gate::default();
    let mut in_front: Answers<'_, _> = vec![Box::pin(world.app().store.write(gate.clone()))];
    queue(&mut in_front).await;
    gate.reached.notified().await;
    (Closed(gate), in_front)
}

/// Enqueues the changes in this order, has them committed as one batch, and returns their answers.
async fn in_one_batch<T>(world: &World, mut changes: Answers<'_, T>) -> Vec<T> {
    let (closed, _in_front) = closed_gate(world).await;
    queue(&mut changes).await;
    assert_eq!(world.app().store.queue_depth(), changes.len());
    drop(closed);
    let mut answers = Vec::new();
    for change in changes {
        answers.push(change.await);
    }
    answers
}

/// The outcome of any change.
#[derive(Debug, PartialEq)]
enum Became {
    Stored,
    Cleared,
    Changed,
    Refused(Refusal),
    Failed,
    QueueFull,
}

impl Became {
    fn of<T>(made: Result<T, WriteError>, done: Self) -> Self {
        match made {
            Ok(_) => done,
            Err(WriteError::Refused(refusal)) => Self::Refused(refusal),
            Err(WriteError::Failed(Error::Database { .. })) => Self::Failed,
            Err(WriteError::Failed(Error::QueueFull)) => Self::QueueFull,
            Err(WriteError::Failed(error)) => panic!("{error}"),
        }
    }
}

struct Changes<'a> {
    store: &'a Store,
    conversation: ConversationId,
    all: Answers<'a, Became>,
}

impl<'a> Changes<'a> {
    fn of(world: &'a World, person: &Person) -> Self {
        let conversation = ConversationId::parse(&person.conversation).unwrap();
        Self { store: &world.app().store, conversation, all: Vec::new() }
    }

    fn add(&mut self, sender: &Person, instance: Instance, id: &str, text: &str) {
        self.add_of_type(sender, instance, id, text, "Message");
    }

    fn add_of_type(
        &mut self,
        sender: &Person,
        instance: Instance,
        id: &str,
        text: &str,
        kind: &str,
    ) {
        let add = AddMessage {
            conversation: self.conversation,
            sender: sender.user,
            station: Some(sender.station),
            instance,
            message: Message {
                id: MessageId::parse(id).unwrap(),
                kind: kind.to_owned(),
                created: Timestamp::parse("2024-03-08 12:00:00").unwrap(),
                valid_until: String::new(),
                data: text.to_owned(),
            },
            now: Timestamp::parse("2024-03-08 12:00:00").unwrap(),
        };
        let store = self.store;
        self.all.push(Box::pin(
            async move { Became::of(store.add_message(add).await, Became::Stored) },
        ));
    }

    fn clear(&mut self, person: &Person, instance: Instance, next: Instance) {
        let clear = Clear {
            conversation: self.conversation,
            user: person.user,
            station: Some(person.station),
            instance,
            next,
        };
        let store = self.store;
        self.all
            .push(Box::pin(async move { Became::of(store.write(clear).await, Became::Cleared) }));
    }

    fn mute(&mut self, person: &Person, signature: &str) {
        let change = ChangeProperty {
            conversation: self.conversation,
            property: Property::Muted(true),
            station: Some(person.station),
            replay: Replay {
                user: person.user,
                signature: Signature::parse(&signature.repeat(64)).unwrap(),
                expires_at: Timestamp::parse("2024-03-08 12:05:00").unwrap(),
            },
        };
        let store = self.store;
        self.all.push(Box::pin(async move {
            Became::of(store.change_property(change).await, Became::Changed)
        }));
    }
}

async fn current(person: &Person) -> Instance {
    Instance::parse(&person.instance().await).unwrap()
}

#[tokio::test]
async fn each_caller_of_a_batch_gets_its_own_answer() {
    use Became::{Changed, Cleared, Refused, Stored};
    use Refusal::{ConversationNotFound, InstanceChanged, MessageConflict, Replayed};

    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let stranger = world.person("Stranger").await;
    let (first, second) = (current(&alice).await, Instance::generate());
    let mut changes = Changes::of(&world, &alice);
    changes.add(&alice, first, "a-1", "aaaa");
    changes.add(&alice, first, "a-1", "aaaa");
    changes.add(&bob, first, "a-1", "aaaa");
    changes.add(&alice, first, "a-1", "bbbb");
    changes.add(&alice, second, "a-2", "aaaa");
    changes.add(&stranger, first, "a-3", "aaaa");
    changes.mute(&bob, "0");
    changes.mute(&bob, "0");
    changes.clear(&bob, first, second);
    changes.clear(&alice, first, Instance::generate());
    changes.add(&alice, first, "a-4", "aaaa");
    changes.add(&alice, second, "a-1", "bbbb");
    changes.add(&bob, second, "b-1", "cccc");
    let answers = in_one_batch(&world, changes.all).await;
    let expected = [
        Stored,
        Stored,
        Refused(MessageConflict),
        Refused(MessageConflict),
        Refused(InstanceChanged),
        Refused(ConversationNotFound),
        Changed,
        Refused(Replayed),
        Cleared,
        Refused(InstanceChanged),
        Refused(InstanceChanged),
        Stored,
        Stored,
    ];
    assert_eq!(answers, expected);
    assert_eq!(alice.downloads().await.message_ids(), ["a-1", "b-1"]);
    let seen = bob.sees().await;
    assert_eq!(
        (&seen["lastmessageid"], &seen["instance"]),
        (&json!("b-1"), &json!(second.as_str()))
    );
    assert_eq!(seen["mutedby"], json!([bob.user.as_str()]));
}

#[tokio::test]
async fn message_ids_of_a_batch_of_any_size_are_found_afterwards() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let instance = current(&alice).await;
    let texts = |texts: [&str; 2]| {
        let mut changes = Changes::of(&world, &alice);
        for n in 0..100 {
            for text in texts {
                changes.add(&alice, instance, &format!("m-{n}"), text);
            }
        }
        in_one_batch(&world, changes.all)
    };
    let (stored, conflict) = (Became::Stored, Became::Refused(Refusal::MessageConflict));
    for (answers, expected) in [
        (texts(["aaaa", "bbbb"]).await, [&stored, &conflict]),
        (texts(["aaaa", "aaaa"]).await, [&stored, &stored]),
        (texts(["bbbb", "aaaa"]).await, [&conflict, &stored]),
    ] {
        for (answer, expected) in answers.iter().zip(expected.into_iter().cycle()) {
            assert_eq!(answer, expected);
        }
    }
    assert_eq!(bob.downloads().await.message_ids().len(), 100);
    world.opens_database().await.indexes_all_messages().await;
}

#[tokio::test]
async fn one_batch_may_complete_index_runs_of_many_conversations() {
    let world = World::start().await;
    let mut alice = world.person("Alice").await;
    let mut talks = Vec::new();
    for nick in ["Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi", "Ivan", "Judy"] {
        let mut friend = world.person(nick).await;
        world.befriends(&mut alice, &mut friend).await;
        talks.push((alice.clone(), current(&alice).await, friend));
    }
    // More than 256 IDs are queried in two statements.
    for numbers in [0..16, 16..31, 31..32] {
        let mut changes = Changes::of(&world, &alice);
        for (alice, instance, _) in &talks {
            changes.conversation = ConversationId::parse(&alice.conversation).unwrap();
            for n in numbers.clone() {
                changes.add(alice, *instance, &format!("m-{n}"), "aaaa");
            }
        }
        in_one_batch(&world, changes.all).await;
    }
    for (.., friend) in &talks {
        assert_eq!(friend.downloads().await.message_ids().len(), 32);
    }
    world.opens_database().await.indexes_all_messages().await;
}

#[tokio::test]
async fn a_failing_change_does_not_fail_its_batch() {
    use Became::{Changed, Cleared, Failed, Stored};

    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut database = world.opens_database().await;
    let trigger = "CREATE TRIGGER boom BEFORE INSERT ON messages WHEN NEW.type = 'Boom'
                   BEGIN SELECT RAISE(ABORT, 'boom'); END";
    database.runs(trigger).await;
    let (first, second) = (current(&alice).await, Instance::generate());
    let mut changes = Changes::of(&world, &alice);
    changes.add(&alice, first, "a-1", "aaaa");
    changes.add_of_type(&alice, first, "a-2", "aaaa", "Boom");
    changes.clear(&bob, first, second);
    changes.add(&bob, second, "b-1", "bbbb");
    changes.add_of_type(&bob, second, "b-2", "bbbb", "Boom");
    changes.add(&bob, second, "b-1", "bbbb");
    changes.mute(&alice, "1");
    changes.add(&alice, second, "a-3", "cccc");
    let answers = in_one_batch(&world, changes.all).await;
    let expected = [Stored, Failed, Cleared, Stored, Failed, Stored, Changed, Stored];
    assert_eq!(answers, expected);
    assert_eq!(bob.downloads().await.message_ids(), ["b-1", "a-3"]);

    // A refused row takes no sequence number: the stored messages have consecutive ones.
    let places: Vec<i64> = sqlx::query_scalar(
        "SELECT place & 4294967295 FROM messages WHERE place >> 32 = 2 ORDER BY place",
    )
    .fetch_all(database.connection())
    .await
    .unwrap();
    assert_eq!(places, [1, 2]);
    database.closes().await;
}

#[tokio::test]
async fn a_failed_change_is_answered_503_leaks_nothing_and_can_be_repeated() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut database = world.opens_database().await;
    let trigger = "CREATE TRIGGER boom BEFORE INSERT ON messages
                   BEGIN SELECT RAISE(ABORT, 'a secret of the database'); END";
    database.runs(trigger).await;
    let message = crate::harness::person::message("hi", &world.clock.date());
    let failed = alice.adds(&message).await;
    failed.refused(503, "unavailable");
    assert_eq!(failed.headers["retry-after"], "1");
    assert!(!failed.text.contains("secret") && !failed.text.contains("boom"), "{failed:?}");
    assert_eq!(bob.reads().await, Vec::<String>::new());
    database.runs("DROP TRIGGER boom").await;
    alice.adds(&message).await.ok();
    assert_eq!(bob.reads().await, ["hi"]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_loses_nothing() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let instance = current(&alice).await;
    let (closed, _in_front) = closed_gate(&world).await;
    let mut changes = Changes::of(&world, &alice);
    for n in 0..5000 {
        changes.add(&alice, instance, &format!("m-{n}"), "");
    }
    let mut refused = 0;
    let mut waiting = Vec::new();
    for mut change in changes.all {
        match std::future::poll_fn(|context| Poll::Ready(change.as_mut().poll(context))).await {
            Poll::Pending => waiting.push(change),
            Poll::Ready(answer) => {
                assert_eq!(answer, Became::QueueFull);
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && waiting.len() >= 4096, "{refused} refused, {} waiting", waiting.len());
    drop(closed);
    let stored = waiting.len();
    for change in waiting {
        assert_eq!(change.await, Became::Stored);
    }
    assert_eq!(alice.downloads().await.message_ids().len(), stored);
}

#[tokio::test]
async fn a_store_closes_while_changes_keep_coming() {
    let world = World::start().await;
    let (alice, store) = (world.person("Alice").await, &world.app().store);
    // More changes than one batch takes, so that some are queued at any time.
    let changes =
        join_all((0..600).map(|_| async { while store.take_number(alice.user).await.is_ok() {} }));
    let closes = async {
        until("changes wait", async || store.queue_depth() > 300).await;
        store.close().await.unwrap();
    };
    let ended = timeout(PATIENCE, async { tokio::join!(changes, closes) }).await;
    assert!(ended.is_ok(), "changes are taken on and on");
}

#[tokio::test]
async fn a_key_that_ends_before_a_subscription_is_recorded_admits_no_listener() {
    let other_key = format!("api_key = '{}'", ApiKey::generate().as_str());
    for change in [other_key.as_str(), "is_disabled = TRUE"] {
        let world = World::start().await;
        let (alice, store) = (world.person("Alice").await, &world.app().store);
        alice.lists().await;
        let (closed, _in_front) = closed_gate(&world).await;
        let mut listener = WsClient::opens(world.address).await;
        listener.says(&alice.subscription()).await;
        until("the frame is verified and queued", async || store.queue_depth() == 1).await;
        world.opens_database().await.runs(&format!("UPDATE users SET {change}")).await;
        drop(closed);
        listener.is_refused("invalid_signature").await;
    }
}
