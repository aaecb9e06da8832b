//! Makes the signed requests that a connection sends.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use chatserver::clock::Clock;
use chatserver::domain::{ConversationId, Timestamp};
use uuid::Uuid;

use super::population::{Person, Population, Talk, data};
use super::pushes::PendingPushes;
use super::server::Target;

/// A kind of request in a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Send { bytes: usize },
    Page { limit: u32 },
    List,
    Notification,
    Property,
}

/// Indices of a user and of one of its conversations in the [`Population`].
#[derive(Clone, Copy, Debug)]
pub struct LoadClient {
    pub person: usize,
    pub talk: usize,
}

/// The requests of one connection. It cycles through its clients and through the mix.
pub struct RequestGenerator {
    population: Arc<Population>,
    target: Arc<Target>,
    /// Never empty.
    clients: Vec<LoadClient>,
    /// Never empty.
    mix: &'static [RequestKind],
    /// Records each sent message until the push to its recipient, in a run with listeners.
    pending: Option<Arc<PendingPushes>>,
    turn: usize,
    /// Conversation of the last request.
    conversation: Option<ConversationId>,
    clock: Clock,
    /// The last formatted second and its text: most requests share it.
    second: (Timestamp, String),
}

impl RequestGenerator {
    pub fn new(
        population: &Arc<Population>,
        target: &Arc<Target>,
        clients: Vec<LoadClient>,
        mix: &'static [RequestKind],
    ) -> Self {
        let clock = Clock::system();
        let now = clock.now();
        Self {
            population: Arc::clone(population),
            target: Arc::clone(target),
            clients,
            mix,
            pending: None,
            turn: 0,
            conversation: None,
            clock,
            second: (now, now.to_string()),
        }
    }

    /// Makes a generator for each connection, at most one a conversation. Their first users make the requests, and each
    /// connection has conversations of its own. Connections take turns over the targets.
    pub fn spread(
        population: &Arc<Population>,
        targets: &[Arc<Target>],
        talks: Range<usize>,
        connections: usize,
        mix: &'static [RequestKind],
    ) -> Vec<Self> {
        let connections = connections.min(talks.len());
        let generator = |connection| {
            let own = talks.clone().skip(connection).step_by(connections);
            let client =
                |talk: usize| LoadClient { person: population.talks[talk].people[0], talk };
            let target = &targets[connection % targets.len()];
            Self::new(population, target, own.map(client).collect(), mix)
        };
        (0..connections).map(generator).collect()
    }

    /// Records each message that is sent from now on.
    pub fn recording(self, pending: &Arc<PendingPushes>) -> Self {
        Self { pending: Some(Arc::clone(pending)), ..self }
    }

    /// Returns the address of the server that gets the requests.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// Returns the user of the first client.
    pub fn first_user(&self) -> &Person {
        &self.population.people[self.clients[0].person]
    }

    /// Returns the next request as HTTP text.
    pub fn next(&mut self) -> String {
        let now = self.clock.now();
        if self.second.0 != now {
            self.second = (now, now.to_string());
        }
        let Turn { client, kind, pass } = turn(self.turn, self.clients.len(), self.mix.len());
        let (client, kind) = (self.clients[client], self.mix[kind]);
        self.turn += 1;
        let (person, talk) =
            (&self.population.people[client.person], &self.population.talks[client.talk]);
        self.conversation = Some(talk.conversation);
        let (api, fields) = self.fields(kind, talk, pass);
        let body = format!(r#"{{{fields},"clientversioncode":3,"timestamp":"{}"}}"#, self.second.1);
        signed_request(&self.target, person, api, &body)
    }

    /// Records that the last request is about to be sent, within the measured part of the run or before it.
    pub fn record_send(&self, is_measured: bool) {
        if let (Some(pending), Some(conversation)) = (&self.pending, self.conversation) {
            pending.record(conversation, is_measured);
        }
    }

    /// Withdraws the record of the last request, which was refused.
    pub fn withdraw_send(&self) {
        if let (Some(pending), Some(conversation)) = (&self.pending, self.conversation) {
            pending.withdraw(conversation);
        }
    }

    fn fields(&self, kind: RequestKind, talk: &Talk, pass: usize) -> (&'static str, String) {
        let Talk { conversation, instance, .. } = talk;
        let fields = match kind {
            RequestKind::Send { bytes } => format!(
                concat!(
                    r#""action":"add","conversationid":"{}","instance":"{}","#,
                    r#""message":"{{\"ID\":\"{}\",\"Type\":\"Message\",\"Created\":\"{}\","#,
                    r#"\"ValidUntil\":\"\",\"Data\":\"{}\"}}""#
                ),
                conversation,
                instance,
                Uuid::new_v4(),
                self.second.1,
                data(bytes)
            ),
            RequestKind::Page { limit } => format!(
                concat!(
                    r#""action":"downloadpartial","conversationid":"{}","instance":"{}","#,
                    r#""lastmessagedate":"","lastmessageid":"","lastreportdate":"","#,
                    r#""lastreportid":"","limit":{}"#
                ),
                conversation, instance, limit
            ),
            RequestKind::List => r#""action":"list""#.to_owned(),
            RequestKind::Notification => {
                return ("chatnotification", r#""action":"download""#.to_owned());
            }
            RequestKind::Property => property(talk, pass),
        };
        ("chatconversation", fields)
    }
}

/// Returns a request that is signed by a user, as HTTP text.
pub fn signed_request(target: &Target, person: &Person, api: &str, body: &str) -> String {
    let credentials = &person.credentials;
    let signature = credentials.sign(api, body.as_bytes());
    let mut request = String::with_capacity(512 + body.len());
    let Target { path, host, .. } = target;
    let line = write!(
        request,
        "POST {path}?srv=chatserver&api={api} HTTP/1.1\r\nHost: {host}\r\n\
         Content-Type: application/json\r\nOzeki-Station: {}\r\nOzeki-User: {}\r\n\
         Ozeki-Signature: {}\r\nContent-Length: {}\r\n\r\n{body}",
        credentials.station.as_str(),
        credentials.user,
        signature.as_str(),
        body.len()
    );
    line.expect("writing to a string does not fail");
    request
}

/// Indices of a request's client and kind, and the number of complete passes before it. In a pass, each client makes
/// each request of the mix once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Turn {
    client: usize,
    kind: usize,
    pass: usize,
}

/// Returns the request of a turn. Clients take turns, and in each further round their requests shift by one in the mix.
fn turn(turn: usize, clients: usize, mix: usize) -> Turn {
    let (round, client) = (turn / clients, turn % clients);
    Turn { client, kind: (client + round) % mix, pass: round / mix }
}

/// Returns a property change that differs from the client's last one. Its nonce keeps it from being taken for a replay.
fn property(talk: &Talk, pass: usize) -> String {
    const CHANGES: [&str; 5] = [
        r#""action":"favorite""#,
        r#""action":"mute""#,
        r##""action":"setlistitembackgroundcolor","color":"#bae1ff""##,
        r#""action":"unfavorite""#,
        r#""action":"unmute""#,
    ];
    let change = CHANGES[pass % CHANGES.len()];
    let nonce = Uuid::new_v4().simple();
    format!(r#"{change},"conversationid":"{}","nonce":"{nonce}""#, talk.conversation)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_client_makes_each_request_once_in_a_pass() {
        for (clients, mix) in (1..=24).flat_map(|clients| (1..=12).map(move |mix| (clients, mix))) {
            for pass in 0..3 {
                let turns = (pass * clients * mix..).take(clients * mix);
                let turns: HashSet<_> = turns.map(|nth| turn(nth, clients, mix)).collect();
                assert_eq!(turns.len(), clients * mix, "{clients} clients, {mix} requests");
                let is_valid =
                    |turn: &Turn| turn.client < clients && turn.kind < mix && turn.pass == pass;
                assert!(turns.iter().all(is_valid), "{turns:?}");
            }
        }
    }

    #[test]
    fn successive_requests_are_made_by_different_clients() {
        for (clients, mix) in (2..=24).flat_map(|clients| (1..=12).map(move |mix| (clients, mix))) {
            let clients = (0..3 * clients * mix).map(|nth| turn(nth, clients, mix).client);
            let clients: Vec<_> = clients.collect();
            assert!(clients.windows(2).all(|pair| pair[0] != pair[1]), "{clients:?}");
        }
    }
}
