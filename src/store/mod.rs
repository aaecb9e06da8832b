//! The truth, on disk: SQLite with one writer, which commits for many callers at once, and a pool of readers.
//!
//! Only this folder knows SQL. Statements are constants, written for SQLite. Parameters are `$n`, but `?` in a statement over
//! many rows. Where a reply is one row, the statement writes the JSON of the reply.

mod availability;
mod backoff;
mod backup;
mod blocklist;
mod changes;
mod conversations;
mod epoch;
mod error;
mod files;
mod friend_requests;
mod friends;
mod invariants;
mod measures;
mod message_ids;
mod messages;
mod objects;
mod pages;
mod participants;
mod properties;
mod queue;
mod readers;
mod readiness;
mod replays;
mod reports;
mod reserve;
mod restore;
mod row_keys;
mod schema;
mod server_lock;
mod space;
mod stations;
mod users;
mod values;
mod wal;
mod watch;
mod workspaces;
mod write_op;
mod write_tx;
mod writer;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use deadpool::unmanaged::Object;
use sqlx::SqliteConnection;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::domain::{Limits, Parse};

pub use availability::{SeenBy, SetAvailability};
pub use backup::{BackupError, Progress, Verified, back_up, verify_backup};
pub use blocklist::{Blocklist, ChangeBlock};
pub use changes::{Pending, PendingQuery};
pub use conversations::{Clear, Purged};
pub use epoch::Epoch;
use error::Doing as _;
pub use error::{Error, OpenError, WriteError};
pub use files::DatabaseFile;
pub use friend_requests::{ApproachFriend, DeclineFriend, RemoveFriend, Requests};
pub use friends::{Befriend, Friend, Friendship, Wrapping};
pub use measures::Measured;
pub use messages::AddMessage;
pub use pages::{Found, LIGHT_PAGE_BYTES, Page};
pub use properties::ChangeProperty;
use readers::{ReadBatcher, Readers};
pub use readiness::NotReady;
use readiness::Probes;
pub use replays::OncePerSignature;
pub use reports::{Report, Undelivered};
use reserve::Reserve;
pub use restore::{Restored, Since, restore};
pub use schema::Schema;
pub use server_lock::{LockHolder, ServerLock};
pub use space::{Compacted, Vacuumed, compact};
pub use stations::{BindStation, Station};
pub use users::{AddUser, IdTaken, Login, RenameUser, User};
pub use wal::{LeftBecause, WalLeft};
pub use workspaces::{RegisterWorkspace, Workspace};
pub use write_op::WriteOp;
pub use write_tx::WriteTx;
pub use writer::CommitEvent;
use writer::{Disk, Writer};

/// A row that every database of ours has.
const NEWEST_MIGRATION: &str = "SELECT max(version) FROM _sqlx_migrations";

/// Text of the wire that a statement has written: JSON, ready to be sent. It is made of texts that this program has stored, so
/// it is not looked through once more for UTF-8.
pub type WireText = Vec<u8>;

/// The database.
pub struct Store {
    readers: Readers,
    pages: ReadBatcher<pages::ReadPage>,
    lists: ReadBatcher<conversations::ListConversations>,
    /// The one connection for large pages: its thread alone keeps memory of the last one.
    large_reader: Readers,
    writer: Writer,
    epoch: Epoch,
    probes: Probes,
    reserve: Arc<Reserve>,
    /// Its schema was made or brought up to date when it was opened.
    is_migrated: bool,
    gives_space_back: bool,
    /// To be closed after the connections, see [`DatabaseFile::open`].
    _file: Arc<File>,
}

impl Store {
    /// Opens the database, creates it where [`Schema`] says so, and starts its writer.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the URL, the file or its schema.
    pub async fn open(
        url: &str,
        schema: Schema,
        limits: Limits,
        tasks: &TaskTracker,
    ) -> Result<Self, OpenError> {
        let refused = || OpenError::Url { url: url.to_owned() };
        let file = DatabaseFile::parse(url).ok_or_else(refused)?;
        ServerLock::wait_until_shared(&file).await?;
        let opened = file.open(schema)?;
        let since = Instant::now();
        let (is_migrated, [mut writer, checkpointer], mut reads) = loop {
            match connect(&file, schema).await {
                // SQLite does not wait for others who make the same new database at this moment.
                Err(error) if error.is_busy() && since.elapsed() < BUSY_TIMEOUT => {
                    sleep(OPEN_AGAIN).await;
                    ServerLock::wait_until_shared(&file).await?;
                }
                connected => break connected?,
            }
        };
        ServerLock::wait_until_shared(&file).await?;
        let epoch = Epoch::read(&mut writer).await.map_err(|source| file.failed(source))?;
        file.log_opened(&opened);
        let opened = Arc::new(opened.file);
        let looked = space::gives_space_back(&mut writer).await;
        let gives_space_back = looked.map_err(|source| file.failed(source))?;
        let reserve = Arc::new(Reserve::new(Arc::clone(&opened), limits.disk_reserve_bytes));
        let disk = Disk { file, opened: Arc::clone(&opened), reserve: Arc::clone(&reserve) };
        let writer = Writer::start(disk, limits, writer, checkpointer, tasks);
        let large_reader = Readers::new(reads.split_off(reads.len() - 1));
        let readers = Readers::new(reads);
        let (pages, lists) = (ReadBatcher::new(readers.clone()), ReadBatcher::new(readers.clone()));
        Ok(Self {
            readers,
            pages,
            lists,
            large_reader,
            writer,
            epoch,
            probes: Probes::default(),
            reserve,
            is_migrated,
            gives_space_back,
            _file: opened,
        })
    }

    /// The epoch of the database. It changes only while no server has it open.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Whether the database answers and changes are still accepted.
    ///
    /// # Errors
    ///
    /// [`Error`] where they are not.
    pub async fn ping(&self) -> Result<(), Error> {
        if self.writer.has_ended() {
            return Err(Error::Closed);
        }
        let mut reads = self.reader().await?;
        let schema = sqlx::query_scalar::<_, i64>(NEWEST_MIGRATION).fetch_one(&mut *reads);
        schema.await.map(drop).doing("looking whether the database answers")
    }

    /// Makes one change, durably, in its own place in the order of all changes. It is made even where this is cancelled.
    ///
    /// # Errors
    ///
    /// [`WriteError`] where it was not made.
    pub async fn write<C: WriteOp>(&self, change: C) -> Result<C::Output, WriteError<C::Refusal>> {
        self.writer.write(change).await
    }

    /// Hears of users for whom something has changed, as far as the listener keeps up.
    #[must_use]
    pub fn commit_events(&self) -> broadcast::Receiver<CommitEvent> {
        self.writer.commit_events()
    }

    /// How many changes wait for the writer.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.writer.queue_depth()
    }

    /// Whether less of the disk is free than is to be kept, so that changes that grow the data are refused.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        self.reserve.is_full()
    }

    /// Returns when changes are refused from now on: after a [`Fault`], a panic of the writer, or [`Self::close`].
    pub async fn refuses(&self) {
        self.writer.refuses().await;
    }

    /// Why nothing more can be written, if that is so.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        if self.writer.flush_failed() {
            Some(Fault::FlushFailed)
        } else {
            self.writer.is_replaced().then_some(Fault::FileReplaced)
        }
    }

    /// Whether a read or a change has found the database damaged since this process started. The log says what to do.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        error::is_damaged()
    }

    /// Whether the write-ahead log has anything in it at the moment.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.writer.file().has_log()
    }

    /// Whether anything was written through this store, or may have been.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.is_migrated || self.writer.has_written()
    }

    /// Refuses further changes, waits for those that are queued, moves all of the write-ahead log into the database file and
    /// closes the files. Other programs that use the database are waited for, up to 2 s; after that the log may stay, but has
    /// nothing that the database file lacks.
    ///
    /// # Errors
    ///
    /// [`WalLeft`] where the database file alone does not hold everything.
    pub async fn close(&self) -> Result<(), WalLeft> {
        self.writer.close().await;
        self.close_readers().await;
        self.writer.empty_log().await
    }

    /// The same, without emptying the log: a server does that, or another process that has the database open.
    pub async fn leave(&self) {
        self.writer.close().await;
        self.close_readers().await;
        self.writer.leave_log().await;
    }

    async fn close_readers(&self) {
        self.readers.close().await;
        self.large_reader.close().await;
    }

    /// A connection to read on, once one is free. A read that was given up leaves it fit for the next one.
    async fn reader(&self) -> Result<Object<SqliteConnection>, Error> {
        self.readers.get().await
    }
}

/// Why a store can write nothing more in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The disk did not take what was moved into the database.
    #[error("the disk did not take the database: the next start moves the write-ahead log again")]
    FlushFailed,
    /// A file of the database is no longer the one that is open.
    #[error(
        "a file of the database was replaced, renamed or deleted: put the files back before the next start"
    )]
    FileReplaced,
}

/// Whether the schema was changed, the connections of the writer and of its checkpointer, and those of the readers.
async fn connect(
    file: &DatabaseFile,
    schema: Schema,
) -> Result<(bool, [SqliteConnection; 2], Vec<SqliteConnection>), OpenError> {
    let is_migrated = schema::prepare(file, schema).await?;
    let writers = [file.connect_writer().await?, file.connect_writer().await?];
    Ok((is_migrated, writers, file.connect_readers().await?))
}

/// How long to wait before a database that is busy is opened again.
const OPEN_AGAIN: Duration = Duration::from_millis(20);

/// How long a statement waits for another process to let go of the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// What a column holds, as the type that it was written from.
fn stored<T: Parse>(text: &str) -> Result<T, Error> {
    T::parse(text).ok_or_else(|| Error::not_as_stored(T::EXPECTED))
}

/// A whole number that a statement has written into a text.
fn stored_number(text: &str) -> Result<i64, Error> {
    text.parse().map_err(|_| Error::not_as_stored("a whole number"))
}
