//! The web client as the server hands it out.

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG,
    HeaderMap, HeaderName, IF_NONE_MATCH, LOCATION,
};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};

use crate::harness::world::World;

/// Asks like a browser that follows no redirection.
async fn gets(world: &World, path: &str, headers: &[(HeaderName, &str)]) -> Response {
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        sent.insert(name.clone(), value.parse().unwrap());
    }
    let browser = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    browser.get(format!("http://{}{path}", world.address)).headers(sent).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &HeaderName) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Returns what the page refers to.
fn references(page: &str) -> Vec<&str> {
    let parts = page.split(['"']).skip(1).step_by(2);
    parts.filter(|part| part.contains('.') && !part.contains([' ', ','])).collect()
}

#[tokio::test]
async fn a_browser_is_led_to_the_client_and_curl_is_not() {
    let world = World::start().await;
    for (path, location) in
        [("/", "app/"), ("/index.php", "app/"), ("/ozeki/", "../app/"), ("/app", "app/")]
    {
        let browser = gets(&world, path, &[(ACCEPT, "text/html,application/xhtml+xml")]).await;
        let led = (browser.status(), header(&browser, &LOCATION));
        assert_eq!(led, (StatusCode::FOUND, location), "{path}");
    }
    for accepted in ["*/*", "text/html;q=0, application/json"] {
        assert_eq!(gets(&world, "/", &[(ACCEPT, accepted)]).await.status(), 405, "{accepted}");
    }
}

#[tokio::test]
async fn every_file_that_the_page_names_is_there() {
    let world = World::start().await;
    let page = gets(&world, "/app/", &[]).await;
    assert_eq!(header(&page, &CACHE_CONTROL), "no-cache");
    let page = page.text().await.unwrap();
    let names = references(&page);
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let file = gets(&world, &format!("/app/{name}"), &[]).await;
        assert_eq!(file.status(), 200, "{name}");
        let is_hashed = name.contains('/');
        assert_eq!(is_hashed, [".js", ".css"].iter().any(|end| name.ends_with(end)), "{name}");
        let cache = if is_hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
        assert_eq!(header(&file, &CACHE_CONTROL), cache, "{name}");
    }
    for name in ["nothing.js", "%ff", "../Cargo.toml", "%2e%2e/Cargo.toml", "md5%2ejs"] {
        let missing = gets(&world, &format!("/app/{name}"), &[]).await;
        assert_eq!(missing.status(), 404, "{name}");
        assert!(missing.text().await.unwrap().contains("unknown_api"), "{name}");
    }
}

#[tokio::test]
async fn a_page_may_load_only_from_its_own_server_and_run_no_text_as_code() {
    let world = World::start().await;
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; \
         manifest-src 'self'; worker-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
    let trusted = format!("{policy}; require-trusted-types-for 'script'; trusted-types 'none'");
    for (path, expected) in [("/app/", trusted.as_str()), ("/app/install.html", policy)] {
        let page = gets(&world, path, &[]).await;
        assert_eq!(header(&page, &CONTENT_SECURITY_POLICY), expected, "{path}");
        assert_eq!(page.headers()["x-content-type-options"], "nosniff");
        assert_eq!(page.headers()["referrer-policy"], "no-referrer");
    }
}

#[tokio::test]
async fn a_known_file_is_not_sent_again_and_a_new_one_is_sent_compressed() {
    let world = World::start().await;
    let plain = gets(&world, "/app/sw.js", &[]).await;
    assert_eq!(header(&plain, &CONTENT_ENCODING), "");
    let etag = header(&plain, &ETAG).to_owned();
    let plain = plain.bytes().await.unwrap();
    let gzip = gets(&world, "/app/sw.js", &[(ACCEPT_ENCODING, "br, gzip;q=0.5")]).await;
    assert_eq!(header(&gzip, &CONTENT_ENCODING), "gzip");
    assert!(gzip.bytes().await.unwrap().len() < plain.len());
    let refused = gets(&world, "/app/sw.js", &[(ACCEPT_ENCODING, "br, gzip;q=0")]).await;
    assert_eq!(refused.bytes().await.unwrap(), plain);
    for tags in [etag.clone(), format!("\"other\", {}", &etag[2..]), "*".to_owned()] {
        let known = gets(&world, "/app/sw.js", &[(IF_NONE_MATCH, &tags)]).await;
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED, "{tags}");
        assert_eq!(known.bytes().await.unwrap().len(), 0);
    }
    let unknown = gets(&world, "/app/sw.js", &[(IF_NONE_MATCH, "\"other\"")]).await;
    assert_eq!(unknown.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_first_load_takes_at_most_60_kb() {
    let world = World::start().await;
    let gzip = [(ACCEPT_ENCODING, "gzip")];
    let page = gets(&world, "/app/", &[]).await.text().await.unwrap();
    let mut bytes = gets(&world, "/app/", &gzip).await.bytes().await.unwrap().len();
    for name in references(&page) {
        bytes += gets(&world, &format!("/app/{name}"), &gzip).await.bytes().await.unwrap().len();
    }
    assert!(bytes <= 60_000, "{bytes} bytes");
}

#[tokio::test]
async fn the_client_can_be_turned_off() {
    let world = World::with(&[("http.web", "false")]).await;
    assert_eq!(gets(&world, "/app/", &[]).await.status(), 404);
    assert_eq!(gets(&world, "/", &[(ACCEPT, "text/html")]).await.status(), 405);
}
