//! Properties of a conversation that belong to one participant. One statement changes many of them.

use std::collections::{HashMap, HashSet};

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::{Flag, Integer, Text};
use super::many_rows::ManyRows;
use super::objects::conversation_object;
use super::write_op::Batched;
use super::write_tx::WriteTx;
use super::{Error, Store, WireText, WriteError, stored_number};
use crate::domain::{ConversationId, Property, Refusal, Replay, StationId, Subject};

listed!(PRECHECK, SET, OBJECTS);

/// Reads what decides each change. The result is one text, with a comma between changes and a space between values. The
/// values are the change's index in the batch and whether its signature is known already. Then follow the row key and
/// the numbers of the participant, if there is one.
static PRECHECK: ManyRows = ManyRows::new(
    "WITH incoming (nth, user_id, conversation_id, expires_at, signature) AS ({rows})
     SELECT string_agg(concat_ws(' ', i.nth,
                CAST(EXISTS (SELECT 1 FROM replays r
                             WHERE r.expires_at = i.expires_at AND r.signature = i.signature) AS INTEGER),
                p.place, p.user_number, p.conversation_number), ',')
     FROM incoming i
     LEFT JOIN participants p
         ON p.user_id = i.user_id AND p.conversation_id = i.conversation_id
     WHERE i.nth IS NOT NULL",
    &[Integer, Text, Text, Integer, Text],
);

/// NULL leaves a column as it is.
static SET: ManyRows = ManyRows::new(
    "WITH changed (place, is_muted, is_favorite, is_hidden, hide_id, background_color) AS ({rows})
     UPDATE participants
     SET is_muted = coalesce(changed.is_muted, participants.is_muted),
         is_favorite = coalesce(changed.is_favorite, participants.is_favorite),
         is_hidden = coalesce(changed.is_hidden, participants.is_hidden),
         hide_id = coalesce(changed.hide_id, participants.hide_id),
         background_color = coalesce(changed.background_color, participants.background_color)
     FROM changed WHERE participants.place = changed.place",
    &[Integer, Flag, Flag, Flag, Text, Text],
);

/// Writes the conversation objects of participants, each behind its participant's row key. JSON text holds no line
/// break, so lines separate them.
static OBJECTS: ManyRows = ManyRows::new(
    concat!(
        "SELECT string_agg(concat(p.place, ' ', ",
        conversation_object!(),
        "), '\n')
         FROM ({rows}) AS wanted
         CROSS JOIN participants p CROSS JOIN conversations c CROSS JOIN users u CROSS JOIN users o
         WHERE p.place = wanted.column1 AND c.number = p.conversation_number
             AND u.number = p.user_number AND o.number = p.partner_number"
    ),
    &[Integer],
);

/// A change to what one participant sees of a conversation.
#[derive(Clone, Debug)]
pub struct ChangeProperty {
    /// The conversation to change.
    pub conversation: ConversationId,
    /// The property's new value.
    pub property: Property,
    /// The calling station, which is not told of the change.
    pub station: Option<StationId>,
    /// The calling user, and the signature that must not make the change again.
    pub replay: Replay,
}

/// Parsed result of [`PRECHECK`] for one change.
struct Precheck {
    was_made: bool,
    /// `None` if the user has no such conversation.
    participant: Option<Participant>,
}

#[derive(Clone, Copy)]
struct Participant {
    row_key: i64,
    user_number: i64,
    conversation_number: i64,
}

impl Precheck {
    /// Parses the values of one change, without the first one, which is its index.
    fn read(values: &str) -> Result<Self, Error> {
        let mut values = values.split(' ').map(stored_number);
        let was_made = values.next().transpose()? == Some(1);
        let participant = match (values.next(), values.next(), values.next()) {
            (Some(row_key), Some(user), Some(conversation)) => Some(Participant {
                row_key: row_key?,
                user_number: user?,
                conversation_number: conversation?,
            }),
            _ => None,
        };
        Ok(Self { was_made, participant })
    }
}

impl Batched for ChangeProperty {
    type Outcome = Result<WireText, Refusal>;

    /// Each answer shows the conversation after its own change. So a second change of the same participant waits for
    /// the next statement, and so does a repeated signature.
    async fn apply_all(
        tx: &mut WriteTx,
        all: &[&Self],
    ) -> Result<Vec<Result<WireText, Refusal>>, Error> {
        let mut outcomes = Vec::with_capacity(all.len());
        let mut rest = all;
        while !rest.is_empty() {
            let (mut participants, mut signatures) = (HashSet::new(), HashSet::new());
            let again = rest.iter().position(|ChangeProperty { replay, conversation, .. }| {
                !participants.insert((replay.user, *conversation))
                    || !signatures.insert(replay.signature)
            });
            let (run, later) = rest.split_at(again.unwrap_or(rest.len()));
            outcomes.extend(change_all(tx, run).await?);
            rest = later;
        }
        Ok(outcomes)
    }
}

/// Makes changes of distinct participants, with distinct signatures.
async fn change_all(
    tx: &mut WriteTx,
    all: &[&ChangeProperty],
) -> Result<Vec<Result<WireText, Refusal>>, Error> {
    let precheck = precheck(tx, all).await?;
    let mut made = Vec::with_capacity(all.len());
    let mut changes = ChangeLog::default();
    for (change, precheck) in all.iter().zip(&precheck) {
        if let Precheck { was_made: false, participant: Some(participant) } = precheck {
            let user = change.replay.user;
            changes.know_user(user, participant.user_number);
            changes.know_conversation(change.conversation, participant.conversation_number);
            let subject = Subject::Conversation(change.conversation);
            changes.set.add(user, subject, change.station);
            made.push((*change, participant.row_key));
        }
    }
    if !made.is_empty() {
        set(tx, &made);
        let replays: Vec<_> = made.iter().map(|(change, _)| &change.replay).collect();
        Replay::record_all(tx, &replays);
        changes.record(tx).await?;
    }
    let row_keys = precheck.iter().filter_map(|precheck| precheck.participant);
    let mut objects = objects(tx, &row_keys.map(|one| one.row_key).collect::<Vec<_>>()).await?;
    let outcome = |precheck: &Precheck| {
        let object = precheck.participant.and_then(|one| objects.remove(&one.row_key));
        match (precheck.was_made, object) {
            (true, _) => Ok(Err(Refusal::Replayed)),
            (false, Some(object)) => Ok(Ok(object)),
            (false, None) if precheck.participant.is_some() => {
                Err(Error::not_as_stored("the partner of a participant"))
            }
            (false, None) => Ok(Err(Refusal::ConversationNotFound)),
        }
    };
    precheck.iter().map(outcome).collect()
}

async fn precheck(tx: &mut WriteTx, all: &[&ChangeProperty]) -> Result<Vec<Precheck>, Error> {
    let rows: Vec<_> = (0..).zip(all).collect();
    let judging = tx.query_scalar(&PRECHECK, &rows, |(nth, change), values| {
        let Replay { user, signature, expires_at } = &change.replay;
        values
            .add(*nth)
            .add(user.as_str())
            .add(change.conversation.as_str())
            .add(expires_at.unix())
            .add(signature.as_str());
    });
    let rows: String = judging.await.doing("checking changes of properties")?;
    let mut precheck = Vec::with_capacity(all.len());
    for (nth, values) in rows.split(',').filter_map(|values| values.split_once(' ')) {
        precheck.push((stored_number(nth)?, Precheck::read(values)?));
    }
    precheck.sort_unstable_by_key(|(nth, _)| *nth);
    Ok(precheck.into_iter().map(|(_, precheck)| precheck).collect())
}

fn set(tx: &mut WriteTx, made: &[(&ChangeProperty, i64)]) {
    tx.defer(&SET, made, |(change, row_key), values| {
        let (mut muted, mut favorite, mut hidden) = (None, None, None);
        let (mut hide_id, mut color) = (None, None);
        match &change.property {
            Property::Muted(is_muted) => muted = Some(*is_muted),
            Property::Favorite(is_favorite) => favorite = Some(*is_favorite),
            Property::BackgroundColor(background) => color = Some(background.as_str()),
            Property::HideId(marker) => (hidden, hide_id) = (Some(false), Some(marker.as_str())),
            Property::Hidden => (hidden, hide_id) = (Some(true), Some("")),
            Property::Shown => (hidden, hide_id) = (Some(false), Some("")),
        }
        values.add(*row_key).add(muted).add(favorite).add(hidden).add(hide_id).add(color);
    });
}

/// Returns them by row key.
async fn objects(tx: &mut WriteTx, row_keys: &[i64]) -> Result<HashMap<i64, WireText>, Error> {
    if row_keys.is_empty() {
        return Ok(HashMap::new());
    }
    let objects = tx.query_scalar(&OBJECTS, row_keys, |row_key, values| {
        values.add(*row_key);
    });
    let objects: Option<String> = objects.await.doing("reading conversations")?;
    let objects = objects.unwrap_or_default();
    let lines = objects.split('\n').filter_map(|line| line.split_once(' '));
    lines.map(|(row_key, object)| Ok((stored_number(row_key)?, object.into()))).collect()
}

impl Store {
    /// Changes what one participant sees of a conversation. Returns the updated conversation object.
    ///
    /// # Errors
    ///
    /// [`Refusal::Replayed`], [`Refusal::ConversationNotFound`], and [`Error`] if it was not changed.
    pub async fn change_property(&self, change: ChangeProperty) -> Result<WireText, WriteError> {
        self.writer.change_property(change).await
    }
}
