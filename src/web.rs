//! The web client: the files of `web/`, embedded in the binary and served at `/app/`.
//!
//! Scripts and styles also have names below the hash of all files. The page refers to them by these, so a browser keeps
//! them for good and takes new ones only with a new page. Every other file is asked for again by its entity tag.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;
use sha2::{Digest as _, Sha256};

use crate::app::App;

#[derive(RustEmbed)]
#[folder = "web/"]
struct Embedded;

const PAGE: &str = "index.html";

/// The page that registers the service worker. `register` takes a `TrustedScriptURL`, which `trusted-types 'none'` never
/// makes, so this page, which shows no message, goes without that rule.
const INSTALL: &str = "install.html";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' blob:; manifest-src 'self'; worker-src 'self'; form-action 'none'; frame-ancestors 'none'; \
     base-uri 'none'";

const TRUSTED_TYPES: &str = "; require-trusted-types-for 'script'; trusted-types 'none'";

/// A file as it is sent, with and without compression.
struct File {
    content_type: &'static str,
    policy: HeaderValue,
    etag: HeaderValue,
    plain: Bytes,
    gzip: Bytes,
}

/// The files by name, and the hash of all of them.
struct Files {
    by_name: HashMap<String, File>,
    hash: String,
}

static FILES: LazyLock<Files> = LazyLock::new(Files::embedded);

impl Files {
    fn embedded() -> Self {
        let mut files: Vec<_> = Embedded::iter()
            .filter_map(|name| Some((name.to_string(), Embedded::get(&name)?.data)))
            .collect();
        files.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut hash = Sha256::new();
        for (name, content) in &files {
            hash.update(name);
            hash.update([0]);
            hash.update(content);
        }
        let hash = hex::encode(hash.finalize())[..16].to_owned();
        let by_name = files.into_iter().map(|(name, content)| {
            let content = if name == PAGE { hashed(&content, &hash) } else { content.into_owned() };
            let file = File::new(&name, content);
            (name, file)
        });
        Self { by_name: by_name.collect(), hash }
    }

    /// Finds the file of a path below `/app/`, and whether the path has the hash of all files.
    fn find(&self, path: &str) -> Option<(&File, bool)> {
        let hashed = path.strip_prefix(self.hash.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let name = match hashed.unwrap_or(path) {
            "" => PAGE,
            name => name,
        };
        Some((self.by_name.get(name)?, hashed.is_some()))
    }
}

/// Refers to scripts and styles by their names below the hash.
fn hashed(page: &[u8], hash: &str) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let lines = page.lines().map(|line| {
        let is_hashed = line.contains(".js\"") || line.contains(".css\"");
        let line = if is_hashed {
            line.replace("href=\"", &format!("href=\"{hash}/"))
                .replace("src=\"", &format!("src=\"{hash}/"))
        } else {
            line.to_owned()
        };
        line + "\n"
    });
    lines.collect::<String>().into_bytes()
}

impl File {
    fn new(name: &str, content: Vec<u8>) -> Self {
        let policy =
            if name == INSTALL { POLICY.to_owned() } else { POLICY.to_owned() + TRUSTED_TYPES };
        let etag = format!("\"{}\"", &hex::encode(Sha256::digest(&content))[..32]);
        Self {
            content_type: content_type(name),
            policy: HeaderValue::from_str(&policy).expect("a policy is ASCII"),
            etag: HeaderValue::from_str(&etag).expect("hexadecimal digits are ASCII"),
            gzip: compressed(&content).into(),
            plain: content.into(),
        }
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("webmanifest") => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(content).and_then(|()| gzip.finish()).expect("memory takes every byte")
}

/// Returns the routes of the client.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/app", get(async || to_client("/app")))
        .route("/app/", get(async |headers: HeaderMap| serve("", &headers)))
        .route(
            "/app/{*path}",
            get(async |Path(path): Path<String>, headers: HeaderMap| serve(&path, &headers)),
        )
}

/// Whether a request is one of a browser that opens the server's address.
pub(crate) fn is_browser(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

/// Leads a browser from a path of the API to the client. The way is relative, so that a proxy may serve all of it below a
/// path of its own.
pub(crate) fn to_client(path: &str) -> Response<Body> {
    let location = if path.starts_with("/ozeki/") { "../app/" } else { "app/" };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(location));
    response
}

/// Returns the entries of a header whose value is a list.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether the client accepts gzip: `gzip;q=0` refuses it.
fn takes_gzip(headers: &HeaderMap) -> bool {
    entries(headers, &ACCEPT_ENCODING).any(|entry| {
        let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// Whether the client has the file with this entity tag. The comparison is the weak one (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    entries(headers, &IF_NONE_MATCH)
        .any(|entry| entry == "*" || entry.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

fn serve(path: &str, headers: &HeaderMap) -> Response<Body> {
    let Some((file, is_immutable)) = FILES.find(path) else {
        let mut response = Response::new(Body::from("no such file\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let is_known = is_known(headers, &file.etag);
    let gzips = takes_gzip(headers);
    let body = match (is_known, gzips) {
        (true, _) => Body::empty(),
        (false, true) => Body::from(file.gzip.clone()),
        (false, false) => Body::from(file.plain.clone()),
    };
    let mut response = Response::new(body);
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let cache = if is_immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let sent = response.headers_mut();
    sent.insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    sent.insert(CONTENT_SECURITY_POLICY, file.policy.clone());
    sent.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    sent.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    sent.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    sent.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    sent.insert(ETAG, file.etag.clone());
    if gzips && !is_known {
        sent.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
