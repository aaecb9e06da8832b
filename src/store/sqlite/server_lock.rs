//! The lock that keeps a second server off a database.
//!
//! SQLite lets several processes write to one file, and the commands rely on that. A second server is not possible.
//! Each server keeps state in memory that the other would have to learn of, such as stations, rates and listeners.
//!
//! So a server, and a command that needs the database to itself, holds an advisory lock (flock(2)) on a small file
//! beside the database. The kernel releases the lock when the process ends, however it ends. The file stays and means
//! nothing by itself.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::file::{kind_of, open_or_create};
use crate::domain::Parse as _;
use crate::store::{DatabaseFile, OpenError};

/// How long to retry while the lock is held. A server that is about to exit still holds it for a moment, and
/// [`ServerLock::holder`] takes it for an instant.
const PATIENCE: Duration = Duration::from_secs(1);

const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Maximum bytes read from the lock file.
const HOLDER_BYTES: usize = 4096;

/// The right to be the only server on a database, or to work on it without a server. Dropping it releases the lock.
#[derive(Debug)]
pub struct ServerLock {
    path: PathBuf,
    file: File,
    holder: LockHolder,
}

/// The process that holds a [`ServerLock`], as it describes itself in the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Task of the process, such as `server` or `restore`.
    pub task: String,
    /// Process id as the process itself sees it. A container has ids of its own.
    pub(crate) pid: u32,
    /// Listening address or Unix socket, once the process has announced one.
    pub(crate) address: Option<String>,
    /// Random name of the process. It differs even where another container has a process with the same id.
    #[serde(default)]
    process: String,
}

static PROCESS: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().to_string());

impl LockHolder {
    /// Whether the holder lets this process change the database. A server does. The process does not exclude itself.
    fn shares(&self) -> bool {
        self.task == ServerLock::SERVER || self.is_this_process()
    }

    pub(crate) fn is_this_process(&self) -> bool {
        self.process == *PROCESS
    }
}

impl std::fmt::Display for LockHolder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { task, pid, .. } = self;
        write!(formatter, "another process ({task}, process id {pid}")?;
        if let Some(address) = &self.address {
            write!(formatter, ", listening on {address}")?;
        }
        formatter.write_str(")")
    }
}

impl ServerLock {
    /// Task name of a server. Commands may change the database while a server holds the lock.
    pub(crate) const SERVER: &'static str = "server";

    /// Takes the lock of the database at this URL for a task, such as [`Self::SERVER`] or `restore`.
    ///
    /// The database need not exist, but its folder must. Waits for up to 1 s while another process holds the lock.
    ///
    /// # Errors
    ///
    /// [`OpenError::InUse`] names the process that holds the lock.
    pub(crate) async fn acquire(url: &str, task: &str) -> Result<Self, OpenError> {
        let database = parse(url)?;
        // A path that is no database file is refused for that, and not for its lock.
        database.look()?;
        let path = lock_path(database.path());
        let failed = |source| OpenError::Lock { path: path.display().to_string(), source };
        refuse_unless_regular(&path)?;
        // Not truncated: the content is replaced only once the lock is held.
        let mut options = OpenOptions::new();
        options.read(true).write(true).truncate(false);
        let file = open_or_create(&path, &mut options, database.owner().as_ref());
        let file = file.map_err(failed)?;
        let since = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => {
                    sleep(TRY_AGAIN).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let path = database.path().display().to_string();
                    return Err(OpenError::InUse { path, holder: describe(&file) });
                }
            }
        }
        let pid = std::process::id();
        let (task, process) = (task.to_owned(), PROCESS.clone());
        let holder = LockHolder { task, pid, address: None, process };
        let lock = Self { path, file, holder };
        lock.write_holder()?;
        Ok(lock)
    }

    /// Publishes the address that this process listens on. From now on, refused processes report it.
    pub(crate) fn announce(&mut self, address: String) -> Result<(), OpenError> {
        self.holder.address = Some(address);
        self.write_holder()
    }

    /// Returns the process that currently holds the lock of the database at this URL, if there is one.
    ///
    /// # Errors
    ///
    /// [`OpenError::Lock`] if the lock file can't be read.
    pub fn holder(url: &str) -> Result<Option<LockHolder>, OpenError> {
        Self::holder_of(&parse(url)?)
    }

    /// Waits for up to 1 s while another process has the database to itself, such as a restore: a change made meanwhile
    /// may be replaced.
    ///
    /// Call it again once the database is open, because a restore may have begun since. A restore that begins after
    /// that finds the database open and refuses.
    ///
    /// # Errors
    ///
    /// [`OpenError::InUse`] names the process that holds the lock.
    pub(crate) async fn wait_until_shared(database: &DatabaseFile) -> Result<(), OpenError> {
        let since = Instant::now();
        while let Some(holder) = Self::holder_of(database)?.filter(|holder| !holder.shares()) {
            if since.elapsed() >= PATIENCE {
                let path = database.path().display().to_string();
                return Err(OpenError::InUse { path, holder });
            }
            sleep(TRY_AGAIN).await;
        }
        Ok(())
    }

    pub(crate) fn holder_of(database: &DatabaseFile) -> Result<Option<LockHolder>, OpenError> {
        let path = lock_path(database.path());
        let failed = |source| OpenError::Lock { path: path.display().to_string(), source };
        refuse_unless_regular(&path)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
            Err(TryLockError::WouldBlock) => Ok(Some(describe(&file))),
        }
    }

    fn write_holder(&self) -> Result<(), OpenError> {
        let failed = |source| OpenError::Lock { path: self.path.display().to_string(), source };
        let mut text = serde_json::json!(self.holder).to_string();
        text.push('\n');
        self.file.write_all_at(text.as_bytes(), 0).map_err(failed)?;
        self.file.set_len(text.len() as u64).map_err(failed)
    }
}

/// Refuses a lock file that is not a regular file, before opening it: opening a FIFO waits for its other end.
fn refuse_unless_regular(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let problem = format!("it is {}, and must be a regular file", kind_of(&found));
            let source = io::Error::other(problem);
            Err(OpenError::Lock { path: path.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

/// Reads how the holder of the lock describes itself. It writes the file just after it has taken the lock, so for an
/// instant the content may be that of an earlier holder.
fn describe(file: &File) -> LockHolder {
    let mut text = [0; HOLDER_BYTES];
    let read = file.read_at(&mut text, 0).unwrap_or(0);
    let unknown =
        || LockHolder { task: "unknown".to_owned(), pid: 0, address: None, process: String::new() };
    serde_json::from_slice(&text[..read]).unwrap_or_else(|_| unknown())
}

fn parse(url: &str) -> Result<DatabaseFile, OpenError> {
    DatabaseFile::parse(url).ok_or_else(|| OpenError::Url { url: url.to_owned() })
}

/// Returns the path of the lock file, beside the database after links are resolved: `chatserver.db-server` for
/// `chatserver.db`.
fn lock_path(database: &Path) -> PathBuf {
    let resolved = fs::canonicalize(database).or_else(|_| {
        // The database does not exist yet, but its folder must.
        let folder = database.parent().filter(|folder| *folder != Path::new(""));
        let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")))?;
        Ok::<_, io::Error>(database.file_name().map_or(folder.clone(), |name| folder.join(name)))
    });
    let mut path = OsString::from(resolved.unwrap_or_else(|_| database.to_owned()));
    path.push("-server");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn url(&self, name: &str) -> String {
            format!("sqlite://{}", self.0.path().join(name).display())
        }
    }

    #[tokio::test]
    async fn a_second_lock_is_refused_and_names_the_holder_of_the_first() {
        let folder = Folder::new();
        let url = folder.url("chat.db");
        assert_eq!(ServerLock::holder(&url).unwrap(), None);
        let mut first = ServerLock::acquire(&url, "server").await.unwrap();
        first.announce("127.0.0.1:8080".to_owned()).unwrap();
        let error = ServerLock::acquire(&url, "restore").await.unwrap_err().to_string();
        let pid = std::process::id();
        for told in ["chat.db", "server", &format!("process id {pid}"), "127.0.0.1:8080"] {
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(ServerLock::holder(&url).unwrap(), Some(first.holder.clone()));
        drop(first);
        assert_eq!(ServerLock::holder(&url).unwrap(), None);
        ServerLock::acquire(&url, "restore").await.unwrap();
    }

    #[tokio::test]
    async fn all_names_of_a_database_have_one_lock() {
        let folder = Folder::new();
        fs::write(folder.0.path().join("chat.db"), "").unwrap();
        std::os::unix::fs::symlink("chat.db", folder.0.path().join("link.db")).unwrap();
        let _first = ServerLock::acquire(&folder.url("chat.db"), "server").await.unwrap();
        for name in ["link.db", "./chat.db"] {
            assert!(ServerLock::acquire(&folder.url(name), "server").await.is_err(), "{name}");
        }
        ServerLock::acquire(&folder.url("other.db"), "server").await.unwrap();
    }

    #[tokio::test]
    async fn a_leftover_lock_file_locks_nothing() {
        let folder = Folder::new();
        let url = folder.url("chat.db");
        fs::write(folder.0.path().join("chat.db-server"), "{\"task\":\"server\",\"pid\":1")
            .unwrap();
        assert_eq!(ServerLock::holder(&url).unwrap(), None);
        let lock = ServerLock::acquire(&url, "server").await.unwrap();
        assert_eq!(ServerLock::holder(&url).unwrap(), Some(lock.holder.clone()));
    }
}
