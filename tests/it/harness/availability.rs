//! The availability of a person, and what friends see of it.

use serde_json::{Value, json};
use uuid::Uuid;

use super::person::{Answer, Person};
use super::world::{World, until};

impl Person {
    /// Calls an action of `chatavailability`.
    pub async fn chooses(&self, action: &str) -> Answer {
        self.prepares("chatavailability", action, &json!({})).sent().await
    }

    /// Returns the availability entries of this person's friends.
    pub async fn sees_friends(&self) -> Vec<Value> {
        let listed = self.prepares("chatfriends", "list", &json!({})).sent().await.ok();
        listed["availabilities"].as_array().unwrap().clone()
    }

    /// Returns the availability that this person sees for a friend.
    pub async fn sees_as(&self, friend: &Person) -> String {
        let friends = self.sees_friends().await;
        let entry = friends.iter().find(|entry| entry["friendid"] == friend.user.as_str());
        entry.unwrap()["availability"].as_str().unwrap().to_owned()
    }

    /// Waits until this person sees the friend with this availability.
    pub async fn comes_to_see(&self, friend: &Person, as_what: &str) {
        until(as_what, async || self.sees_as(friend).await == as_what).await;
    }

    /// Waits until a server has told friends of every earlier change of availability, departures included. Neither of the
    /// two has other friends.
    ///
    /// One task tells friends, at most once a second for each user, and looks for departed users once a second. The wait of
    /// every earlier change is over by the task's second announcement of this person, and the change itself was announced
    /// by the third.
    pub async fn is_told_of_thrice(&self, friend: &Self) {
        let mut told = friend.listens_from_now_on().await;
        for action in ["useravailable", "useraway", "userbusy"] {
            self.chooses(action).await.ok();
            told.is_told_of(&[self]).await;
        }
    }
}

impl World {
    /// Waits until friends were told of every earlier change of availability, departures included.
    pub async fn has_told_friends(&self) {
        let id = Uuid::new_v4();
        let mut marker = self.person_at(&format!("{id}@marker.example.com"), "Marker").await;
        let mut friend = self.person_at(&format!("{id}@friend.example.com"), "Friend").await;
        self.befriends(&mut marker, &mut friend).await;
        marker.is_told_of_thrice(&friend).await;
    }
}
