//! A dry run of a sweep: it counts what would be removed.

use std::collections::HashMap;

use super::sweep::Walk;
use super::{Head, Removed, RemovedOf, expired};
use crate::domain::{Retention, Timestamp};
use crate::store::{Error, Store};

impl Store {
    /// Counts what a sweep at this moment would remove, in short reads.
    pub(crate) async fn preview(
        &self,
        retention: Retention,
        now: Timestamp,
    ) -> Result<RemovedOf, Error> {
        let mut preview = Preview { store: self, retention, now, found: Vec::new() };
        let mut walk = Walk::new(retention, now);
        while let Some(due) = {
            let mut reads = self.reader().await?;
            walk.step(&mut reads).await?
        } {
            for conversation in due {
                preview.count_oldest(conversation).await?;
            }
        }
        if retention.honours_valid_until {
            preview.count_expired().await?;
        }
        Ok(preview.sum())
    }
}

struct Preview<'a> {
    store: &'a Store,
    retention: Retention,
    now: Timestamp,
    /// Generation, row key behind the last message that would be removed, and the sums.
    found: Vec<(i64, i64, Removed)>,
}

impl Preview<'_> {
    async fn count_oldest(&mut self, conversation: i64) -> Result<(), Error> {
        let mut reads = self.store.reader().await?;
        let Some(head) = Head::read(&mut reads, conversation).await? else { return Ok(()) };
        drop(reads);
        let (mut from, mut removed) = (head.first_message, Removed::default());
        loop {
            let mut reads = self.store.reader().await?;
            let over = head.over(&mut reads, from, self.retention, self.now).await?;
            let Some(last) = over.last() else { break };
            from = last.place + 1;
            for message in &over {
                removed.add(Removed { messages: 1, emptied: 0, bytes: message.bytes });
            }
        }
        self.found.push((head.generation, from, removed));
        Ok(())
    }

    /// Counts expired messages that stand behind one that stays.
    async fn count_expired(&mut self) -> Result<(), Error> {
        let ends = self.found.iter().map(|(generation, end, _)| (*generation, *end));
        let ends: HashMap<i64, i64> = ends.collect();
        let mut behind = (String::new(), 0);
        loop {
            let mut reads = self.store.reader().await?;
            let messages = expired(&mut reads, self.now, &behind).await?;
            drop(reads);
            let Some(last) = messages.last() else { return Ok(()) };
            behind = (last.valid_until.clone(), last.place);
            for message in &messages {
                let generation = message.place >> 32;
                let end = ends.get(&generation).copied().unwrap_or(0);
                if message.place >= end {
                    let removed =
                        Removed { emptied: 1, bytes: message.bytes, ..Removed::default() };
                    self.found.push((generation, end, removed));
                }
            }
        }
    }

    fn sum(self) -> RemovedOf {
        let mut sums = RemovedOf::new();
        for (generation, _, removed) in self.found {
            sums.entry(generation).or_default().add(removed);
        }
        sums
    }
}
