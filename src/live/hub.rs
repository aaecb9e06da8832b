//! Who listens, and how to wake them. Nothing here is the truth: a listener that is woken reads the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::id::{StationId, UserId};
use crate::store::Told;

/// The listeners of this process.
pub struct Hub {
    /// The most listeners of one user.
    most: usize,
    places: Arc<Semaphore>,
    users: Mutex<HashMap<UserId, Vec<Listener>>>,
    tasks: TaskTracker,
}

/// A place among the sockets that may be open.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

struct Listener {
    station: StationId,
    bell: Arc<Bell>,
}

/// How a listener is woken.
#[derive(Default)]
pub(super) struct Bell {
    rung: Notify,
    is_replaced: AtomicBool,
}

impl Bell {
    /// Returns when there may be something new. A ring that nobody waits for is kept.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// Whether another connection has taken the station over.
    pub(super) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Relaxed)
    }
}

impl Hub {
    /// For so many sockets, and so many listeners of each user.
    #[must_use]
    pub fn new(sockets: usize, most: usize) -> Self {
        Self {
            most,
            places: Arc::new(Semaphore::new(sockets)),
            users: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// A place for one more socket, or `None` where there is none.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { _permit: permit })
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

    /// Wakes the listeners of a user, but for one at this station.
    pub fn wake(&self, user: UserId, but: Option<StationId>) {
        for listener in self.users().get(&user).into_iter().flatten() {
            if Some(listener.station) != but {
                listener.bell.rung.notify_one();
            }
        }
    }

    /// Wakes everybody.
    fn wake_all(&self) {
        for listener in self.users().values().flatten() {
            listener.bell.rung.notify_one();
        }
    }

    /// Wakes those of whom the store tells, for as long as it does.
    pub async fn follow(&self, mut told: broadcast::Receiver<Told>) {
        loop {
            match told.recv().await {
                Ok(Told::Users(users)) => users.iter().for_each(|(user, at)| self.wake(*user, *at)),
                Ok(Told::Anybody) | Err(RecvError::Lagged(_)) => self.wake_all(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Listens for a user at a station, in the place of whoever did so before.
    pub(super) fn enter(
        self: &Arc<Self>,
        user: UserId,
        station: StationId,
    ) -> Result<Entered, Error> {
        let mut users = self.users();
        let listeners = users.entry(user).or_default();
        let earlier = listeners.iter().position(|listener| listener.station == station);
        if let Some(earlier) = earlier {
            let earlier = listeners.swap_remove(earlier);
            earlier.bell.is_replaced.store(true, Ordering::Relaxed);
            earlier.bell.rung.notify_one();
        } else if listeners.len() >= self.most {
            return Err(Error::TooMany { what: "listeners", most: self.most });
        }
        let bell = Arc::new(Bell::default());
        listeners.push(Listener { station, bell: Arc::clone(&bell) });
        Ok(Entered { hub: Arc::clone(self), user, bell })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Vec<Listener>>> {
        // Whoever panicked has left nothing half done.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener's entry in the hub, until it is dropped.
pub(super) struct Entered {
    hub: Arc<Hub>,
    user: UserId,
    pub(super) bell: Arc<Bell>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut users = self.hub.users();
        if let Some(listeners) = users.get_mut(&self.user) {
            listeners.retain(|listener| !Arc::ptr_eq(&listener.bell, &self.bell));
            if listeners.is_empty() {
                users.remove(&self.user);
            }
        }
    }
}
