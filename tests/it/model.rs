//! Random histories of three people, run against the server and a simple in-memory model. After each step both must
//! agree.

mod history;
mod http;
mod store;

use std::ops::Range;

use chatserver::domain::Property;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use history::History;

use crate::harness::random::{holds, runtime};

/// The people, by index. Alice has a conversation with each of the others, and they have none with each other.
const NICKS: [&str; 3] = ["Alice", "Bob", "Carol"];

/// Participants of each conversation, as indexes of people.
const TALKS: [[usize; 2]; 2] = [[0, 1], [0, 2]];

/// Date at which every history begins. `SPAN` is how far its clock may go on, in seconds.
const START: &str = "2024-03-08 12:00:00";
const SPAN: i64 = 100;

/// Number of message IDs: few, so that histories repeat them.
const IDS: usize = 8;

/// The instance that a request names.
#[derive(Clone, Debug)]
enum When {
    Now,
    /// A past or the current instance.
    Once(Index),
    Never,
}

/// A requested change.
#[derive(Clone, Debug)]
enum Ask {
    /// Adds a message with this ID. A repeated ID is the same message, or a conflict if the version differs.
    Add {
        by: usize,
        to: usize,
        instance: When,
        id: usize,
        version: usize,
    },
    Clear {
        by: usize,
        of: usize,
        instance: When,
    },
    /// Sets a property. Two with the same number and equal fields have the same signature, so the second is a replay.
    Set {
        by: usize,
        of: usize,
        property: Property,
        number: usize,
    },
}

/// A requested page. Dates are in seconds since the start.
#[derive(Clone, Debug)]
struct Look {
    by: usize,
    of: usize,
    instance: Option<When>,
    /// Number of a message ID. A number too large for [`IDS`] names no message.
    id: Option<usize>,
    date: Option<i64>,
    /// Entries wanted before the cursor. `None` asks for everything from the cursor on.
    limit: Option<u32>,
    messages: u32,
    bytes: u32,
    /// Sets `bytes` to the size of this many entries, plus an offset in bytes that leaves one over or missing.
    fit: Option<(usize, i64)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Changes that arrive in this order, so close together that one commit may take them all.
    AtOnce(Vec<Ask>),
    Look(Look),
    Befriend(usize),
    Unfriend(usize),
    /// Moves the clock forward or back, in seconds.
    Clock(i64),
    Purge,
    Expire,
}

/// Outcome of a change.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Stored,
    NotFound,
    /// Holds the current conversation where the answer contains it.
    InstanceChanged(Option<Value>),
    Conflict,
    NotFriends,
    Changed(Value),
    Replayed(Option<Value>),
}

/// Outcome of a page request.
#[derive(Debug, PartialEq)]
enum Shown {
    NotFound,
    InstanceChanged,
    Page { messages: Vec<Value>, more: bool },
}

/// A change whose instance is resolved to its name.
struct Resolved {
    ask: Ask,
    instance: String,
}

/// A system under test that runs a history.
trait Server {
    async fn start() -> Self;

    /// Whether concurrent changes may share one commit.
    const AT_ONCE: bool;

    /// Returns the ID of a conversation.
    fn conversation(&self, of: usize) -> String;

    /// Returns the signature that identifies a replay.
    fn signature(&self, by: usize, of: usize, property: &Property, number: usize) -> String;

    /// Returns the bounds of a page as `(messages, bytes)`, if they are settings of the server.
    fn bounds(&self) -> Option<(u32, u32)>;

    fn clock_shows(&self, second: i64);

    async fn asked(&self, asks: &[Resolved]) -> Vec<Said>;

    async fn shows(&self, look: &Look, instance: Option<&str>) -> Shown;

    async fn lists(&self, by: usize) -> Vec<Value>;

    async fn befriends(&mut self, talk: usize);

    async fn parts(&self, talk: usize) -> bool;

    /// Runs one step of the purge and returns whether there was anything to purge. `None` where the server purges by
    /// itself.
    async fn purges(&self) -> Option<bool>;

    /// Expires replays and returns whether there were any. `None` where the server expires them by itself.
    async fn expires(&self, second: i64) -> Option<bool>;

    /// Stops and starts again, where supported.
    async fn restarts(&mut self);
}

fn when() -> impl Strategy<Value = When> + Clone {
    prop_oneof![
        6 => Just(When::Now),
        2 => any::<Index>().prop_map(When::Once),
        1 => Just(When::Never),
    ]
}

fn property() -> impl Strategy<Value = Property> {
    prop_oneof![
        any::<bool>().prop_map(Property::Muted),
        any::<bool>().prop_map(Property::Favorite),
        "#[0-9a-f]{6}".prop_map(Property::BackgroundColor),
        "[a-z;\"\\\\\u{e9}]{1,5}".prop_map(Property::HideId),
        Just(Property::Hidden),
        Just(Property::Shown),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let (people, talks) = (0..NICKS.len(), 0..TALKS.len());
    // Mostly Alice, who takes part in both conversations.
    let by = prop_oneof![3 => Just(0), 1 => people];
    let add =
        (by.clone(), talks.clone(), when(), 0..IDS, prop_oneof![3 => Just(0), 1 => 0..5_usize]);
    let clear = (by.clone(), talks.clone(), when());
    let set = (by, talks, property(), 0..4_usize);
    prop_oneof![
        8 => add.prop_map(|(by, to, instance, id, version)| Ask::Add { by, to, instance, id, version }),
        1 => clear.prop_map(|(by, of, instance)| Ask::Clear { by, of, instance }),
        2 => set.prop_map(|(by, of, property, number)| Ask::Set { by, of, property, number }),
    ]
}

prop_compose! {
    fn look()(
        by in prop_oneof![4 => Just(0_usize), 1 => 0..NICKS.len()],
        of in 0..TALKS.len(),
        instance in prop::option::of(when()),
        id in prop::option::of(0..IDS + 2),
        date in prop::option::of(prop_oneof![-5..SPAN + 5, (0..10_i64).prop_map(|ten| 10 * ten)]),
        limit in prop::option::of(1..6_u32),
        messages in 1..6_u32,
        bytes in prop_oneof![Just(u32::MAX), 1..1500_u32],
        fit in prop::option::of((1..4_usize, -1..2_i64)),
    ) -> Look {
        Look { by, of, instance, id, date, limit, messages, bytes, fit }
    }
}

fn steps(number: Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let talk = 0..TALKS.len();
    let step = prop_oneof![
        10 => prop::collection::vec(ask(), 1..5).prop_map(Step::AtOnce),
        8 => look().prop_map(Step::Look),
        2 => talk.clone().prop_map(Step::Befriend),
        1 => talk.prop_map(Step::Unfriend),
        // Round times coincide with one another, with the dates of cursors and with expiries.
        3 => select(vec![-20_i64, -10, -7, 3, 10, 20, 30]).prop_map(Step::Clock),
        1 => Just(Step::Purge),
        1 => Just(Step::Expire),
    ];
    prop::collection::vec(step, number)
}

/// Runs one history against the server and the model, and restarts the server at the end.
async fn told<S: Server>(steps: Vec<Step>) {
    let mut server = S::start().await;
    let mut history = History::new();
    for by in 0..NICKS.len() {
        history.learns(&server, by, &server.lists(by).await);
    }
    for step in steps {
        let what = format!("{step:?}");
        match step {
            Step::AtOnce(asks) if S::AT_ONCE => history.is_asked(&server, asks).await,
            Step::AtOnce(asks) => {
                for ask in asks {
                    history.is_asked(&server, vec![ask]).await;
                }
            }
            Step::Look(mut look) => {
                if let Some((messages, bytes)) = server.bounds() {
                    (look.messages, look.bytes) = (messages, bytes);
                } else if let Some((entries, slack)) = look.fit {
                    let bytes = history.talks[look.of].bytes(&look, entries) + slack;
                    look.bytes = u32::try_from(bytes).unwrap_or(0);
                }
                let instance = look.instance.as_ref();
                let instance = instance.map(|when| history.talks[look.of].instance(when));
                let shown = server.shows(&look, instance.as_deref()).await;
                assert_eq!(shown, history.shows(&look, instance.as_deref()), "{what}");
            }
            Step::Befriend(talk) => {
                server.befriends(talk).await;
                history.talks[talk].friends = true;
            }
            Step::Unfriend(talk) => {
                let were = std::mem::replace(&mut history.talks[talk].friends, false);
                assert_eq!(server.parts(talk).await, were, "{what}");
            }
            Step::Clock(seconds) => {
                history.second = (history.second + seconds).clamp(0, SPAN);
                server.clock_shows(history.second);
            }
            Step::Purge => {
                if let Some(purged) = server.purges().await {
                    assert_eq!(purged, history.purges(), "{what}");
                }
            }
            Step::Expire => {
                if let Some(expired) = server.expires(history.second).await {
                    assert_eq!(expired, history.expires(), "{what}");
                }
            }
        }
        agree(&server, &history, &what).await;
    }
    server.restarts().await;
    agree(&server, &history, "a restart").await;
}

/// Asserts that lists and whole conversations are what the model says.
async fn agree<S: Server>(server: &S, history: &History, what: &str) {
    for (by, nick) in NICKS.into_iter().enumerate() {
        assert_eq!(server.lists(by).await, history.lists(by), "{nick} after {what}");
    }
    for (of, [by, _]) in TALKS.into_iter().enumerate() {
        let all = Look {
            by,
            of,
            instance: None,
            id: None,
            date: None,
            limit: None,
            messages: u32::MAX - 1,
            bytes: u32::MAX,
            fit: None,
        };
        if server.bounds().is_none() {
            assert_eq!(server.shows(&all, None).await, history.shows(&all, None), "after {what}");
        }
    }
}

fn agrees<S: Server>(number: u32, steps: &impl Strategy<Value = Vec<Step>>) {
    holds(&runtime(), number, steps, told::<S>);
}

#[test]
fn the_store_agrees_with_the_model() {
    agrees::<store::Direct>(64, &steps(1..60));
}

#[test]
fn the_server_agrees_with_the_model() {
    agrees::<http::Served>(48, &steps(1..40));
}
