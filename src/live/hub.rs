//! The registry of listeners, and what commits tell them. That is a hint only: a listener that misses some of it reads the
//! truth in the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Gauge, gauge};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use crate::domain::{Refusal, StationId, UserId};
use crate::error::Error;
use crate::store::{CommitEvent, News};

pub(crate) struct Hub {
    /// Maximum listeners of one user.
    most: usize,
    /// Sockets that have not subscribed have a pool of their own. Clients without an account can't use up the
    /// listeners' permits.
    unsubscribed: Arc<Semaphore>,
    subscribed: Arc<Semaphore>,
    users: Mutex<HashMap<UserId, Vec<Listener>>>,
    tasks: TaskTracker,
}

/// The permit of a socket, given back to its pool when this is dropped.
pub(crate) struct SocketPermit {
    _permit: OwnedSemaphorePermit,
    open: Gauge,
}

impl SocketPermit {
    fn of(pool: &Arc<Semaphore>, open: Gauge) -> Option<Self> {
        let permit = Arc::clone(pool).try_acquire_owned().ok()?;
        open.increment(1);
        Some(Self { _permit: permit, open })
    }
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        self.open.decrement(1);
    }
}

struct Listener {
    station: StationId,
    mailbox: Arc<Mailbox>,
}

impl Listener {
    /// Adds news to what the listener has not taken yet, and wakes it unless its own station made the changes.
    fn tell(&self, news: &News) {
        self.mailbox.put(news);
        if news.concerns(self.station) {
            self.mailbox.woken.notify_one();
        }
    }
}

#[derive(Default)]
pub(super) struct Mailbox {
    woken: Notify,
    is_replaced: AtomicBool,
    /// News that the listener has not taken yet. Boxed, since most listeners have none most of the time.
    news: Mutex<Option<Box<News>>>,
}

impl Mailbox {
    /// Waits until there may be something new. A wake-up that arrives while no task waits is kept.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Adds news to what is not taken yet.
    pub(super) fn put(&self, news: &News) {
        match &mut *self.news() {
            Some(untaken) => untaken.join(news),
            none => *none = Some(Box::new(news.clone())),
        }
    }

    /// Takes what the listener was told since the last call. `None` where it was told nothing.
    pub(super) fn take_news(&self) -> Option<News> {
        self.news().take().map(|news| *news)
    }

    fn news(&self) -> MutexGuard<'_, Option<Box<News>>> {
        // A panic leaves no half-made change behind this lock.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether another connection has taken over the station.
    pub(super) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Relaxed)
    }
}

impl Hub {
    /// Creates a hub for at most `listeners` listeners, as many sockets that have not subscribed, and `most` listeners
    /// of each user.
    pub(crate) fn new(listeners: usize, most: usize) -> Self {
        Self {
            most,
            unsubscribed: Arc::new(Semaphore::new(listeners)),
            subscribed: Arc::new(Semaphore::new(listeners)),
            users: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Returns a permit for one more socket that has not subscribed, or `None` at the limit.
    pub(crate) fn unsubscribed(&self) -> Option<SocketPermit> {
        SocketPermit::of(&self.unsubscribed, gauge!("chatserver_listeners_unsubscribed"))
    }

    /// Returns a permit for one more listener, or `None` at the limit.
    pub(super) fn subscribed(&self) -> Option<SocketPermit> {
        SocketPermit::of(&self.subscribed, gauge!("chatserver_listeners"))
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Waits until no socket is left. Call it once no further sockets can start.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns the users who listen here.
    pub(crate) fn listening(&self) -> Vec<UserId> {
        self.users().keys().copied().collect()
    }

    /// Returns the stations at which a user listens.
    pub(crate) fn stations_of(&self, user: UserId) -> Vec<StationId> {
        let users = self.users();
        users.get(&user).into_iter().flatten().map(|listener| listener.station).collect()
    }

    /// Tells a user's listeners what is new.
    pub(crate) fn tell(&self, user: UserId, news: &News) {
        for listener in self.users().get(&user).into_iter().flatten() {
            listener.tell(news);
        }
    }

    fn tell_all(&self, news: &News) {
        for listener in self.users().values().flatten() {
            listener.tell(news);
        }
    }

    /// Tells the users of each commit event until the store closes the channel. Where any user may be affected, and
    /// after it lagged behind, calls `forget` and then lets all listeners read what is new.
    pub(crate) async fn follow(
        &self,
        mut commit_events: broadcast::Receiver<CommitEvent>,
        forget: impl Fn(),
    ) {
        loop {
            match commit_events.recv().await {
                Ok(CommitEvent::Here(users) | CommitEvent::Elsewhere(users)) => {
                    users.iter().for_each(|(user, news)| self.tell(*user, news));
                }
                Ok(CommitEvent::AnyUser | CommitEvent::NewEpoch) | Err(RecvError::Lagged(_)) => {
                    forget();
                    self.tell_all(&News::Unknown);
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Refuses a listener that [`Hub::enter`] would refuse now.
    pub(super) fn refuse_excess(&self, user: UserId, station: StationId) -> Result<(), Error> {
        let listening = self.stations_of(user);
        if listening.len() >= self.most && !listening.contains(&station) {
            return Err(self.excess());
        }
        Ok(())
    }

    fn excess(&self) -> Error {
        Refusal::TooMany { what: "listeners", most: self.most }.into()
    }

    /// Registers a listener for a user at a station. Replaces an earlier listener at the same station.
    pub(super) fn enter(
        self: &Arc<Self>,
        user: UserId,
        station: StationId,
    ) -> Result<Registration, Error> {
        let mut users = self.users();
        let listeners = users.entry(user).or_default();
        let earlier = listeners.iter().position(|listener| listener.station == station);
        if let Some(earlier) = earlier {
            let earlier = listeners.swap_remove(earlier);
            earlier.mailbox.is_replaced.store(true, Ordering::Relaxed);
            earlier.mailbox.woken.notify_one();
        } else if listeners.len() >= self.most {
            return Err(self.excess());
        }
        let mailbox = Arc::new(Mailbox::default());
        listeners.push(Listener { station, mailbox: Arc::clone(&mailbox) });
        Ok(Registration { hub: Arc::clone(self), user, mailbox })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Vec<Listener>>> {
        // A panic under the lock leaves nothing half done.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener's entry in the hub, removed when this is dropped.
pub(super) struct Registration {
    hub: Arc<Hub>,
    user: UserId,
    pub(super) mailbox: Arc<Mailbox>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut users = self.hub.users();
        if let Some(listeners) = users.get_mut(&self.user) {
            listeners.retain(|listener| !Arc::ptr_eq(&listener.mailbox, &self.mailbox));
            if listeners.is_empty() {
                users.remove(&self.user);
            }
        }
    }
}
