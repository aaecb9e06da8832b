//! Random histories of users with several devices. A device keeps a copy of what its user sees and updates it
//! from notifications alone. At the end the copy must equal a fresh download.

mod copy;
mod device;

use std::thread;
use std::time::Duration;

use chatserver::domain::{Nick, Parse as _, ReportType};
use chatserver::friends;
use chatserver::users;
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;
use tokio::time::timeout;

use device::{Device, Habit};

use crate::harness::person::Person;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::random::{holds, runtime};
use crate::harness::world::{PATIENCE, World, until};
use crate::harness::ws_client::WsClient;

/// Users and the number of their devices. Acts refer to them by index.
const PEOPLE: [(&str, usize); 3] = [("Alice", 3), ("Bob", 2), ("Carol", 2)];
const DEVICES: usize = 7;

/// Friends at the start, as indices into [`PEOPLE`].
const FRIENDS: [[usize; 2]; 2] = [[0, 1], [0, 2]];

/// Number of servers on PostgreSQL.
const NODES: usize = 3;

/// Number of histories that run concurrently. Each mostly waits.
const SIDE_BY_SIDE: usize = 4;

/// An act of a device. Indices name people and conversations.
#[derive(Clone, Debug)]
enum Act {
    Send(Index),
    Clear(Index),
    Set(Index, Setting),
    Report(Index, ReportType, Vec<Index>),
    /// Downloads everything and discards it.
    Look(Index),
    /// Calls an action of `chatavailability`.
    Choose(&'static str),
    /// Calls an action of `chatfriends` on this person.
    Approach(&'static str, usize),
    /// Calls an action of `chatblocklist` on this person.
    Block(&'static str, usize),
    /// Polls, and acknowledges either what was taken in before or nothing. The answer may be lost.
    Poll {
        acknowledges: bool,
        is_lost: bool,
    },
    /// Polls in the documented form.
    Take,
    /// Connects a listener, in place of an earlier one.
    Connect,
    /// Reads up to this many notifications from the listener and optionally acknowledges them.
    Hear {
        notifications: usize,
        acknowledges: bool,
    },
    /// Acknowledges late what was taken in before.
    Acknowledge,
    HangUp,
}

/// An action on the user's own view of a conversation, with the name and the value of its field if it takes
/// one.
type Setting = (&'static str, &'static str, &'static str);

/// A step of a history.
#[derive(Clone, Debug)]
enum Round {
    /// Devices act concurrently, each in the order of its own acts. Each act goes to one of the servers.
    AtOnce(Vec<(usize, Act, Index)>),
    Befriend(usize, usize),
    Part(usize, usize),
    Rename(usize, usize),
    Clock(i64),
    /// Restarts one of the servers.
    Restart(Index),
    /// Stops the database as a crash does and starts it again. Only a database of the history's own crashes.
    Crash,
}

#[derive(Clone, Debug)]
struct History {
    /// Presence timeout in seconds.
    timeout: u32,
    /// Whether, before the first round, each device sends in every conversation and each device takes that in.
    is_warm: bool,
    rounds: Vec<Round>,
    /// How each device catches up at the end.
    habits: Vec<Habit>,
}

fn setting() -> impl Strategy<Value = Setting> {
    select(vec![
        ("mute", "", ""),
        ("unmute", "", ""),
        ("favorite", "", ""),
        ("unfavorite", "", ""),
        ("setlistitembackgroundcolor", "color", "#bae1ff"),
        ("setlistitembackgroundcolor", "color", "#ffffff"),
        ("hide", "hideid", "a;b"),
        ("hide", "hideid", ""),
        ("unhide", "", ""),
    ])
}

fn act() -> impl Strategy<Value = Act> {
    let which = any::<Index>;
    let person = || 0..PEOPLE.len();
    let report = select(vec![ReportType::Delivered, ReportType::Viewed, ReportType::Viewed]);
    let choices = select(vec!["useravailable", "useraway", "userbusy", "useroffline"]);
    let approaches = select(vec!["add", "add", "accept", "decline", "remove"]);
    let blocks = select(vec!["block", "unblock", "unblock"]);
    prop_oneof![
        8 => which().prop_map(Act::Send),
        1 => which().prop_map(Act::Clear),
        3 => (which(), setting()).prop_map(|(which, setting)| Act::Set(which, setting)),
        5 => (which(), report, prop::collection::vec(which(), 1..4))
            .prop_map(|(which, report, messages)| Act::Report(which, report, messages)),
        1 => which().prop_map(Act::Look),
        4 => choices.prop_map(Act::Choose),
        3 => (approaches, person()).prop_map(|(action, person)| Act::Approach(action, person)),
        2 => (blocks, person()).prop_map(|(action, person)| Act::Block(action, person)),
        8 => any::<[bool; 2]>()
            .prop_map(|[acknowledges, is_lost]| Act::Poll { acknowledges, is_lost }),
        3 => Just(Act::Take),
        3 => Just(Act::Connect),
        6 => (1..4_usize, any::<bool>())
            .prop_map(|(notifications, acknowledges)| Act::Hear { notifications, acknowledges }),
        1 => Just(Act::Acknowledge),
        1 => Just(Act::HangUp),
    ]
}

/// Makes histories. `crashes` is how often the database crashes, beside 17 other rounds.
fn history(crashes: u32) -> impl Strategy<Value = History> {
    let person = || 0..PEOPLE.len();
    let round = prop_oneof![
        12 => prop::collection::vec((0..DEVICES, act(), any::<Index>()), 1..10)
            .prop_map(Round::AtOnce),
        1 => (person(), person()).prop_map(|(one, other)| Round::Befriend(one, other)),
        1 => (person(), person()).prop_map(|(one, other)| Round::Part(one, other)),
        1 => (person(), 0..3_usize).prop_map(|(person, nick)| Round::Rename(person, nick)),
        1 => (1..100_i64).prop_map(Round::Clock),
        1 => any::<Index>().prop_map(Round::Restart),
        crashes => Just(Round::Crash),
    ];
    let habit = select(vec![Habit::Acknowledges, Habit::Takes, Habit::Listens]);
    let timeout = prop_oneof![3 => Just(120_u32), 1 => Just(1)];
    let rounds = prop::collection::vec(round, 1..16);
    (timeout, any::<bool>(), rounds, prop::collection::vec(habit, DEVICES))
        .prop_map(|(timeout, is_warm, rounds, habits)| History { timeout, is_warm, rounds, habits })
}

/// The servers and the devices of a history.
struct Stage {
    /// One server, or [`NODES`] where the database is PostgreSQL.
    worlds: Vec<World>,
    people: Vec<Person>,
    devices: Vec<Device>,
    timeout: String,
}

/// Settings of every server of a history. Pages are short, so that a download takes several.
fn settings(timeout: &str) -> [(&str, &str); 2] {
    [("presence.timeout_seconds", timeout), ("limits.download_messages", "5")]
}

impl Stage {
    /// Sets the stage on a database of PostgreSQL's, or where the tests of this process run.
    async fn set(timeout: u32, database: Option<PostgresDatabase>) -> Self {
        let timeout = timeout.to_string();
        let world = match database {
            Some(database) => World::on_postgres(database, &settings(&timeout)).await,
            None => World::with(&settings(&timeout)).await,
        };
        let mut worlds = vec![];
        while worlds.len() < NODES - 1
            && let Some(node) = world.beside(&settings(&timeout)).await
        {
            worlds.push(node);
        }
        let (mut people, mut devices) = (Vec::new(), Vec::new());
        for (nick, number) in PEOPLE {
            let person = world.person(nick).await;
            devices.extend((0..number).map(|_| Device::of(person.elsewhere())));
            people.push(person);
        }
        worlds.push(world);
        let mut stage = Self { worlds, people, devices, timeout };
        for [one, other] in FRIENDS {
            stage.befriends(one, other).await;
        }
        stage
    }

    async fn warms_up(&mut self) {
        for device in &mut self.devices {
            device.catches_up(Habit::Acknowledges).await;
            device.sends_everywhere().await;
        }
        for device in &mut self.devices {
            device.catches_up(Habit::Acknowledges).await;
        }
    }

    async fn befriends(&mut self, one: usize, other: usize) {
        if one != other {
            let (mut one, mut other) = (self.people[one].clone(), self.people[other].clone());
            self.worlds[0].befriends(&mut one, &mut other).await;
        }
    }

    async fn plays(&mut self, round: Round) {
        match round {
            Round::AtOnce(acts) => self.at_once(acts).await,
            Round::Befriend(one, other) => self.befriends(one, other).await,
            Round::Part(one, other) if one != other => {
                let [one, other] = [&self.people[one].email, &self.people[other].email];
                friends::unfriend(&self.worlds[0].app().store, one, other).await.unwrap();
            }
            Round::Rename(person, number) => {
                let nick = Nick::parse(&format!("{}-{number}", PEOPLE[person].0));
                let user = self.people[person].user;
                users::rename(&self.worlds[0].app().store, user, nick, None).await.unwrap();
            }
            Round::Clock(seconds) => self.worlds[0].clock.advances(seconds),
            Round::Crash => self.database_crashes().await,
            Round::Part(..) | Round::Restart(_) => {}
        }
    }

    async fn at_once(&mut self, acts: Vec<(usize, Act, Index)>) {
        let mut plans = vec![Vec::new(); DEVICES];
        for (device, act, at) in acts {
            plans[device].push((act, at));
        }
        let (people, worlds) = (&self.people, &self.worlds);
        let busy = self.devices.iter_mut().zip(plans).map(|(device, plan)| async move {
            for (act, at) in plan {
                device.person = device.person.moves_to(at.get(worlds));
                device.does(act, people).await;
            }
        });
        join_all(busy).await;
    }

    /// Has the database crash and start again, and waits until all servers are ready.
    async fn database_crashes(&self) {
        let database = self.worlds[0].server();
        database.server_crashes();
        database.server_starts();
        for world in &self.worlds {
            until("the node is ready again", async || world.gets("/readyz").await.0 == 200).await;
        }
    }

    /// Stops a server, which closes its listeners, and starts another one.
    async fn restarts(self, which: Index) -> Self {
        let Self { mut worlds, mut people, mut devices, timeout } = self;
        let world = worlds.swap_remove(which.index(worlds.len()));
        let listeners = devices.iter_mut();
        let listeners = listeners.filter_map(|device| device.loses_its_listener(world.address));
        let listeners: Vec<_> = listeners.collect();
        let closed = join_all(
            listeners.into_iter().map(|mut listener| async move { listener.is_closed().await }),
        );
        let settings = settings(&timeout);
        let (world, _) = tokio::join!(world.restarts(&settings), closed);
        for person in people.iter_mut().chain(devices.iter_mut().map(|device| &mut device.person)) {
            *person = person.moves_to(&world);
        }
        worlds.push(world);
        Self { worlds, people, devices, timeout }
    }

    /// Catches up on every device until all copies equal a fresh download. Waits for what the server does in
    /// the background, such as receipts and availability hints.
    async fn settles(&mut self, habits: &[Habit]) {
        // Listeners keep all users reachable meanwhile.
        let here: Vec<WsClient> = join_all(self.people.iter().map(Person::listens)).await;
        let mut left = Vec::new();
        let settling = async {
            loop {
                left = self.catches_up(habits).await;
                if left.is_empty() {
                    return;
                }
            }
        };
        let settled = timeout(PATIENCE, settling).await;
        assert!(settled.is_ok(), "left after the last whole look: {left:#?}");
        drop(here);
    }

    /// Catches up on every device. Returns where their copies then differ from a fresh download.
    async fn catches_up(&mut self, habits: &[Habit]) -> Vec<String> {
        for (device, habit) in self.devices.iter_mut().zip(habits) {
            device.catches_up(*habit).await;
        }
        let mut left = Vec::new();
        for (number, device) in self.devices.iter().enumerate() {
            let (copy, truth) = (device.shows(), device.downloads_everything().await);
            let differing = differing("", &copy, &truth);
            left.extend(differing.iter().map(|path| format!("device {number}{path}")));
        }
        left
    }
}

/// Returns the paths at which a copy differs from the truth.
fn differing(at: &str, copy: &Value, truth: &Value) -> Vec<String> {
    let all = |value: &Value| -> Vec<(String, Value)> {
        match value {
            Value::Array(values) => {
                (0_u16..).map(|place| place.to_string()).zip(values.iter().cloned()).collect()
            }
            Value::Object(values) => values.clone().into_iter().collect(),
            _ => Vec::new(),
        }
    };
    let (copied, true_) = (all(copy), all(truth));
    let names =
        |values: &[(String, Value)]| values.iter().map(|one| one.0.clone()).collect::<Vec<_>>();
    if names(&copied) != names(&true_) || (copied.is_empty() && copy != truth) {
        return vec![format!("{at}: {copy} is {truth}")];
    }
    let pairs = copied.iter().zip(&true_);
    pairs
        .flat_map(|((name, copy), (_, truth))| differing(&format!("{at}.{name}"), copy, truth))
        .collect()
}

async fn told(history: History, database: Option<PostgresDatabase>) {
    let mut stage = Stage::set(history.timeout, database).await;
    if history.is_warm {
        stage.warms_up().await;
    }
    for round in history.rounds {
        if let Round::Restart(which) = round {
            stage = stage.restarts(which).await;
        } else {
            stage.plays(round).await;
        }
    }
    stage.settles(&history.habits).await;
    // Close the sockets: there are many histories, and few files may be open.
    drop(stage.devices);
    for world in stage.worlds {
        world.app().shutdown.begin(Duration::ZERO).await;
    }
}

#[test]
fn a_copy_kept_up_to_date_by_notifications_equals_a_fresh_download() {
    let running: Vec<_> = (0..SIDE_BY_SIDE)
        .map(|_| {
            thread::spawn(|| holds(&runtime(), 6, &history(0), async |one| told(one, None).await))
        })
        .collect();
    for thread in running {
        thread.join().unwrap();
    }
}

/// The property again, through three nodes, while nodes restart and the database crashes.
pub fn copies_equal_downloads_after_crashes() {
    if PostgresDatabase::migrated().is_none() {
        return;
    }
    let after = async |one| told(one, PostgresDatabase::on_a_server_of_its_own()).await;
    holds(&runtime(), 6, &history(4), after);
}
