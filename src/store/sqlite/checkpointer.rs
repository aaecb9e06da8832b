//! The task that checkpoints the write-ahead log, and the log's end.

use std::sync::{Mutex, PoisonError};

use sqlx::SqliteConnection;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::local::Local;
use super::wal::{self, WalLeft};

pub(crate) struct Checkpointer {
    /// Returns its connection when the writer has ended.
    task: Mutex<Option<JoinHandle<Option<SqliteConnection>>>>,
    local: Local,
}

impl Checkpointer {
    /// Starts the task, which ends with the writer. Without it the log would grow without bound, so its end stops the
    /// writer, too.
    pub(crate) fn start(
        local: &Local,
        connection: SqliteConnection,
        [closing, ended]: [CancellationToken; 2],
        tasks: &TaskTracker,
    ) -> Self {
        let (opened, wal) = (local.opened.clone(), local.wal.clone());
        let checkpoint = wal::checkpoint(connection, opened, wal, ended);
        let close = closing.drop_guard();
        let task = tasks.spawn(async move {
            let _close = close;
            checkpoint.await
        });
        Self { task: Mutex::new(Some(task)), local: local.clone() }
    }

    /// Makes the last checkpoint, once the writer and all readers are closed.
    pub(crate) async fn empty_log(&self) -> Result<(), WalLeft> {
        match self.connection().await {
            Some(connection) => {
                wal::empty_at_the_end(connection, &self.local.wal, self.local.file.wal()).await
            }
            None => Ok(()),
        }
    }

    /// Closes the last connection and leaves the log to other processes.
    pub(crate) async fn leave_log(&self) {
        if let Some(Some(connection)) = self.connection().await {
            wal::close(connection, &self.local.wal).await;
        }
    }

    /// Waits for the task and takes its result; `None` where that was taken before.
    async fn connection(&self) -> Option<Option<SqliteConnection>> {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A task that has panicked has lost its connection.
        Some(task?.await.unwrap_or(None))
    }
}
