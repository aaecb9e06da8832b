//! Random histories of two people, run against the server and a simple model of their reports.

use std::collections::BTreeSet;

use chatserver::domain::{
    ConversationId, Cursor, Direction, MessageId, PageForm, PageQuery, Parse as _, Timestamp,
};
use chatserver::store::{Page, WireText};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{bare, whatever_was_queued_is_written};
use crate::harness::database::objects;
use crate::harness::person::{Person, Prepared, message_with_id};
use crate::harness::random::{holds, runtime};
use crate::harness::reports::NEVER;
use crate::harness::world::World;

const START: &str = "2024-03-08 12:00:00";

/// A step of a history. People are 0 and 1, and messages are named by their positions.
#[derive(Clone, Debug)]
enum Step {
    Send { by: usize, length: usize },
    Report { by: usize, action: &'static str, messages: Vec<usize> },
    Clear { by: usize },
    Download { by: usize, from: Option<usize> },
    Scroll { by: usize, before: Option<usize>, limit: usize },
    Clock(i64),
}

/// Bounds of the pages in which everything is downloaded at the end.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    entries: u32,
    bytes: u32,
}

#[derive(Debug, PartialEq)]
struct Report {
    action: &'static str,
    message: usize,
    reader: usize,
    /// Time of the report by the server's clock, in seconds since the start.
    second: i64,
}

impl Report {
    fn is_same(&self, other: &Self) -> bool {
        (self.action, self.message, self.reader) == (other.action, other.message, other.reader)
    }
}

/// The rules of the protocol for reports, in the simplest form.
#[derive(Default)]
struct Model {
    senders: Vec<usize>,
    reports: Vec<Report>,
    /// Number of messages up to the read position of each person.
    read: [usize; 2],
    second: i64,
}

impl Model {
    /// Makes reports, once for each reader and only of messages of others.
    fn make(&mut self, action: &'static str, reader: usize, mut messages: Vec<usize>) {
        messages.sort_unstable();
        for message in messages {
            let report = Report { action, message, reader, second: self.second };
            let is_others = self.senders.get(message).is_some_and(|sender| *sender != reader);
            if is_others && !self.reports.iter().any(|known| known.is_same(&report)) {
                self.reports.push(report);
            }
        }
    }

    /// Moves the read position of a person to the newest of these messages that is not the person's own.
    fn view(&mut self, by: usize, messages: &[usize]) {
        let is_others = |message: &&usize| self.senders.get(**message).is_some_and(|s| *s != by);
        let newest = messages.iter().filter(is_others).max();
        self.read[by] = self.read[by].max(newest.map_or(0, |newest| newest + 1));
    }

    /// Returns the number of unread messages of a person.
    fn unread(&self, by: usize) -> usize {
        self.senders[self.read[by]..].iter().filter(|sender| **sender != by).count()
    }

    /// Carries out a step.
    fn takes(&mut self, step: &Step) {
        let end = self.senders.len();
        let place = |place: Option<usize>| place.filter(|place| *place < end);
        match step {
            Step::Send { by, .. } => self.senders.push(*by),
            Step::Report { by, action, messages } => {
                self.make("delivered", *by, messages.clone());
                self.make(action, *by, messages.clone());
                if *action == "viewed" {
                    self.view(*by, messages);
                }
            }
            Step::Clear { .. } => *self = Self { second: self.second, ..Self::default() },
            Step::Download { by, from } => {
                self.make("delivered", *by, (place(*from).unwrap_or(0)..end).collect());
            }
            Step::Scroll { by, before, limit } => {
                let before = place(*before).unwrap_or(end);
                let page = before.saturating_sub(*limit)..before;
                self.make("delivered", *by, page.collect());
            }
            Step::Clock(second) => self.second = *second,
        }
    }
}

fn name(message: usize) -> String {
    format!("m-{message}")
}

struct Stage {
    world: World,
    people: [Person; 2],
    /// The request of a change that was made, for [`whatever_was_queued_is_written`].
    done: Prepared,
}

impl Stage {
    async fn set() -> Self {
        let world = World::start().await;
        world.clock.shows(START);
        let (alice, bob) = world.alice_and_bob().await;
        let fields = json!({ "conversationid": alice.conversation });
        let done = alice.prepares("chatconversation", "mute", &fields);
        done.sent().await.ok();
        Self { world, people: [alice, bob], done }
    }

    async fn carries_out(&self, step: &Step, model: &Model) {
        match step {
            Step::Send { by, length } => {
                let id = name(model.senders.len());
                let message = message_with_id(&id, &"x".repeat(*length), &self.world.clock.date());
                self.people[*by].adds(&message).await.ok();
            }
            Step::Report { by, action, messages } => {
                let messages: Vec<_> = messages.iter().copied().map(name).collect();
                self.people[*by].reports_as(action, &messages).await.ok();
            }
            Step::Clear { by } => drop(self.people[*by].clears().await.ok()),
            Step::Download { by, from } => {
                let cursor = json!({ "firstmessageid": from.map(name) });
                self.people[*by].does("download", cursor).await.ok();
            }
            Step::Scroll { by, before, limit } => {
                let cursor = json!({ "lastmessageid": before.map(name), "limit": limit });
                self.people[*by].does("downloadpartial", cursor).await.ok();
            }
            // Within the clock skew, so that the repeated change is still recognized as a replay.
            Step::Clock(second) => {
                self.world.clock.shows(START);
                self.world.clock.jumps(*second);
            }
        }
        whatever_was_queued_is_written(&self.done).await;
    }

    /// Asserts that both people see what the model says, and returns the reports.
    async fn agrees(&self, model: &Model) -> Vec<Value> {
        let reports = self.people[0].reports().await;
        assert_eq!(reports, self.people[1].reports().await);
        let said = reports
            .iter()
            .map(|report| json!([report["Type"], report["MessageID"], report["UserID"]]));
        let expected = model.reports.iter().map(|report| {
            json!([report.action, name(report.message), self.people[report.reader].user.as_str()])
        });
        assert_eq!(said.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let dates = reports.iter().map(|report| report["Created"].as_str().unwrap().to_owned());
        let expected = model.reports.iter().map(|report| date(report.second));
        assert_eq!(dates.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        for (by, person) in self.people.iter().enumerate() {
            assert_eq!(person.unread().await, model.unread(by) as u64);
            assert_eq!(person.newest_report().await, reports.last().map(bare).unwrap_or_default());
        }
        reports
    }

    /// Asserts that a date cursor leads to the first report, in order, whose date is not earlier, whichever way the
    /// clock went.
    async fn dates_lead(&self, model: &Model, reports: &[Value]) {
        let seconds = model.reports.iter().map(|report| report.second);
        let around: BTreeSet<_> =
            seconds.flat_map(|second| [second - 1, second, second + 1]).collect();
        let person = &self.people[0];
        for second in around {
            let first = model.reports.iter().take_while(|report| report.second < second).count();
            // Excludes messages from the page, because it would make reports of them.
            let from = json!({ "firstreportdate": date(second), "firstmessagedate": NEVER });
            let page = person.does("download", from).await;
            assert_eq!(page.ok()["reports"], json!(reports[first..]), "from {second}");
            let before = json!({
                "lastreportdate": date(second), "lastmessagedate": "0000-01-01 00:00:00", "limit": 500,
            });
            let page = person.does("downloadpartial", before).await;
            assert_eq!(page.ok()["reports"], json!(reports[..first]), "before {second}");
        }
    }

    /// Asserts that extended pages backward name the senders, and have each report beside its message.
    async fn extended_pages_are_complete(&self, model: &Model, reports: &[Value], bounds: Bounds) {
        let store = &self.world.app().store;
        let conversation = ConversationId::parse(&self.people[0].conversation).unwrap();
        let (mut messages, mut told) = (Vec::new(), Vec::new());
        loop {
            let query = PageQuery {
                conversation,
                user: self.people[0].user,
                cursor: cursor(&messages, true),
                report_cursor: Cursor::default(),
                entries: bounds.entries,
                bytes: bounds.bytes,
                direction: Direction::Backward,
                form: PageForm::Extended { is_clients_limit: false },
            };
            let (page, ()) = store.large_page(&query, ()).await.unwrap().unwrap();
            let [got, about] = [&page.messages, &page.reports].map(objects);
            let ids: Vec<_> = got.iter().map(|message| &message["ID"]).collect();
            assert!(about.iter().all(|report| ids.contains(&&report["MessageID"])));
            let bytes: usize = got.iter().chain(&about).map(|entry| entry.to_string().len()).sum();
            assert!(got.len() <= 1 || bytes <= bounds.bytes as usize, "{bytes} bytes");
            messages.splice(0..0, got);
            told.extend(about);
            if !page.more {
                break;
            }
        }
        let senders = messages.iter().map(|message| message["UserID"].as_str().unwrap());
        let expected = model.senders.iter().map(|sender| self.people[*sender].user.as_str());
        assert!(senders.eq(expected), "{messages:?}");
        told.sort_by_key(|report| bare(report)[20..].to_owned());
        assert_eq!(told, reports);
    }

    /// Returns everything, page by page: forward from the last entries, or backward from the first.
    async fn pages(&self, bounds: Bounds, scrolls: bool) -> [Vec<Value>; 2] {
        let store = &self.world.app().store;
        let conversation = ConversationId::parse(&self.people[0].conversation).unwrap();
        let user = self.people[0].user;
        let Bounds { entries, bytes } = bounds;
        let [mut messages, mut reports] = [vec![], vec![]];
        loop {
            let [cursor, report_cursor] = [&messages, &reports].map(|known| cursor(known, scrolls));
            let direction = if scrolls { Direction::Backward } else { Direction::Forward };
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
            let (page, ()) = store.large_page(&query, ()).await.unwrap().unwrap();
            let Page { messages: more_messages, reports: more_reports, more, .. } = page;
            let got = goes_on(&mut messages, &more_messages, bounds, scrolls);
            let told = goes_on(&mut reports, &more_reports, bounds, scrolls);
            let is_full = scrolls && [got, told].contains(&(entries as usize));
            assert!(got + told > 0 || !more, "it goes on");
            if !more && !is_full {
                return [messages, reports];
            }
        }
    }
}

/// Returns the date this many seconds after the start.
fn date(second: i64) -> String {
    let start = Timestamp::parse(START).unwrap().unix();
    Timestamp::from_unix(start + second).unwrap().to_string()
}

/// Returns the cursor with which a client continues.
fn cursor(known: &[Value], scrolls: bool) -> Cursor {
    let nearest = if scrolls { known.first() } else { known.last() };
    let id = nearest.map(|entry| MessageId::parse(entry["ID"].as_str().unwrap()).unwrap());
    Cursor { id, date: None }
}

/// Adds the entries of a page to `known` and returns how many are new.
fn goes_on(known: &mut Vec<Value>, entries: &WireText, bounds: Bounds, scrolls: bool) -> usize {
    let mut entries = objects(entries);
    let bytes: usize = entries.iter().map(|entry| entry.to_string().len()).sum();
    assert!(entries.len() <= bounds.entries as usize);
    assert!(entries.len() <= 2 || bytes <= bounds.bytes as usize, "{bytes} bytes");
    if scrolls {
        let new = entries.len();
        known.splice(0..0, entries);
        return new;
    }
    if known.last().is_some() && known.last() == entries.first() {
        entries.remove(0);
    }
    known.extend_from_slice(&entries);
    entries.len()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let person = 0..2_usize;
    let place = prop::option::of(0..12_usize);
    let messages = prop::collection::vec(0..12_usize, 0..6);
    let report = (person.clone(), select(vec!["delivered", "viewed"]), messages);
    let step = prop_oneof![
        8 => (person.clone(), 0..300_usize).prop_map(|(by, length)| Step::Send { by, length }),
        6 => report.prop_map(|(by, action, messages)| Step::Report { by, action, messages }),
        1 => person.clone().prop_map(|by| Step::Clear { by }),
        2 => (person.clone(), place.clone()).prop_map(|(by, from)| Step::Download { by, from }),
        3 => (person, place, 1..6_usize)
            .prop_map(|(by, before, limit)| Step::Scroll { by, before, limit }),
        2 => (-200..200_i64).prop_map(Step::Clock),
    ];
    prop::collection::vec(step, 1..30)
}

#[test]
fn reports_agree_with_the_model() {
    let bounds = (2..6_u32, prop_oneof![1..2000_u32, Just(u32::MAX)])
        .prop_map(|(entries, bytes)| Bounds { entries, bytes });
    let runtime = runtime();
    let stage = runtime.block_on(Stage::set());
    holds(&runtime, 16, &(steps(), bounds), async |(steps, bounds)| {
        let mut model = Model::default();
        stage.carries_out(&Step::Clear { by: 0 }, &model).await;
        stage.carries_out(&Step::Clock(model.second), &model).await;
        for step in &steps {
            stage.carries_out(step, &model).await;
            model.takes(step);
            stage.agrees(&model).await;
        }
        let reports = stage.agrees(&model).await;
        stage.dates_lead(&model, &reports).await;
        stage.extended_pages_are_complete(&model, &reports, bounds).await;
        for scrolls in [false, true] {
            let [messages, told] = stage.pages(bounds, scrolls).await;
            assert_eq!(messages.len(), model.senders.len());
            assert_eq!(told, reports);
        }
    });
}
