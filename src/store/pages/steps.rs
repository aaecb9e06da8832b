//! The work that a page or a report costs SQLite, counted in steps of its virtual machine. Unlike times, steps are the
//! same on every machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::{LIGHT_PAGE_BYTES, ReadPage};
use crate::domain::{
    ConversationId, Cursor, Direction, Limits, MessageId, PageForm, PageQuery, Parse as _,
    ReportType, Timestamp, UserId,
};
use crate::key_file::{KeyFile, Secrets};
use crate::sealing::KeyRing;
use crate::store::row_keys::row_key;
use crate::store::sql::Connection;
use crate::store::sqlite::schema::{Schema, prepare};
use crate::store::write_op::WriteOp as _;
use crate::store::write_tx::WriteTx;
use crate::store::{DatabaseFile, Report, message_ids, readers};

const ALICE: &str = "0000000000000000000000000000000a";
const BOB: &str = "0000000000000000000000000000000b";
const CONVERSATION: &str = "0000000000000000000000000000000c";
const GENERATION: i64 = 2;

/// Number of steps between two counts.
const EVERY: u64 = 10;

/// A conversation of Alice and Bob, with messages `m-1`, `m-2` and so on from Alice.
pub(super) struct History {
    tx: WriteTx,
    steps: Arc<AtomicU64>,
    _folder: TempDir,
}

impl History {
    pub(super) async fn of(messages: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = DatabaseFile::at(&folder.path().join("chat.db"));
        file.open(Schema::Migrate).unwrap();
        prepare(&file, Schema::Migrate).await.unwrap();
        let mut connection = file.connect_writer().await.unwrap();
        let people = "INSERT INTO users (id, email, nick, full_name, api_key, api_key_digest,
                                         private_key, public_key, number)
                      SELECT column1, column1, '', '', '', column1, '', '', column2
                      FROM (VALUES ($1, 1), ($2, 2))";
        sqlx::query(people).bind(ALICE).bind(BOB).execute(&mut connection).await.unwrap();
        let hash = |n: i64| message_ids::hash(&format!("m-{n}"));
        let conversation = "INSERT INTO conversations (number, id, generation, instance, next_seq,
                                                       last_message_id, last_access, longest_data)
                            VALUES (1, $1, $2, '0123456789', $3 + 1, 'm-' || $3, $3, 4)";
        let conversation = sqlx::query(conversation).bind(CONVERSATION).bind(GENERATION);
        let conversation = conversation.bind(messages);
        conversation.execute(&mut connection).await.unwrap();
        let participants = "INSERT INTO participants (place, user_id, user_number, conversation_id,
                                conversation_number, standing, secret, display_name, partner_number)
                            SELECT (u.number << 32) + 1, u.id, u.number, c.id, 1, 'open', '', '', 3 - u.number
                            FROM users u, conversations c";
        sqlx::query(participants).execute(&mut connection).await.unwrap();
        let insert = "WITH RECURSIVE numbers (n) AS
                          (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $2)
                      INSERT INTO messages
                      SELECT ($1 << 32) + n, 'm-' || n, 1, NULL, n, '', n, 'QUJD', n FROM numbers";
        let insert = sqlx::query(insert).bind(GENERATION).bind(messages);
        insert.execute(&mut connection).await.unwrap();
        let hashes: Vec<_> = (1..=messages).map(|n| (n, hash(n))).collect();
        let list = "INSERT INTO message_ids SELECT $1, value ->> 1, value ->> 0 FROM json_each($2)";
        let list = sqlx::query(list).bind(GENERATION).bind(serde_json::json!(hashes).to_string());
        list.execute(&mut connection).await.unwrap();

        let steps = Arc::<AtomicU64>::default();
        let counting = Arc::clone(&steps);
        let mut handle = connection.lock_handle().await.unwrap();
        handle.set_progress_handler(i32::try_from(EVERY).unwrap(), move || {
            counting.fetch_add(EVERY, Ordering::Relaxed);
            true
        });
        drop(handle);
        let connection = Connection::Sqlite(connection);
        let keys = Arc::new(KeyRing::new(KeyFile::at("unused"), &Secrets::new()));
        Self { tx: WriteTx::new(connection, Limits::default(), keys), steps, _folder: folder }
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        self.tx.idle()
    }

    /// Adds Bob's reports about the first messages. Their sequence numbers are those of the messages.
    pub(super) async fn bob_has_received(&mut self, messages: i64) {
        let reports = "INSERT INTO reports (place, id, type, created, message_place, user_id)
                       SELECT m.place, printf('11111111-1111-8111-8111-%012x', m.seq), 'delivered',
                              '2024-03-08 12:00:00', m.place, $1
                       FROM (SELECT place, place - ($2 << 32) AS seq FROM messages) AS m
                       WHERE seq <= $3";
        let reports = sqlx::query(reports).bind(BOB).bind(GENERATION).bind(messages);
        reports.execute(self.tx.idle().sqlite()).await.unwrap();
        let next = sqlx::query("UPDATE conversations SET next_report_seq = $1 + 1").bind(messages);
        next.execute(self.tx.idle().sqlite()).await.unwrap();
    }

    /// Returns the steps since the last call.
    fn steps(&self) -> u64 {
        self.steps.swap(0, Ordering::Relaxed)
    }

    /// Returns the steps of a page for Bob that begins at this message. A negative `light_bytes` asks for its plan.
    async fn page(&mut self, cursor: Option<i64>, direction: Direction, light_bytes: i64) -> u64 {
        let id = cursor.map(|n| MessageId::parse(&format!("m-{n}")).unwrap());
        let query = PageQuery {
            cursor: Cursor { id, date: None },
            entries: if light_bytes < 0 { 10_000 } else { 50 },
            ..bobs_page(direction)
        };
        self.steps();
        let page = readers::ask(self.tx.idle(), &ReadPage { query, light_bytes }).await;
        assert!(page.unwrap().is_some());
        self.steps()
    }

    /// Returns the steps in which Bob reports two messages as viewed.
    async fn report(&mut self, messages: [i64; 2]) -> u64 {
        let report = Report {
            conversation: ConversationId::parse(CONVERSATION).unwrap(),
            instance: None,
            kind: ReportType::Viewed,
            messages: messages.map(|n| row_key(GENERATION, n)).to_vec(),
            now: Timestamp::from_unix(0).unwrap(),
            user: UserId::parse(BOB).unwrap(),
            station: None,
        };
        self.steps();
        self.tx.begin();
        report.apply(&mut self.tx).await.unwrap();
        self.tx.commit().await.unwrap();
        self.steps()
    }
}

/// Asks for the page at the end of the conversation that the direction leads to, for Bob.
pub(super) fn bobs_page(direction: Direction) -> PageQuery {
    PageQuery {
        conversation: ConversationId::parse(CONVERSATION).unwrap(),
        user: UserId::parse(BOB).unwrap(),
        cursor: Cursor::default(),
        report_cursor: Cursor::default(),
        entries: 50,
        bytes: 8 * 1024 * 1024,
        direction,
        form: PageForm::Documented,
    }
}

#[tokio::test]
async fn a_long_history_costs_a_page_and_a_report_hardly_more_than_a_short_one() {
    let light = i64::try_from(LIGHT_PAGE_BYTES).unwrap();
    let mut steps = Vec::new();
    for messages in [1_000, 40_000] {
        let mut history = History::of(messages).await;
        steps.push([
            history.page(None, Direction::Backward, light).await,
            history.page(Some(messages / 2), Direction::Backward, light).await,
            history.page(Some(messages), Direction::Forward, light).await,
            history.report([3, messages / 2]).await,
        ]);
    }
    // A search takes some steps more where the tree is deeper.
    for (short, long) in steps[0].iter().zip(steps[1]) {
        assert!(*short > 0 && long < short * 3 / 2, "{steps:?}");
    }
}

/// If a message may be large, the plan of a page measures each message and each report once.
#[tokio::test]
async fn measuring_a_page_costs_steps_in_proportion_to_its_entries() {
    let mut steps = Vec::new();
    for messages in [250, 2_000] {
        let mut history = History::of(messages).await;
        history.bob_has_received(messages).await;
        let large = "UPDATE conversations SET longest_data = 1000000";
        sqlx::query(large).execute(history.tx.idle().sqlite()).await.unwrap();
        steps.push(history.page(None, Direction::Forward, -1).await);
    }
    assert!(steps[1] < 9 * steps[0], "{steps:?}");
}
