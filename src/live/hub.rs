//! Who listens, and how to wake them. Nothing here is the truth: a listener that is woken reads the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Gauge, gauge};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use crate::domain::{Refusal, StationId, UserId};
use crate::error::Error;
use crate::store::CommitEvent;

/// The listeners of this process.
pub struct Hub {
    /// The most listeners of one user.
    most: usize,
    /// Sockets that have not subscribed have a pool of their own: whoever has no account can't take a listener's place.
    unsubscribed: Arc<Semaphore>,
    subscribed: Arc<Semaphore>,
    users: Mutex<HashMap<UserId, Vec<Listener>>>,
    tasks: TaskTracker,
}

/// Counts a socket in its pool until this is dropped.
pub struct SocketPermit {
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
    wake_signal: Arc<WakeSignal>,
}

/// How a listener is woken.
#[derive(Default)]
pub(super) struct WakeSignal {
    woken: Notify,
    is_replaced: AtomicBool,
}

impl WakeSignal {
    /// Returns when there may be something new. A ring that nobody waits for is kept.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Whether another connection has taken the station over.
    pub(super) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Relaxed)
    }
}

impl Hub {
    /// For so many listeners, as many sockets that have not subscribed, and so many listeners of each user.
    #[must_use]
    pub fn new(listeners: usize, most: usize) -> Self {
        Self {
            most,
            unsubscribed: Arc::new(Semaphore::new(listeners)),
            subscribed: Arc::new(Semaphore::new(listeners)),
            users: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// A permit for one more socket that has not subscribed, or `None` where there are too many.
    #[must_use]
    pub fn unsubscribed(&self) -> Option<SocketPermit> {
        SocketPermit::of(&self.unsubscribed, gauge!("chatserver_listeners_unsubscribed"))
    }

    /// A permit for one more listener, or `None` where there are too many.
    pub(super) fn subscribed(&self) -> Option<SocketPermit> {
        SocketPermit::of(&self.subscribed, gauge!("chatserver_listeners"))
    }

    /// The tasks of the sockets.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Returns when no socket is left. There will be no further ones.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The stations at which a user listens.
    #[must_use]
    pub fn stations_of(&self, user: UserId) -> Vec<StationId> {
        let users = self.users();
        users.get(&user).into_iter().flatten().map(|listener| listener.station).collect()
    }

    /// Wakes the listeners of a user, but for one at this station.
    pub fn wake(&self, user: UserId, but: Option<StationId>) {
        for listener in self.users().get(&user).into_iter().flatten() {
            if Some(listener.station) != but {
                listener.wake_signal.woken.notify_one();
            }
        }
    }

    /// Wakes everybody.
    fn wake_all(&self) {
        for listener in self.users().values().flatten() {
            listener.wake_signal.woken.notify_one();
        }
    }

    /// Wakes those of whom the store tells, for as long as it does.
    pub async fn follow(&self, mut commit_events: broadcast::Receiver<CommitEvent>) {
        loop {
            match commit_events.recv().await {
                Ok(CommitEvent::Users(users)) => {
                    users.iter().for_each(|(user, at)| self.wake(*user, *at));
                }
                Ok(CommitEvent::AnyUser) | Err(RecvError::Lagged(_)) => self.wake_all(),
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

    /// Listens for a user at a station, in the place of whoever did so before.
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
            earlier.wake_signal.is_replaced.store(true, Ordering::Relaxed);
            earlier.wake_signal.woken.notify_one();
        } else if listeners.len() >= self.most {
            return Err(self.excess());
        }
        let wake_signal = Arc::new(WakeSignal::default());
        listeners.push(Listener { station, wake_signal: Arc::clone(&wake_signal) });
        Ok(Registration { hub: Arc::clone(self), user, wake_signal })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Vec<Listener>>> {
        // Whoever panicked has left nothing half done.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener's entry in the hub, until it is dropped.
pub(super) struct Registration {
    hub: Arc<Hub>,
    user: UserId,
    pub(super) wake_signal: Arc<WakeSignal>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut users = self.hub.users();
        if let Some(listeners) = users.get_mut(&self.user) {
            listeners.retain(|listener| !Arc::ptr_eq(&listener.wake_signal, &self.wake_signal));
            if listeners.is_empty() {
                users.remove(&self.user);
            }
        }
    }
}
