//! Benchmarks the parts of the most frequent requests, each on its own: `cargo bench`.
//!
//! `chatserver-load` measures the whole server. These benchmarks say which part has become slower.

use std::hint::black_box;

use chatserver::clock::Clock;
use chatserver::domain::{ConversationId, Data, Instance, Kind, MessageId, StationId, Timestamp};
use chatserver::fields::Fields;
use chatserver::signature::Signed;
use chatserver::store::Schema;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use population::{Database, Person, Population, Shape, Talk};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[path = "../load/population.rs"]
#[expect(dead_code, reason = "the load generator uses further shapes")]
mod population;

/// Why a population could not be made.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of Data of a message.
const BYTES: usize = 300;

/// Messages of a batch, each in a conversation of its own.
const BATCH: usize = 64;

/// A database in a temporary folder, and the users in it.
struct World {
    runtime: Runtime,
    database: Database,
    population: Population,
    _folder: TempDir,
}

impl World {
    fn new(shape: Shape) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("chat.db").display());
        let (database, population) = runtime.block_on(async {
            let database = Database::open(&url, Schema::Migrate).await.expect("a database");
            let population = database.add(shape).await.expect("a population");
            database.fill(&population, 1, BYTES, false).await.expect("messages");
            (database, population)
        });
        Self { runtime, database, population, _folder: folder }
    }

    fn sender(&self, talk: &Talk) -> &Person {
        &self.population.people[talk.people[0]]
    }

    /// Returns the body of a request that adds a message, as clients send it.
    fn request(&self) -> String {
        let talk = &self.population.talks[0];
        let message = talk.message(self.sender(talk), BYTES).expect("a message").message;
        let message = json!({
            "ID": message.id.as_str(), "Type": message.kind, "Created": message.created.to_string(),
            "ValidUntil": message.valid_until, "Data": message.data,
        });
        json!({
            "action": "add", "conversationid": talk.conversation.as_str(),
            "instance": talk.instance.as_str(), "message": message.to_string(),
            "clientversioncode": 3, "timestamp": Clock::system().now().to_string(),
        })
        .to_string()
    }
}

/// Verifies the HMAC of a request.
fn signature_check(criterion: &mut Criterion) {
    let world = World::new(Shape::Pairs(1));
    let credentials = &world.sender(&world.population.talks[0]).credentials;
    let (key, body) = (credentials.key(), world.request());
    let signed = Signed {
        srv: "chatserver",
        api: "chatconversation",
        user: credentials.user,
        station: Some(credentials.station),
        body: body.as_bytes(),
    };
    let signature = credentials.sign("chatconversation", body.as_bytes());
    assert!(key.verifies(&signed, &signature), "the signature is right");
    criterion.bench_function("signature check", |bencher| {
        bencher.iter(|| key.verifies(black_box(&signed), &signature));
    });
}

/// Reads the fields of a request from its body.
fn request_parse(criterion: &mut Criterion) {
    let world = World::new(Shape::Pairs(1));
    let body = world.request();
    assert_eq!(parse(body.as_bytes()).expect("it is well formed").2.len(), BYTES);
    criterion.bench_function("request parse", |bencher| {
        bencher.iter(|| parse(black_box(body.as_bytes())));
    });
}

fn parse(body: &[u8]) -> Result<(ConversationId, Instance, String), chatserver::error::Error> {
    let fields = Fields::of_body(body)?;
    fields.required::<Timestamp>("timestamp")?;
    fields.optional::<StationId>("stationid")?;
    let (conversation, instance) =
        (fields.required("conversationid")?, fields.required("instance")?);
    let data = fields.object("message", "message.", |message| {
        message.required::<MessageId>("ID")?;
        message.required::<Kind>("Type")?;
        message.required::<Timestamp>("Created")?;
        message.present::<Data>("Data")
    })?;
    Ok((conversation, instance, data.into_string()))
}

/// Reads conversation objects as the store writes them: one, and a list of 20.
fn conversation_serialization(criterion: &mut Criterion) {
    let world = World::new(Shape::Ring { people: 21, neighbours: 10 });
    let (talk, store) = (&world.population.talks[0], &world.database.store);
    let user = world.sender(talk).credentials.user;
    let mut group = criterion.benchmark_group("conversation serialization");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one", |bencher| {
        bencher.to_async(&world.runtime).iter(async || {
            let shown = store.conversation(talk.conversation, user).await;
            shown.expect("the database answers").expect("it is there")
        });
    });
    group.throughput(Throughput::Elements(20));
    group.bench_function("list of 20", |bencher| {
        bencher
            .to_async(&world.runtime)
            .iter(async || store.conversations(user).await.expect("the database answers"));
    });
    group.finish();
}

/// Makes a batch of 64 messages durable.
fn batch_apply(criterion: &mut Criterion) {
    let world = World::new(Shape::Pairs(BATCH));
    let mut group = criterion.benchmark_group("batch apply");
    group.throughput(Throughput::Elements(u64::try_from(BATCH).expect("a small number")));
    group.bench_function("64 messages", |bencher| {
        bencher.to_async(&world.runtime).iter(async || {
            let adding = world.population.talks.iter().map(|talk| add(&world, talk));
            join_all(adding).await
        });
    });
    group.finish();
}

async fn add(world: &World, talk: &Talk) {
    let message = talk.message(world.sender(talk), BYTES).expect("a message");
    let added = world.database.store.add_message(message).await;
    added.expect("the database answers");
}

criterion_group!(hot_path, signature_check, request_parse, conversation_serialization, batch_apply);
criterion_main!(hot_path);
