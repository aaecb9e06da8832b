//! The store: a database with one writer, which commits many changes at once, and a pool of readers. The database is a
//! file of SQLite's or a PostgreSQL server.
//!
//! Only this folder contains SQL. A change is a struct that implements [`WriteOp`], a read is a method of [`Store`],
//! each in the file of its area. What only one database needs is in `sqlite/` and `postgres/`.
//!
//! Statements are constants. Parameters are `$n`, but `?` in statements over many rows. Where a reply is one row, the
//! statement writes the reply's JSON.
//!
//! SQLite and PostgreSQL read the same SQL where that is possible. So the condition of a `CROSS JOIN` is in WHERE, a
//! boolean is cast before it becomes text, `IS NOT DISTINCT FROM` compares values that may be NULL, and no constant holds
//! two statements.

mod admin_links;
mod affected;
mod api_keys;
mod audit;
mod availability;
mod blocklist;
mod changes;
mod checkup;
mod commit_event;
mod conversations;
mod copy;
mod database_url;
mod deferred;
mod deletion;
mod directory;
mod engine;
mod epoch;
mod error;
mod export;
mod friend_requests;
mod friends;
mod invitations;
mod listing;
mod many_rows;
mod measures;
mod message_ids;
mod messages;
mod migrations;
mod objects;
mod outcomes;
mod pages;
mod participants;
mod postgres;
mod properties;
mod queue;
mod readers;
mod readiness;
mod receipts;
mod replays;
mod reports;
mod retention;
mod row_keys;
mod sealing;
mod sql;
mod sqlite;
mod stations;
mod usage;
mod users;
mod workspaces;
mod write_op;
mod write_tx;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use deadpool::unmanaged::Object;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Actor;
use crate::domain::{Limits, Parse, UserId};
use crate::key_file::KeyFile;
use crate::sealing::KeyRing;

pub(crate) use admin_links::MakeAdminLink;
use api_keys::CheckKey;
use audit::Acting;
pub(crate) use audit::{AuditEntry, AuditQuery, AuditStart, AuditedUser, Named};
pub(crate) use availability::SetAvailability;
pub(crate) use blocklist::ChangeBlock;
pub(crate) use changes::{Acknowledge, Pending, PendingQuery};
pub(crate) use checkup::{Archive, Checkup, examine};
pub(crate) use commit_event::{Changes, CommitEvent, News};
pub use conversations::{Clear, Purged};
pub(crate) use copy::{CopyError, CopyProgress, copy};
pub use database_url::DatabaseUrl;
pub(crate) use deletion::{DELETED_NICK, DeleteUser};
pub(crate) use directory::{Acquaintance, ListedUser, UserFacts, UserPage};
use engine::Engine;
use epoch::CurrentEpoch;
pub use epoch::Epoch;
use error::Doing as _;
pub use error::{Error, WriteError};
pub(crate) use error::{OpenError, is_damaged};
pub(crate) use export::Paged;
pub(crate) use friend_requests::{ApproachFriend, DeclineFriend, RemoveFriend};
pub(crate) use friends::{Befriend, Friend, Wrapping};
pub(crate) use invitations::{Invitation, Invite, Register};
use listing::listed;
#[cfg(feature = "statements")]
pub use listing::{Statement, statements};
pub use messages::AddMessage;
pub(crate) use pages::LIGHT_PAGE_BYTES;
pub use pages::{Found, Page};
use postgres::bus::Bus;
pub(crate) use postgres::connect::check_authority;
pub(crate) use postgres::presence::{Elsewhere, Exchanged, HereAtNode};
use postgres::presence::{PresenceExchange, reachable_friends};
pub(crate) use postgres::schema::{Migrated, migrate};
use postgres::server::Server;
pub use postgres::url::PgUrl;
pub use properties::ChangeProperty;
use readers::{ReadBatcher, Readers};
pub(crate) use readiness::NotReady;
use readiness::Probes;
pub(crate) use replays::OncePerSignature;
pub(crate) use reports::{Report, Undelivered};
pub(crate) use retention::{Removed, RemovedOf, Sweep, Swept};
pub(crate) use sealing::{Registered, Sealing, StillNeeded, look_at_keys};
use sql::{Connection, Sql};
pub(crate) use sqlite::backup::{BackupError, Progress, back_up, verify_backup};
pub(crate) use sqlite::backup_record::{LastBackup, last_backup, record_backup};
use sqlite::checkpointer::Checkpointer;
use sqlite::connections::Connections;
pub(crate) use sqlite::file::{DatabaseFile, check_file};
pub use sqlite::local::Fault;
use sqlite::local::Local;
pub(crate) use sqlite::restore::{UndoneChanges, restore};
pub use sqlite::schema::Schema;
pub(crate) use sqlite::server_lock::LockHolder;
pub use sqlite::server_lock::ServerLock;
use sqlite::space::gives_space_back;
pub(crate) use sqlite::space::{Compacted, Vacuumed, compact};
pub(crate) use sqlite::wal::WalLeft;
pub(crate) use stations::{BindStation, Station};
pub(crate) use usage::{ConversationSpace, DatabaseSize, Space, Usage};
pub(crate) use users::{AddUser, IdTaken, RenameUser, User};
pub(crate) use workspaces::RegisterWorkspace;
pub use write_op::WriteOp;
pub use write_tx::WriteTx;
use writer::Writer;

listed!(NEWEST_MIGRATION);

/// Selects a row that every database of this program has.
const NEWEST_MIGRATION: Sql = Sql::both("SELECT max(version) FROM _sqlx_migrations");

/// JSON that a statement has written, ready to be sent. It consists of texts that this program stored, so it is not
/// checked for UTF-8 again.
pub type WireText = Vec<u8>;

/// The database: one writer, pooled readers and their shared state.
pub struct Store {
    readers: Readers,
    pages: ReadBatcher<pages::ReadPage>,
    extended_pages: ReadBatcher<pages::Extended>,
    lists: ReadBatcher<conversations::ListConversations>,
    extended_lists: ReadBatcher<conversations::ListWithUnread>,
    /// The only connection for large pages, so that only one thread keeps the memory of a large page.
    large_reader: Readers,
    writer: Writer,
    epoch: CurrentEpoch,
    keys: Arc<KeyRing>,
    probes: Probes,
    /// Whether the schema was created or migrated, or API keys were sealed, at opening.
    is_migrated: bool,
    /// Checkpoints the write-ahead log of a file.
    checkpointer: Option<Checkpointer>,
    /// Dropped after the connections.
    engine: Engine,
}

impl Store {
    /// Opens the database and its key file, creates them if [`Schema`] says so, and starts the writer.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if the URL, a file, the server or the schema is unusable.
    pub async fn open(
        url: &DatabaseUrl,
        key_file: &KeyFile,
        schema: Schema,
        limits: Limits,
        tasks: &TaskTracker,
    ) -> Result<Self, OpenError> {
        match url {
            DatabaseUrl::Sqlite(url) => Self::open_file(url, key_file, schema, limits, tasks).await,
            DatabaseUrl::Postgres(url) => {
                Self::open_server(url, key_file, schema, limits, tasks).await
            }
        }
    }

    async fn open_file(
        url: &str,
        key_file: &KeyFile,
        schema: Schema,
        limits: Limits,
        tasks: &TaskTracker,
    ) -> Result<Self, OpenError> {
        let refused = || OpenError::Url { url: url.to_owned() };
        let file = DatabaseFile::parse(url).ok_or_else(refused)?;
        ServerLock::wait_until_shared(&file).await?;
        let opened = file.open(schema)?;
        let Connections { is_migrated, mut writer, checkpointer, readers } =
            Connections::open(&file, schema).await?;
        ServerLock::wait_until_shared(&file).await?;
        let epoch = Epoch::read(&mut writer).await.map_err(|source| file.failed(source))?;
        file.log_opened(&opened);
        let failed = |source| file.failed(source);
        let (keys, has_sealed) =
            sealing::prepare(&mut writer, key_file, file.owner(), &failed).await?;
        let looked = gives_space_back(writer.sqlite()).await;
        let gives_space_back = looked.map_err(|source| file.failed(source))?;
        let local = Local::new(file, opened.file, limits.disk_reserve_bytes, gives_space_back);
        // Changes are refused after an fsync failure.
        let closing = local.wal.flush_failed().child_token();
        let stops = [closing, CancellationToken::new()];
        local.watch(stops.clone(), tasks);
        let checkpointer = Checkpointer::start(&local, checkpointer, stops.clone(), tasks);
        let engine = Engine::Sqlite(local);
        let writer = Writer::start(engine.clone(), limits, Arc::clone(&keys), writer, stops, tasks);
        let store = Self::new(engine, epoch, keys, writer, readers);
        let is_migrated = is_migrated || has_sealed;
        Ok(Self { is_migrated, checkpointer: Some(checkpointer), ..store })
    }

    async fn open_server(
        url: &PgUrl,
        key_file: &KeyFile,
        schema: Schema,
        limits: Limits,
        tasks: &TaskTracker,
    ) -> Result<Self, OpenError> {
        let is_migrated = postgres::schema::prepare(url, schema).await?;
        let server = Server::new(url.clone());
        let mut writer = Connection::Postgres(Box::new(server.open().await?));
        let epoch = Epoch::read(&mut writer).await;
        let epoch = epoch.map_err(|source| postgres::connect::failed(url, source))?;
        let failed = |source| postgres::connect::failed(url, source);
        let (keys, has_sealed) = sealing::prepare(&mut writer, key_file, None, &failed).await?;
        let mut readers = Vec::new();
        // One more for large pages.
        for _ in 0..=postgres::connect::READERS {
            readers.push(Connection::Postgres(Box::new(server.open().await?)));
        }
        tracing::info!(database = %url, "database opened");
        let engine = Engine::Postgres(server);
        let stops = [CancellationToken::new(), CancellationToken::new()];
        let writer = Writer::start(engine.clone(), limits, Arc::clone(&keys), writer, stops, tasks);
        let store = Self::new(engine, epoch, keys, writer, readers);
        Ok(Self { is_migrated: is_migrated || has_sealed, ..store })
    }

    fn new(
        engine: Engine,
        epoch: Epoch,
        keys: Arc<KeyRing>,
        writer: Writer,
        mut readers: Vec<Connection>,
    ) -> Self {
        let large_reader = Readers::new(engine.clone(), readers.split_off(readers.len() - 1));
        let readers = Readers::new(engine.clone(), readers);
        Self {
            pages: ReadBatcher::new(readers.clone()),
            extended_pages: ReadBatcher::new(readers.clone()),
            lists: ReadBatcher::new(readers.clone()),
            extended_lists: ReadBatcher::new(readers.clone()),
            readers,
            large_reader,
            writer,
            epoch: CurrentEpoch::new(epoch),
            keys,
            probes: Probes::default(),
            is_migrated: false,
            checkpointer: None,
            engine,
        }
    }

    /// Returns the database's epoch. That of a file changes only while no server has it open.
    #[must_use]
    pub fn epoch(&self) -> Arc<Epoch> {
        self.epoch.get()
    }

    /// Checks that the database answers and that the writer accepts changes.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        if self.writer.has_ended() {
            return Err(Error::Closed);
        }
        let mut reads = self.reader().await?;
        let schema = reads.query(NEWEST_MIGRATION).value::<i64>().await;
        schema.map(drop).doing("checking that the database answers")
    }

    /// Makes one change, durably, in its own place in the order of all changes. Cancelling the call does not cancel the
    /// change, unless that is made for its answer alone. The audit log names the caller's [`Actor`].
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the change was refused or failed.
    pub async fn write<C: WriteOp>(&self, change: C) -> Result<C::Output, WriteError<C::Refusal>> {
        self.writer.write(Acting { actor: Actor::current(), change }).await
    }

    /// Subscribes to commits that affect users. Hints only: a subscriber that lags behind misses events.
    pub(crate) fn commit_events(&self) -> broadcast::Receiver<CommitEvent> {
        self.writer.commit_events().subscribe()
    }

    /// Whether several servers may serve the database.
    pub(crate) fn has_nodes(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_))
    }

    /// Passes commits on to other nodes, and theirs to this one, until the future is dropped. Ends at once on a database
    /// in a file, which has one server. `listening` returns the users who listen here.
    pub(crate) async fn follow_nodes(&self, listening: impl Fn() -> Vec<UserId>) {
        if let Engine::Postgres(server) = &self.engine {
            let bus = Bus::new(server.clone());
            bus.run(self.writer.commit_events(), &self.epoch, listening).await;
        }
    }

    /// Returns this node's part in the exchange of presence; `None` on a database in a file, which has one server.
    pub(crate) fn presence_exchange(&self, timeout: Duration) -> Option<PresenceExchange> {
        match &self.engine {
            Engine::Sqlite(_) => None,
            Engine::Postgres(server) => Some(PresenceExchange::new(server.clone(), timeout)),
        }
    }

    /// Returns the friends of a user who are reachable at any node; none on a database in a file. `timeout` is how long a
    /// user stays reachable without a sign of life.
    pub(crate) async fn reachable_friends(
        &self,
        user: UserId,
        timeout: Duration,
    ) -> Result<Vec<UserId>, Error> {
        if !self.has_nodes() {
            return Ok(Vec::new());
        }
        match &mut *self.reader().await? {
            Connection::Sqlite(_) => Ok(Vec::new()),
            Connection::Postgres(session) => reachable_friends(session, user, timeout).await,
        }
    }

    /// Tells the servers of a PostgreSQL database that this process has changed something. Those of a file notice by
    /// themselves.
    pub(crate) async fn tell_nodes(&self) {
        if let Engine::Postgres(server) = &self.engine
            && let Err(error) = Bus::new(server.clone()).notify_all().await
        {
            tracing::warn!(%error, "telling the servers of a change failed: they notice it within 5 s");
        }
    }

    /// Number of changes queued for the writer.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.writer.queue_depth()
    }

    /// Whether changes that grow the data are refused: the disk of a file has less free space than the reserve, or that
    /// of a server is full.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        match &self.engine {
            Engine::Sqlite(local) => local.reserve.is_full(),
            Engine::Postgres(_) => self.writer.outcomes().is_full(),
        }
    }

    /// Completes once changes are refused for good: after a [`Fault`], a panic of the writer or the checkpointer, or
    /// [`Self::close`].
    pub(crate) async fn refuses(&self) {
        self.writer.refuses().await;
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.engine.local()?.fault()
    }

    /// Whether the write-ahead log has any content now.
    pub(crate) fn has_log(&self) -> bool {
        self.engine.local().is_some_and(|local| local.file.has_log())
    }

    /// Whether this store has written anything, or may have.
    pub(crate) fn has_written(&self) -> bool {
        self.is_migrated
            || match &self.engine {
                Engine::Sqlite(local) => local.wal.has_grown(),
                Engine::Postgres(_) => self.writer.outcomes().has_committed(),
            }
    }

    /// Refuses further changes, waits for the queued ones, checkpoints the whole write-ahead log and closes the files.
    /// Waits up to 2 s for other programs that use the database. After that the log may stay, but the database file has
    /// all of its content.
    ///
    /// # Errors
    ///
    /// [`WalLeft`] if the database file alone does not hold everything.
    pub async fn close(&self) -> Result<(), WalLeft> {
        self.close_connections().await;
        match &self.checkpointer {
            Some(checkpointer) => checkpointer.empty_log().await,
            None => Ok(()),
        }
    }

    /// Closes the store like [`Self::close`], but leaves the write-ahead log to a server or another process that has
    /// the database open.
    pub async fn leave(&self) {
        self.close_connections().await;
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.leave_log().await;
        }
    }

    async fn close_connections(&self) {
        self.writer.close().await;
        self.readers.close().await;
        self.large_reader.close().await;
    }

    async fn reader(&self) -> Result<Object<Connection>, Error> {
        self.readers.get().await
    }
}

/// Parses a column's text as the type that it was written from.
fn stored<T: Parse>(text: &str) -> Result<T, Error> {
    T::parse(text).ok_or_else(|| Error::not_as_stored(T::EXPECTED))
}

/// Parses a whole number that a statement has written into a text.
fn stored_number(text: &str) -> Result<i64, Error> {
    text.parse().map_err(|_| Error::not_as_stored("a whole number"))
}
