//! The API as an OpenAPI 3.1 document: one path, with a branch of the body for each `action`.
//!
//! It is made from the dispatch table, whose rows name the types that describe bodies and answers. OpenAPI knows no two
//! operations with the same method and path, so a body's schema can't depend on the query: names that two APIs share, such as
//! `list`, have one schema with a branch for each.

pub(super) mod answers;
pub(super) mod requests;
mod texts;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderMap, Response};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::actions::{ACTIONS, Action, AuthScheme};
use crate::domain::{Parse as _, Timestamp};
use crate::web::{Caching, File};

const SCHEMAS: &str = "#/components/schemas/";

const ABOUT: &str = "An end-to-end encrypted chat server that speaks the Ozeki Chat Client API. `srv` and `api` in the query and \
    `action` in the body choose the operation. Every API but chatlogin and chatregister requires a signature, except chatnotification, where it is optional: the lower-case hexadecimal HMAC-SHA256, \
    with the API key as key, of srv, api, user id, station and body, joined by line feeds. docs/protocol.md in the \
    server's sources has the rules, the WebSocket listener included.";

/// The refusals of the protocol by HTTP status (docs/protocol.md#table-c).
const REFUSALS: &[(&str, &[&str])] = &[
    ("400", &["bad_request", "unknown_action", "invalid_field"]),
    (
        "401",
        &[
            "invalid_credentials",
            "invalid_invitation",
            "invalid_signature",
            "timestamp_out_of_range",
        ],
    ),
    ("403", &["not_friends", "quota_exceeded", "blocked"]),
    ("404", &["conversation_not_found", "unknown_api"]),
    ("405", &["method_not_allowed"]),
    ("409", &["instance_changed", "message_conflict", "workspace_taken", "replayed"]),
    ("413", &["too_large"]),
    ("415", &["unsupported_media_type"]),
    ("429", &["rate_limited"]),
    ("500", &["internal"]),
    ("503", &["storage_full", "unavailable"]),
];

static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}", document()));

/// Returns the document as JSON text.
pub fn text() -> &'static str {
    &DOCUMENT
}

/// Answers with the document.
pub(super) async fn serve(headers: HeaderMap) -> Response<Body> {
    static FILE: LazyLock<File> =
        LazyLock::new(|| File::new("application/json", text().as_bytes().to_vec()));
    FILE.respond(&headers, Caching::Revalidated)
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut schemas = Map::new();
    for action in ACTIONS {
        schemas.insert(body_name(action), body(action, &mut generator));
        schemas.insert(answer_name(action), answer(action, &mut generator));
    }
    for name in ACTIONS.iter().map(|action| action.name) {
        let branches: Vec<_> = named(name).map(|action| reference(&body_name(action))).collect();
        if branches.len() > 1 {
            schemas.insert(schema_of(name), json!({ "anyOf": branches }));
        }
    }
    schemas.insert("Refusal".to_owned(), refusal(&mut generator));
    schemas.extend(generator.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "chatserver",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "./" }],
        "paths": { "/": { "post": operation() } },
        "components": { "schemas": schemas },
    })
}

/// Returns the one operation, which serves every action of every API.
fn operation() -> Value {
    let names: BTreeSet<_> = ACTIONS.iter().map(|action| action.name).collect();
    let mapping: Map<_, _> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!(SCHEMAS.to_owned() + &schema_of(name))))
        .collect();
    let bodies: Vec<_> = mapping.values().map(|path| json!({ "$ref": path })).collect();
    let answers: Vec<_> = ACTIONS.iter().map(|action| reference(&answer_name(action))).collect();
    let mut responses = Map::new();
    let ok = "The answer of the action. If the operator set `http.error_status = \"always_200\"`, also every refusal.";
    let ok_schema = json!({ "anyOf": [{ "anyOf": answers }, reference("Refusal")] });
    responses.insert("200".to_owned(), response(ok, &ok_schema));
    for (status, codes) in REFUSALS {
        let description = format!("Refused: {}", codes.join(", "));
        let mut response = response(&description, &reference("Refusal"));
        if matches!(*status, "429" | "503") {
            response["headers"]["Retry-After"] =
                json!({ "description": "Seconds to wait", "schema": { "type": "integer" } });
        }
        responses.insert((*status).to_owned(), response);
    }
    json!({
        "operationId": "call",
        "summary": "Carry out an action of an API",
        "parameters": parameters(),
        "requestBody": {
            "required": true,
            "content": { "application/json": {
                "schema": { "oneOf": bodies, "discriminator": { "propertyName": "action", "mapping": mapping } },
            } },
        },
        "responses": responses,
    })
}

fn response(description: &str, schema: &Value) -> Value {
    json!({
        "description": description,
        "headers": { "X-Request-Id": {
            "description": "Names the request in the server's log",
            "schema": { "type": "string", "format": "uuid" },
        } },
        "content": { "application/json": { "schema": schema } },
    })
}

fn parameters() -> Value {
    let one_of = |value: fn(&Action) -> &'static str| {
        let values: BTreeSet<_> = ACTIONS.iter().map(value).collect();
        json!({ "type": "string", "enum": values })
    };
    let parameter = |place: &str, name: &str, is_required: bool, about: &str, schema: Value| json!({ "name": name, "in": place, "required": is_required, "description": about, "schema": schema });
    let hex = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    json!([
        parameter("query", "srv", true, "The service", one_of(|action| action.api.srv)),
        parameter("query", "api", true, "The API", one_of(|action| action.api.name)),
        parameter(
            "header",
            "Ozeki-Station",
            false,
            "The device. Every API but workspace and chatregister requires it.",
            hex(texts::HEX_32)
        ),
        parameter(
            "header",
            "Ozeki-User",
            false,
            "The user id. Every API but chatlogin, chatregister and chatnotification requires it.",
            hex(texts::HEX_32)
        ),
        parameter(
            "header",
            "Ozeki-Signature",
            false,
            "The signature. Every API but chatlogin, chatregister and chatnotification requires it.",
            hex(texts::HEX_64)
        ),
    ])
}

/// Returns the schema of an action's body: the fields of all bodies, then the action's own.
fn body(action: &Action, generator: &mut SchemaGenerator) -> Value {
    let dated = match action.api.auth {
        AuthScheme::ApiKey | AuthScheme::Invitation => None,
        AuthScheme::Signature | AuthScheme::Station => Some(true),
        AuthScheme::SignatureAlone => Some(false),
    };
    let mut schema = Value::from((action.request)(generator));
    for property in schema["properties"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        flatten(property);
    }
    let mut first = Map::new();
    first.insert("action".to_owned(), json!({ "const": action.name }));
    let mut required = vec!["action"];
    if let Some(is_required) = dated {
        first.insert("timestamp".to_owned(), generator.subschema_for::<Timestamp>().into());
        first["timestamp"]["description"] =
            json!(format!("The client's clock: {}", Timestamp::EXPECTED));
        required.extend(is_required.then_some("timestamp"));
    }
    first.insert("clientversioncode".to_owned(), json!({ "description": "Has no effect" }));
    extend(&mut schema, first, &required);
    let api = action.api;
    schema["title"] = json!(format!("{} of {}", action.name, api.name));
    schema["x-srv"] = json!(api.srv);
    schema["x-api"] = json!(api.name);
    schema["x-answer"] = json!(SCHEMAS.to_owned() + &answer_name(action));
    schema
}

/// Returns the schema of an action's answer: `status` and `errormessage`, then the action's own fields.
fn answer(action: &Action, generator: &mut SchemaGenerator) -> Value {
    let mut schema = Value::from((action.answer)(generator));
    let mut first = Map::new();
    first.insert("status".to_owned(), json!({ "const": "OK" }));
    first.insert("errormessage".to_owned(), json!({ "const": "" }));
    extend(&mut schema, first, &["status", "errormessage"]);
    schema["title"] = json!(format!("Answer to {} of {}", action.name, action.api.name));
    schema
}

/// Turns an `anyOf` whose first branch is an `anyOf` itself into one list.
fn flatten(schema: &mut Value) {
    let branches = schema.get_mut("anyOf").and_then(Value::as_array_mut);
    let Some(branches) = branches else { return };
    if let Some(inner) = branches[0].get("anyOf").and_then(Value::as_array).cloned() {
        branches.splice(..1, inner);
    }
}

/// Puts properties before those of an object schema.
fn extend(schema: &mut Value, mut first: Map<String, Value>, required: &[&str]) {
    if let Some(own) = schema["properties"].as_object() {
        first.extend(own.clone());
    }
    let own = schema["required"].as_array().cloned().unwrap_or_default();
    let required: Vec<_> = required.iter().map(|name| json!(name)).chain(own).collect();
    schema["properties"] = Value::Object(first);
    schema["required"] = Value::Array(required);
}

fn refusal(generator: &mut SchemaGenerator) -> Value {
    let codes: Vec<_> = REFUSALS.iter().flat_map(|(_, codes)| *codes).collect();
    let date = generator.subschema_for::<Timestamp>();
    let conversation = generator.subschema_for::<answers::Conversation>();
    json!({
        "type": "object",
        "description": "Why the request was not carried out",
        "properties": {
            "status": { "const": "ERROR" },
            "errormessage": { "type": "string", "description": "One sentence for people" },
            "errorcode": { "enum": codes },
            "servertime": date,
            "conversation": conversation,
        },
        "required": ["status", "errormessage", "errorcode"],
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": SCHEMAS.to_owned() + name })
}

fn body_name(action: &Action) -> String {
    format!("{}.{}", action.api.name, action.name)
}

fn answer_name(action: &Action) -> String {
    body_name(action) + ".answer"
}

fn named(name: &str) -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().filter(move |action| action.name == name)
}

/// Returns the name of the schema of all bodies with this `action`.
fn schema_of(name: &str) -> String {
    let mut actions = named(name);
    match (actions.next(), actions.next()) {
        (Some(action), None) => body_name(action),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusals_are_those_of_the_protocol() {
        let protocol = include_str!("../../docs/protocol.md");
        let mut listed = REFUSALS.iter().flat_map(|(status, codes)| {
            codes.iter().map(move |code| format!("| {status} | `{code}` | "))
        });
        assert!(listed.all(|row| protocol.contains(&row)));
        let table = protocol
            .split_once("### Table [C]")
            .unwrap()
            .1
            .split_once("\n\n`storage_full`")
            .unwrap()
            .0;
        let rows =
            table.lines().filter(|line| line.starts_with("| ") && line.contains("| `")).count() - 1;
        assert_eq!(rows, REFUSALS.iter().map(|(_, codes)| codes.len()).sum::<usize>());
    }

    /// Returns the texts behind each `$ref`, at any depth.
    fn references(value: &Value) -> Vec<&str> {
        match value {
            Value::Object(fields) => {
                let own = fields.get("$ref").and_then(Value::as_str);
                own.into_iter().chain(fields.values().flat_map(references)).collect()
            }
            Value::Array(items) => items.iter().flat_map(references).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_reference_names_a_schema() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let references = references(&document);
        assert!(references.len() > ACTIONS.len());
        for reference in references {
            assert!(schemas.contains_key(reference.strip_prefix(SCHEMAS).unwrap()), "{reference}");
        }
    }
}
