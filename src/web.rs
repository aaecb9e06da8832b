//! The web client: the files of `web/`, embedded in the binary and served at `/app/`.
//!
//! Scripts and styles also have names below the hash of all files. The page refers to them by these, so a browser keeps
//! them for good and takes new ones only with a new page. Every other file is asked for again by its entity tag.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;
use sha2::{Digest as _, Sha256};

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

/// How long a browser may use a file without asking for it again.
#[derive(Clone, Copy)]
pub(crate) enum Caching {
    /// For good: another version has another name.
    Immutable,
    /// Not at all. Its entity tag spares sending it again.
    Revalidated,
}

/// A file as it is sent, with and without compression.
pub(crate) struct File {
    content_type: &'static str,
    /// The policy of a page and of what it loads.
    policy: Option<HeaderValue>,
    /// Weak, as it stands for both forms.
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
            // Any other file of the folder is none of the client's, such as a backup of an editor.
            .filter(|name| content_type(name).is_some())
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
            let file = File::embedded(&name, content);
            (name, file)
        });
        Self { by_name: by_name.collect(), hash }
    }

    fn find(&self, path: &str) -> Option<(&File, Caching)> {
        let hashed = path.strip_prefix(self.hash.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let name = match hashed.unwrap_or(path) {
            "" => PAGE,
            name => name,
        };
        let caching = if hashed.is_some() { Caching::Immutable } else { Caching::Revalidated };
        Some((self.by_name.get(name)?, caching))
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
    fn embedded(name: &str, content: Vec<u8>) -> Self {
        let content_type = content_type(name).expect("the other files are left out");
        let policy =
            if name == INSTALL { POLICY.to_owned() } else { POLICY.to_owned() + TRUSTED_TYPES };
        let policy = HeaderValue::from_str(&policy).expect("a policy is ASCII");
        Self { policy: Some(policy), ..Self::new(content_type, content) }
    }

    pub(crate) fn new(content_type: &'static str, content: Vec<u8>) -> Self {
        let etag = format!("W/\"{}\"", &hex::encode(Sha256::digest(&content))[..32]);
        Self {
            content_type,
            policy: None,
            etag: HeaderValue::from_str(&etag).expect("hexadecimal digits are ASCII"),
            gzip: compressed(&content).into(),
            plain: content.into(),
        }
    }

    /// Answers a request with these headers. axum drops the body for HEAD.
    pub(crate) fn respond(&self, headers: &HeaderMap, caching: Caching) -> Response<Body> {
        let is_known = is_known(headers, &self.etag);
        let gzips = accepts(headers, &ACCEPT_ENCODING, "gzip");
        let body = match (is_known, gzips) {
            (true, _) => Body::empty(),
            (false, true) => Body::from(self.gzip.clone()),
            (false, false) => Body::from(self.plain.clone()),
        };
        let mut response = Response::new(body);
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let caching = match caching {
            Caching::Immutable => "public, max-age=31536000, immutable",
            Caching::Revalidated => "no-cache",
        };
        let sent = response.headers_mut();
        sent.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(policy) = &self.policy {
            sent.insert(CONTENT_SECURITY_POLICY, policy.clone());
        }
        sent.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        sent.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        sent.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
        sent.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        sent.insert(ETAG, self.etag.clone());
        if gzips && !is_known {
            sent.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "webmanifest" => "application/manifest+json",
        _ => return None,
    })
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(content).and_then(|()| gzip.finish()).expect("memory takes every byte")
}

/// Finds the file of a path below `/app/`.
pub(crate) fn find(path: &str) -> Option<(&'static File, Caching)> {
    FILES.find(path)
}

/// Whether a request is one of a browser that opens the server's address.
pub(crate) fn is_browser(method: &Method, headers: &HeaderMap) -> bool {
    [Method::GET, Method::HEAD].contains(method) && accepts(headers, &ACCEPT, "text/html")
}

/// Leads a browser from a path of the API to the client. The location is relative, so that a proxy may serve all of it
/// below a path of its own.
pub(crate) fn to_client(path: &str) -> Response<Body> {
    let location = if path.starts_with("/ozeki/") { "../app/" } else { "app/" };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(location));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Returns the entries of a header whose value is a list.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether a header accepts a content coding or media type: a weight of 0 refuses it.
fn accepts(headers: &HeaderMap, name: &HeaderName, value: &str) -> bool {
    entries(headers, name).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let is_value = parts.next().is_some_and(|first| first.eq_ignore_ascii_case(value));
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        is_value && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// Whether the client has the file with this entity tag. The comparison is the weak one (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let etag = opaque(etag.as_bytes());
    entries(headers, &IF_NONE_MATCH).any(|entry| entry == "*" || opaque(entry.as_bytes()) == etag)
}
