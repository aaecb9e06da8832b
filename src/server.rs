//! The server as a whole: what it locks, opens and starts, and the order in which it stops.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::api;
use crate::app::App;
use crate::availability;
use crate::clock::Clock;
use crate::config::{self, Config, Listen};
use crate::jobs;
use crate::listen::{Address, Listener};
use crate::shutdown::GIVE_UP_AFTER;
use crate::store::{DatabaseUrl, Fault, OpenError, Schema, ServerLock, Store, WalLeft};
use crate::telemetry::{Logging, Metrics, SAMPLE_EVERY};
use crate::tls::{self, Tls};

/// How long a stop waits for positions and uses of stations to be recorded, and for other nodes to be told. Another process
/// may be blocking the writer.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);

/// Why the server did not start, or did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The password of the database can't be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The database can't be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Listening on an address failed.
    #[error("{setting} = {address}: can't listen on this address")]
    Listen {
        /// The setting that holds the address.
        setting: &'static str,
        /// The setting's value.
        address: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The certificate of the server can't be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The server listens on a Unix socket of systemd's, so no URL follows from its address.
    #[error(
        "http.public_url = \"\": must be set, because systemd passed a Unix socket, which clients can't reach"
    )]
    NoUrl,
    /// Work was still running [`GIVE_UP_AFTER`] after the server stopped accepting.
    #[error("work was still running {} s after the server stopped accepting", GIVE_UP_AFTER.as_secs())]
    Unfinished,
    /// The database can't be written any more.
    #[error(transparent)]
    Fault(Fault),
    /// Changes are left in the write-ahead log: the database file alone does not hold everything.
    #[error(transparent)]
    WalLeft(#[from] WalLeft),
    /// The writer task has ended, so no change can be made. The log says why.
    #[error("the writer of the store has ended; the log says why")]
    WriterEnded,
}

/// A server that listens and is ready to run.
pub struct Server {
    app: Arc<App>,
    listener: Listener,
    /// The socket of the admin page.
    admin: Option<Listener>,
    tls: Option<Arc<Tls>>,
    tasks: TaskTracker,
    /// Keeps a second server off a database in a file.
    lock: Option<ServerLock>,
}

impl Server {
    /// Locks a database in a file against a second server, listens, opens the database and migrates it where needed.
    ///
    /// # Errors
    ///
    /// [`Error`] where the database or the address can't be used.
    pub async fn bind(config: Config, clock: Clock) -> Result<Self, Error> {
        let tasks = TaskTracker::new();
        let tls = Tls::open(&config.http, clock.clone())?.map(Arc::new);
        let url = config.database.with_password()?;
        // Lock before listening: a second server commonly has the address of the first, too.
        let mut lock = match &url {
            DatabaseUrl::Sqlite(url) => Some(ServerLock::acquire(url, ServerLock::SERVER).await?),
            DatabaseUrl::Postgres(_) => None,
        };
        let listener = listen("http.listen", &config.http.listen)?;
        let admin = config.admin.listen.0.as_ref();
        let admin = admin.map(|admin| listen("admin.listen", admin)).transpose()?;
        let address = listener.address();
        let public_url = config.http.url_at(address.ip()).ok_or(Error::NoUrl)?;
        if let Some(lock) = &mut lock {
            lock.announce(address.to_string())?;
        }
        let (key_file, limits) = (config.key_file(), config.limits.of_store());
        let store = Store::open(&url, &key_file, Schema::Migrate, limits, &tasks).await?;
        if !store.gives_space_back() {
            tracing::warn!(
                "the database keeps cleared ciphertext and its space, as an earlier version made it: stop the server and run `chatserver compact`"
            );
        }
        let app = App::new(config, clock, store, public_url);
        Ok(Self { app: Arc::new(app), listener, admin, tls, tasks, lock })
    }

    /// Returns the state that requests share.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Returns the address that it listens on.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.listener.address()
    }

    /// Returns the address of the admin page, where that is on.
    #[must_use]
    pub fn admin_address(&self) -> Option<&Address> {
        self.admin.as_ref().map(Listener::address)
    }

    /// Records the metrics for the charts of the admin page, for as long as the server runs.
    pub(crate) fn keep_history(&self, metrics: Metrics) {
        let app = Arc::clone(&self.app);
        self.tasks.spawn(async move {
            let recording = async {
                loop {
                    let text = metrics.render(&app.store);
                    app.history.record(&text, app.clock.read().monotonic);
                    sleep(SAMPLE_EVERY).await;
                }
            };
            tokio::select! {
                () = recording => {}
                () = app.shutdown.closing() => {}
            }
        });
    }

    /// Serves the metrics for as long as the server runs.
    pub(crate) fn serve_metrics(
        &self,
        listener: Listener,
        metrics: Metrics,
        logging: Arc<Logging>,
    ) {
        let app = Arc::clone(&self.app);
        self.tasks.spawn(async move {
            let upkeep = metrics.clone();
            tokio::select! {
                () = api::serve_metrics(listener, app, metrics, logging) => {}
                () = upkeep.upkeep() => {}
            }
        });
    }

    /// Runs until the shutdown has begun and everything that was accepted is done.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`], [`Error::WriterEnded`], [`Error::WalLeft`], or [`Error::Unfinished`].
    pub async fn run(self) -> Result<(), Error> {
        // Hold the lock until the database is closed.
        let Self { app, listener, admin, tls, tasks, lock: _lock } = self;
        tasks.spawn(jobs::run(Arc::clone(&app)));
        tasks.spawn(tell_friends(Arc::clone(&app)));
        tasks.spawn(notify_listeners(Arc::clone(&app)));
        let served = CancellationToken::new();
        tasks.spawn(follow_nodes(Arc::clone(&app), served.clone()));
        tasks.spawn(save_positions(Arc::clone(&app)));
        if let Some(listener) = admin {
            tracing::info!(address = %listener.address(), "serving the admin page");
            tasks.spawn(admin::serve(listener, Arc::clone(&app)));
        }
        if let Some(tls) = &tls {
            tasks.spawn(keep_certificate(Arc::clone(&app), Arc::clone(tls)));
        }
        let to_the_end = async {
            let mut serving = pin!(api::serve(listener, tls, Arc::clone(&app)));
            let writer_ended = tokio::select! {
                () = &mut serving => false,
                () = app.store.refuses() => {
                    app.shutdown.begin(Duration::ZERO).await;
                    serving.await;
                    true
                }
            };
            app.hub.ended().await;
            served.cancel();
            // Positions that are not saved by then are told again.
            drop(timeout(RECORDED_WITHIN, app.positions.save(&app.store)).await);
            // A use that is not recorded by then is recorded with the station's next use.
            drop(timeout(RECORDED_WITHIN, app.stations.ended()).await);
            let closed = app.store.close().await;
            if let Err(WalLeft { wal, bytes, cause }) = &closed {
                let (wal, cause) = (wal.display(), cause as &dyn std::error::Error);
                tracing::error!(bytes, %wal, cause, "changes are only in the write-ahead log");
            }
            tasks.close();
            tasks.wait().await;
            match app.store.fault() {
                Some(fault) => Err(Error::Fault(fault)),
                None if writer_ended => Err(Error::WriterEnded),
                None => Ok(closed?),
            }
        };
        let too_long = async {
            app.shutdown.closing().await;
            sleep(GIVE_UP_AFTER).await;
        };
        tokio::select! {
            ended = to_the_end => ended,
            () = too_long => Err(Error::Unfinished),
        }
    }
}

async fn tell_friends(app: Arc<App>) {
    let App { store, presence, presence_feed, hub, shutdown, .. } = &*app;
    tokio::select! {
        () = availability::tell_friends(store, presence, presence_feed, hub) => {}
        () = shutdown.closing() => {}
    }
}

async fn notify_listeners(app: Arc<App>) {
    tokio::select! {
        () = app.hub.follow(app.store.commit_events(), || app.forget_cached()) => {}
        () = app.shutdown.closing() => {}
    }
}

/// Exchanges news with other nodes until everything is `served`, and a last time then.
async fn follow_nodes(app: Arc<App>, served: CancellationToken) {
    let App { store, presence, hub, .. } = &*app;
    let too_long = async {
        served.cancelled().await;
        sleep(RECORDED_WITHIN).await;
    };
    tokio::select! {
        () = store.follow_nodes(|| hub.listening()) => {}
        () = availability::exchange(store, presence, served.cancelled()) => {}
        () = too_long => {}
    }
}

async fn save_positions(app: Arc<App>) {
    tokio::select! {
        () = app.positions.save_periodically(&app.store) => {}
        () = app.shutdown.closing() => {}
    }
}

async fn keep_certificate(app: Arc<App>, tls: Arc<Tls>) {
    tokio::select! {
        () = tls.keep() => {}
        () = app.shutdown.closing() => {}
    }
}

/// Listens as a setting says. [`Error::Listen`] names the setting.
pub(crate) fn listen(setting: &'static str, on: &Listen) -> Result<Listener, Error> {
    let address = on.to_string();
    Listener::open(on).map_err(|source| Error::Listen { setting, address, source })
}
