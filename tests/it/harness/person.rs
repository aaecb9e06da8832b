//! A user who sends requests, and the answers to them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatserver::client::Credentials;
use chatserver::clock::Clock;
use chatserver::domain::{ApiKey, Parse, StationId, UserId};
use chatserver::keys::EncryptionPassword;
use chatserver::signature::{Signed, SigningKey};
use chatserver::users::NewUser;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::world::World;

/// A user and one of the user's devices.
#[derive(Clone)]
pub struct Person {
    pub email: String,
    pub user: UserId,
    pub station: StationId,
    pub api_key: ApiKey,
    pub password: EncryptionPassword,
    /// ID of the conversation that [`Person::does`] acts on.
    pub conversation: String,
    address: SocketAddr,
    /// Source of this person's timestamps: the test clock, or the system clock for a server process.
    clock: Clock,
    http: reqwest::Client,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        Self::received(response).await.unwrap()
    }

    async fn received(response: Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, text: response.text().await? })
    }

    /// Parses the envelope.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Asserts success and returns the envelope.
    #[track_caller]
    pub fn ok(&self) -> Value {
        let json = self.json();
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        assert_eq!(
            (&json["status"], &json["errormessage"]),
            (&json!("OK"), &json!("")),
            "{self:?}"
        );
        json
    }

    /// Asserts a refusal with this status and code, and returns the envelope.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let json = self.json();
        assert_eq!((self.status.as_u16(), &json["errorcode"]), (status, &json!(code)), "{self:?}");
        assert_eq!(json["status"], "ERROR", "{self:?}");
        assert!(json["errormessage"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        json
    }

    /// Returns the conversation of an envelope, whether of a success or of a refusal.
    pub fn conversation(&self) -> Value {
        self.json()["conversation"].clone()
    }

    /// Returns the IDs of the messages of a page.
    #[track_caller]
    pub fn message_ids(&self) -> Vec<String> {
        let page = self.ok();
        let messages = page["messages"].as_array().unwrap().iter();
        messages.map(|message| message["ID"].as_str().unwrap().to_owned()).collect()
    }
}

/// A request before it is sent, so that a test can change any part of it.
#[derive(Clone)]
pub struct Prepared {
    pub url: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    http: reqwest::Client,
}

impl Prepared {
    /// Sets a header.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
        self
    }

    /// Removes a header.
    pub fn without_header(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Returns the address of the server in the URL.
    pub fn address(&self) -> SocketAddr {
        let host =
            self.url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap().0;
        host.parse().unwrap()
    }

    /// Returns the bytes of the request, for a test's own connection.
    pub fn bytes(&self) -> Vec<u8> {
        let path = self.url.split_once(&self.address().to_string()).unwrap().1;
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: chat\r\n");
        for (name, value) in &self.headers {
            write!(head, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
        }
        write!(head, "Content-Length: {}\r\n\r\n", self.body.len()).unwrap();
        [head.as_bytes(), &self.body].concat()
    }

    pub async fn sent(&self) -> Answer {
        self.tried().await.unwrap()
    }

    /// Sends the request. Returns an error where there is no answer, such as from a server that is gone.
    pub async fn tried(&self) -> reqwest::Result<Answer> {
        let request = self.http.post(&self.url).headers(self.headers.clone());
        Answer::received(request.body(self.body.clone()).send().await?).await
    }
}

/// Returns a client that closes idle connections before any server does, so that none closes during a request.
fn client() -> reqwest::Client {
    reqwest::Client::builder().pool_idle_timeout(Duration::from_millis(300)).build().unwrap()
}

fn new_station() -> StationId {
    StationId::parse(&Uuid::new_v4().simple().to_string()).unwrap()
}

/// Returns a message with a new ID.
pub fn message(text: &str, date: &str) -> Value {
    message_with_id(&Uuid::new_v4().to_string(), text, date)
}

/// Returns a message with this ID.
pub fn message_with_id(id: &str, text: &str, date: &str) -> Value {
    json!({
        "ID": id, "Type": "Message", "Created": date, "ValidUntil": "", "Data": BASE64.encode(text),
    })
}

impl Person {
    pub fn new(user: NewUser, address: SocketAddr, clock: Clock) -> Self {
        Self {
            email: user.email.as_str().to_owned(),
            user: user.id,
            station: new_station(),
            api_key: user.api_key,
            password: user.encryption_password,
            conversation: String::new(),
            address,
            clock,
            http: client(),
        }
    }

    /// Returns a person whom the command line has added, as a client of the server process at this address.
    pub fn added(told: &Value, address: SocketAddr) -> Self {
        let told = |name: &str| told[name].as_str().unwrap();
        Self {
            email: told("email").to_owned(),
            user: Parse::parse(told("userid")).unwrap(),
            station: new_station(),
            api_key: Parse::parse(told("apikey")).unwrap(),
            password: Parse::parse(told("encryptionpassword")).unwrap(),
            conversation: String::new(),
            address,
            clock: Clock::system(),
            http: client(),
        }
    }

    /// Returns the person on another device.
    pub fn elsewhere(&self) -> Self {
        Self { station: new_station(), ..self.clone() }
    }

    /// Returns the person on the device with this ID.
    pub fn at(&self, station: &str) -> Self {
        Self { station: StationId::parse(station).unwrap(), ..self.clone() }
    }

    /// Returns the date of this person's clock.
    pub fn date(&self) -> String {
        self.clock.now().to_string()
    }

    /// Returns the person with another API key.
    pub fn with_key(&self, api_key: ApiKey) -> Self {
        Self { api_key, ..self.clone() }
    }

    /// Returns the person under another user's ID, with the same API key.
    pub fn posing_as(&self, user: UserId) -> Self {
        Self { user, ..self.clone() }
    }

    /// Returns the person as a client of another server.
    pub fn moves_to(&self, world: &World) -> Self {
        Self { address: world.address, clock: world.clock.clock(), ..self.clone() }
    }

    /// Returns the person as a client of the server at this address, which has the same database.
    pub fn asks_at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// Returns an earlier request, addressed to the current server of this person.
    pub fn repeats(&self, earlier: &Prepared) -> Prepared {
        Prepared { url: self.url("chatconversation"), ..earlier.clone() }
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of an API.
    pub fn url(&self, api: &str) -> String {
        format!("http://{}/?srv=chatserver&api={api}", self.address)
    }

    /// Returns what signs this person's requests and subscriptions.
    pub fn credentials(&self) -> Credentials {
        Credentials::new(self.user, self.station, &self.api_key)
    }

    /// Prepares a signed request with exactly this body.
    pub fn prepares_bytes(&self, api: &str, body: Vec<u8>) -> Prepared {
        self.prepares_bytes_for("chatserver", api, body)
    }

    /// Prepares a signed request with exactly this body for an API of any service.
    pub fn prepares_bytes_for(&self, srv: &str, api: &str, body: Vec<u8>) -> Prepared {
        let signature = self.credentials().sign_for(srv, api, &body);
        let prepared = Prepared {
            url: format!("http://{}/?srv={srv}&api={api}", self.address),
            headers: HeaderMap::new(),
            body,
            http: self.http.clone(),
        };
        prepared
            .with_header("content-type", "application/json")
            .with_header("ozeki-station", self.station.as_str())
            .with_header("ozeki-user", self.user.as_str())
            .with_header("ozeki-signature", signature.as_str())
    }

    /// Prepares a signed request for an action, with a timestamp and a new nonce.
    pub fn prepares(&self, api: &str, action: &str, fields: &Value) -> Prepared {
        self.prepares_for("chatserver", api, action, fields)
    }

    /// Prepares a signed request for an action of an API of any service.
    pub fn prepares_for(&self, srv: &str, api: &str, action: &str, fields: &Value) -> Prepared {
        let mut body = json!({ "action": action });
        let all = body.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        all.entry("clientversioncode").or_insert(json!(3));
        all.entry("timestamp").or_insert(json!(self.date()));
        all.entry("nonce").or_insert(json!(Uuid::new_v4().to_string()));
        self.prepares_bytes_for(srv, api, body.to_string().into_bytes())
    }

    /// Prepares a request without a station, in its headers and in its signature.
    pub fn prepares_without_station(&self, srv: &str, api: &str, body: &Value) -> Prepared {
        let prepared = self.prepares_bytes_for(srv, api, body.to_string().into_bytes());
        // `Credentials` always sign for a station.
        let signature = SigningKey::new(&self.api_key).sign(&Signed {
            srv,
            api,
            user: self.user,
            station: None,
            body: &prepared.body,
        });
        prepared.without_header("ozeki-station").with_header("ozeki-signature", signature.as_str())
    }

    /// Prepares the addition of a message to an instance of this person's conversation.
    pub fn prepares_add(&self, instance: &str, message: &Value) -> Prepared {
        let fields = json!({
            "conversationid": self.conversation, "instance": instance, "message": message,
        });
        self.prepares("chatconversation", "add", &fields)
    }

    /// Prepares a download of this person's conversation from its first entry on.
    pub fn prepares_download(&self) -> Prepared {
        let fields = json!({ "conversationid": self.conversation });
        self.prepares("chatconversation", "download", &fields)
    }

    /// Requests an action of `chatconversation`.
    pub async fn asks(&self, action: &str, fields: Value) -> Answer {
        self.prepares("chatconversation", action, &fields).sent().await
    }

    /// Requests an action on this person's conversation.
    pub async fn does(&self, action: &str, mut fields: Value) -> Answer {
        let all = fields.as_object_mut().unwrap();
        all.entry("conversationid").or_insert(json!(self.conversation));
        self.asks(action, fields).await
    }

    pub async fn logs_in(&self) -> Answer {
        let login = Prepared {
            url: self.url("chatlogin"),
            headers: HeaderMap::new(),
            body: json!({ "action": "login", "apikey": self.api_key.as_str() }).to_string().into(),
            http: self.http.clone(),
        };
        let login = login.with_header("content-type", "application/json");
        login.with_header("ozeki-station", self.station.as_str()).sent().await
    }

    /// Returns the conversations that this person sees.
    pub async fn lists(&self) -> Vec<Value> {
        let listed = self.asks("list", json!({})).await.ok();
        listed["conversations"].as_array().unwrap().clone()
    }

    /// Returns this person's conversation, as the person sees it.
    pub async fn sees(&self) -> Value {
        let listed = self.lists().await;
        let mine = listed.into_iter().find(|one| one["id"] == self.conversation);
        mine.expect("the conversation is listed")
    }

    pub async fn instance(&self) -> String {
        self.sees().await["instance"].as_str().unwrap().to_owned()
    }

    /// Sends a message and returns its ID.
    pub async fn sends(&self, text: &str) -> String {
        let message = message(text, &self.date());
        self.adds(&message).await.ok();
        message["ID"].as_str().unwrap().to_owned()
    }

    /// Sends messages one by one until the server refuses one with 503 or is gone. Calls `acknowledged` with the ID of
    /// each stored message, and returns the ID of the one that was not.
    pub async fn sends_until_refused(
        &self,
        text: impl Fn(usize) -> String,
        mut acknowledged: impl FnMut(String),
    ) -> String {
        let instance = self.instance().await;
        for number in 0.. {
            let message = message(&text(number), &self.date());
            let id = message["ID"].as_str().unwrap().to_owned();
            let answer = self.prepares_add(&instance, &message).tried().await;
            // The server may close an idle connection while the next request is in flight.
            let Some(answer) = answer.ok().filter(|answer| answer.status != 503) else { return id };
            answer.ok();
            acknowledged(id);
        }
        unreachable!()
    }

    /// Registers a workspace.
    pub async fn registers(&self, name: &str) -> Answer {
        self.prepares_to_register(name).sent().await
    }

    /// Prepares the registration of a workspace, with all headers and a timestamp.
    pub fn prepares_to_register(&self, name: &str) -> Prepared {
        let fields = json!({ "workspacename": name });
        self.prepares_for("chatowner", "workspace", "workspaceregister", &fields)
    }

    /// Adds exactly this message to the current instance.
    pub async fn adds(&self, message: &Value) -> Answer {
        let instance = self.instance().await;
        self.does("add", json!({ "instance": instance, "message": message })).await
    }

    /// Clears the current instance.
    pub async fn clears(&self) -> Answer {
        let instance = self.instance().await;
        self.does("clear", json!({ "instance": instance })).await
    }

    /// Downloads all messages, but no reports, because those are made in the background.
    pub async fn downloads(&self) -> Answer {
        self.does("download", json!({ "firstreportdate": "9999-01-01 00:00:00" })).await
    }

    /// Returns the texts of all messages, oldest first.
    pub async fn reads(&self) -> Vec<String> {
        let page = self.downloads().await.ok();
        let text = |message: &Value| {
            let data = BASE64.decode(message["Data"].as_str().unwrap()).unwrap();
            String::from_utf8(data).unwrap()
        };
        page["messages"].as_array().unwrap().iter().map(text).collect()
    }
}
