//! Scenarios: which requests a server gets, and from which users.

use serde::Deserialize;

use super::ceiling::Ceiling;
use super::population::{Population, Shape};
use super::requests::{LoadClient, RequestKind};

/// Bytes of Data of a message that is sent, and of one that is read.
pub const SENT: usize = 300;
pub const READ: usize = 400;

/// Messages of a conversation that is read.
const HISTORY: usize = 200;

/// Neighbours on either side: together they give each user 20 conversations.
const NEIGHBOURS: usize = 10;

/// A mix of requests, and the users and conversations for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    Send,
    SendHot,
    SendLive,
    List,
    Page,
    PageRead,
    Properties,
    Mixed,
}

impl Scenario {
    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::SendHot => "send-hot",
            Self::SendLive => "send-live",
            Self::List => "list",
            Self::Page => "page",
            Self::PageRead => "page-read",
            Self::Properties => "properties",
            Self::Mixed => "mixed",
        }
    }

    pub fn shape(self, connections: usize) -> Shape {
        match self {
            Self::SendHot => Shape::Pairs(1),
            Self::List | Self::Mixed => Shape::Ring { people: connections, neighbours: NEIGHBOURS },
            _ => Shape::Pairs(connections),
        }
    }

    /// Returns the messages in each conversation, and whether both users have sent them.
    pub fn history(self) -> (usize, bool) {
        match self {
            // Only their sender has read them, so they have no receipts.
            Self::Page | Self::PageRead => (HISTORY, false),
            Self::Mixed => (50, true),
            Self::List => (1, false),
            Self::Send | Self::SendHot | Self::SendLive | Self::Properties => (0, false),
        }
    }

    /// Returns the users and conversations that a connection cycles through.
    pub fn clients(self, connection: usize, population: &Population) -> Vec<LoadClient> {
        let talks = population.talks.iter().enumerate();
        match self {
            Self::SendHot => vec![LoadClient { person: connection % 2, talk: 0 }],
            Self::List | Self::Mixed => {
                let person = connection % population.people.len();
                let mine = talks.filter(|(_, talk)| talk.people.contains(&person));
                mine.map(|(talk, _)| LoadClient { person, talk }).collect()
            }
            _ => {
                let talk = connection % population.talks.len();
                // The second user has sent nothing, so each message that it reads carries its receipt.
                let side = usize::from(self == Self::PageRead);
                vec![LoadClient { person: population.talks[talk].people[side], talk }]
            }
        }
    }

    pub fn mix(self) -> &'static [RequestKind] {
        const SEND: RequestKind = RequestKind::Send { bytes: SENT };
        const PAGE: RequestKind = RequestKind::Page { limit: 50 };
        match self {
            Self::Send | Self::SendHot | Self::SendLive => &[SEND],
            Self::List => &[RequestKind::List],
            Self::Page | Self::PageRead => &[PAGE],
            Self::Properties => &[RequestKind::Property],
            Self::Mixed => &[
                PAGE,
                SEND,
                RequestKind::List,
                RequestKind::Notification,
                SEND,
                PAGE,
                RequestKind::Property,
                RequestKind::List,
                SEND,
                PAGE,
            ],
        }
    }

    /// Whether the other user of each conversation listens and acknowledges what it is told.
    pub fn has_audience(self) -> bool {
        self == Self::SendLive
    }

    /// Whether several connections may have the same user and conversation.
    pub fn may_share(self) -> bool {
        self != Self::SendLive
    }

    pub fn ceilings(self, is_postgres: bool) -> &'static [Ceiling] {
        match self {
            Self::Send | Self::SendHot | Self::SendLive if is_postgres => {
                &[Ceiling::Echo, Ceiling::Insert, Ceiling::Single]
            }
            Self::Send | Self::SendHot | Self::SendLive => &[Ceiling::Echo, Ceiling::Insert],
            Self::List | Self::Page | Self::PageRead => &[Ceiling::Echo, Ceiling::Row],
            Self::Properties | Self::Mixed => &[Ceiling::Echo],
        }
    }
}
