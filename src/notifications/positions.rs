//! Positions that listeners have acknowledged and that the store does not have yet. A busy station acknowledges many
//! times a second, and one row is enough for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::domain::{StationId, UserId};
use crate::store::{Acknowledge, Epoch, Error, Store};

/// How long a position waits for later ones of its station. A server that is killed tells these stations again what they
/// acknowledged meanwhile, and so does another node that they turn to.
const GATHER: Duration = Duration::from_millis(250);

/// Maximum positions of one change of the store.
const AT_ONCE: usize = 1024;

/// The newest acknowledged position of each station, until it is saved.
#[derive(Default)]
pub struct Positions {
    unsaved: Mutex<HashMap<(UserId, StationId), Unsaved>>,
    added: Notify,
}

struct Unsaved {
    number: i64,
    /// The epoch of the number.
    epoch: Arc<Epoch>,
}

impl Positions {
    /// Advances the position of a station.
    pub(super) fn advance(
        &self,
        user: UserId,
        station: StationId,
        number: i64,
        epoch: &Arc<Epoch>,
    ) {
        let mut unsaved = self.unsaved();
        let newest = || Unsaved { number, epoch: Arc::clone(epoch) };
        let position = unsaved.entry((user, station)).or_insert_with(newest);
        if position.epoch.id != epoch.id || position.number < number {
            *position = newest();
        }
        drop(unsaved);
        self.added.notify_one();
    }

    /// Returns the position of a station that is not saved yet.
    pub(super) fn unsaved_of(
        &self,
        user: UserId,
        station: StationId,
        epoch: &Epoch,
    ) -> Option<i64> {
        let unsaved = self.unsaved();
        let position = unsaved.get(&(user, station));
        position.filter(|position| position.epoch.id == epoch.id).map(|position| position.number)
    }

    /// Forgets the position of a station that is bound no more.
    pub(crate) fn forget(&self, user: UserId, station: StationId) {
        self.unsaved().remove(&(user, station));
    }

    /// Saves positions some time after each is acknowledged, until the future is dropped.
    pub(crate) async fn save_periodically(&self, store: &Store) {
        loop {
            self.added.notified().await;
            sleep(GATHER).await;
            if let Err(error) = self.save(store).await {
                // They stay here, and are tried again.
                tracing::debug!(%error, "saving the positions of listeners failed");
                self.added.notify_one();
            }
        }
    }

    /// Saves all positions.
    ///
    /// # Errors
    ///
    /// [`Error`] where the store failed. Positions that are not saved stay here.
    pub async fn save(&self, store: &Store) -> Result<(), Error> {
        let all = self.all();
        for some in all.chunks(AT_ONCE) {
            store.acknowledge_all(some.to_vec()).await?;
            let mut unsaved = self.unsaved();
            for Acknowledge { user, station, number, epoch } in some {
                let key = (*user, *station);
                let is_saved = |position: &Unsaved| {
                    position.number == *number && position.epoch.id == epoch.id
                };
                if unsaved.get(&key).is_some_and(is_saved) {
                    unsaved.remove(&key);
                }
            }
        }
        Ok(())
    }

    fn all(&self) -> Vec<Acknowledge> {
        self.unsaved().iter().map(acknowledgement).collect()
    }

    fn unsaved(&self) -> MutexGuard<'_, HashMap<(UserId, StationId), Unsaved>> {
        // A panic leaves no half-made change behind this lock.
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn acknowledgement(((user, station), position): (&(UserId, StationId), &Unsaved)) -> Acknowledge {
    let Unsaved { number, epoch } = position;
    Acknowledge { user: *user, station: *station, number: *number, epoch: Arc::clone(epoch) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Parse as _, Timestamp};

    #[test]
    fn the_newest_position_of_the_newest_epoch_is_kept() {
        let epoch = |id: &str| {
            let began_at = Timestamp::from_unix(0).unwrap();
            Arc::new(Epoch { id: id.to_owned(), began_at })
        };
        let (old, new) = (epoch("0123456789abcdef"), epoch("fedcba9876543210"));
        let user = UserId::parse(&"a".repeat(32)).unwrap();
        let [here, there] = ["1", "2"].map(|digit| StationId::parse(&digit.repeat(32)).unwrap());
        let positions = Positions::default();
        for number in [7, 9, 8] {
            positions.advance(user, here, number, &old);
        }
        assert_eq!(positions.unsaved_of(user, here, &old), Some(9));
        assert_eq!(positions.all().len(), 1, "one row for all acknowledgements of a station");
        assert_eq!(positions.unsaved_of(user, there, &old), None);
        positions.advance(user, here, 1, &new);
        assert_eq!(positions.unsaved_of(user, here, &new), Some(1));
        assert_eq!(positions.unsaved_of(user, here, &old), None);
        positions.forget(user, here);
        assert_eq!(positions.unsaved_of(user, here, &new), None);
    }
}
