//! The admin page: how an operator enters, and what keeps others out.

mod audit;
mod changes;
mod charts;
mod commands;
mod invitations;
mod retention;
mod usage;
mod users;

use chatserver::domain::AdminToken;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, ORIGIN};

use crate::harness::operator::Operator;
use crate::harness::sockets::{connected, rest_of};
use crate::harness::world::World;

/// Pages and forms that need a session.
const PAGES: &[&str] = &[
    "/",
    "/audit",
    "/users",
    "/users/alice@example.com",
    "/users/alice@example.com/delete",
    "/invitations",
    "/usage",
    "/retention",
];
const FORMS: &[&str] = &[
    "/users/alice@example.com/stations/revoke",
    "/users/alice@example.com/disable",
    "/users/alice@example.com/enable",
    "/users/alice@example.com/export",
    "/users/alice@example.com/delete",
    "/invitations",
    "/invitations/revoke",
    "/retention/preview",
    "/retention/rule",
    "/leave",
];

/// Returns the entries of the audit log whose action begins like this.
async fn audited(world: &World, action: &str) -> Vec<String> {
    let entries = format!(
        "SELECT concat(action, ' by ', via, ' ', operator) FROM audit WHERE action LIKE '{action}%' ORDER BY number"
    );
    world.opens_database().await.texts(&entries).await
}

#[tokio::test]
async fn a_link_opens_the_page_once_and_only_by_its_button() {
    let world = World::with_admin_page().await;
    let token = world.admin_token().await;
    let mut operator = Operator::at(world.admin_address());
    let path = format!("/enter?token={token}");
    for _ in 0..3 {
        // A browser may fetch the link in advance.
        assert!(operator.sees(&path).await.contains("<button>Enter</button>"));
    }
    assert_eq!(operator.opens("/").await.status, 403);
    let entered = operator.uses(&token).await;
    assert_eq!(
        (entered.status.as_u16(), &entered.headers["location"]),
        (303, &"/".parse().unwrap())
    );
    let cookie = entered.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
    assert!(operator.sees("/").await.contains("The server is ready."));
    let mut other = Operator::at(world.admin_address());
    assert_eq!(other.uses(&token).await.status, 403, "it is used");
    assert_eq!(other.opens("/").await.status, 403);
    let entries = audited(&world, "admin_").await;
    assert_eq!(entries, ["admin_link_made by server ", "admin_page_entered by admin page dora"]);
}

#[tokio::test]
async fn a_link_expires_after_ten_minutes() {
    let world = World::with_admin_page().await;
    let (early, late) = (world.admin_token().await, world.admin_token().await);
    world.clock.advances(599);
    assert_eq!(Operator::at(world.admin_address()).uses(&early).await.status, 303);
    world.clock.advances(1);
    let refused = Operator::at(world.admin_address()).uses(&late).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("chatserver admin link"), "{refused:?}");
    world.admin_token().await;
    let left = world.number("SELECT count(*) FROM admin_links").await;
    assert_eq!(left, 1, "a new link removes expired ones");
}

#[tokio::test]
async fn a_session_ends_by_leaving_and_after_half_an_hour_without_use() {
    let world = World::with_admin_page().await;
    let mut operator = Operator::enters(&world).await;
    let mut other = Operator::enters(&world).await;
    let before = operator.clone();
    assert!(operator.sends("/leave", &[]).await.text.contains("You have left"));
    assert_eq!(operator.opens("/").await.status, 403);
    assert_eq!(before.clone().opens("/").await.status, 403, "the old cookie is worth nothing");
    world.clock.advances(1799);
    other.sees("/").await;
    world.clock.advances(1800);
    assert_eq!(other.opens("/").await.status, 403);
}

#[tokio::test]
async fn cookies_of_other_servers_of_the_host_keep_nobody_out() {
    let world = World::with_admin_page().await;
    let mut operator = Operator::enters(&world).await;
    let own = operator.cookie.clone().unwrap();
    let name = own.split_once('=').unwrap().0;
    for before in [format!("{name}=another"), "x=\u{e9}".to_owned()] {
        operator.cookie = Some(format!("{before}; {own}"));
        assert_eq!(operator.opens("/").await.status, 200, "{before}");
    }
}

#[tokio::test]
async fn without_a_session_nothing_is_shown_or_done() {
    let world = World::with_admin_page().await;
    world.person("Alice").await;
    let mut stranger = Operator::at(world.admin_address());
    let mut forged = stranger.clone();
    forged.cookie = Some(format!("chatserver-admin-{}=0", world.admin_address().port()));
    for mut one in [stranger.clone(), forged] {
        for path in PAGES {
            let answer = one.opens(path).await;
            assert_eq!(answer.status, 403, "{path}");
            assert!(!answer.text.contains("alice@example.com"), "{answer:?}");
        }
        for path in FORMS {
            assert_eq!(one.sends(path, &[]).await.status, 403, "{path}");
        }
    }
    assert_eq!(stranger.opens("/nowhere").await.status, 404);
    assert_eq!(stranger.opens("/leave").await.status, 405);
    assert_eq!(stranger.opens("/admin.css").await.status, 200);
}

#[tokio::test]
async fn a_form_of_another_site_or_session_changes_nothing() {
    let world = World::with_admin_page().await;
    world.person("Alice").await;
    let mut operator = Operator::enters(&world).await;
    let other = Operator::enters(&world).await;
    let own = format!("http://{}", world.admin_address());
    for path in FORMS {
        let foreign = operator.form(path, &[]).header(ORIGIN, "http://evil.example.com");
        assert_eq!(operator.asks(foreign).await.status, 403, "{path}");
        let mut forger = operator.clone();
        other.form_token.clone_into(&mut forger.form_token);
        assert_eq!(forger.sends(path, &[]).await.status, 403, "{path}");
    }
    for (name, value) in [
        ("origin", "http://evil.example.com"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let form = operator.form("/leave", &[]).header(name, value);
        assert_eq!(operator.asks(form).await.status, 403, "{name}: {value}");
    }
    for token in ["", "0", &other.form_token] {
        let mut forger = operator.clone();
        token.clone_into(&mut forger.form_token);
        assert_eq!(forger.sends("/leave", &[]).await.status, 403, "{token}");
    }
    let token = format!("formtoken={}", operator.form_token);
    let large = format!("{token}&x={}", "x".repeat(16 * 1024));
    for (kind, body, status) in [
        ("text/plain", token.clone(), 415),
        ("application/json", token, 415),
        ("application/x-www-form-urlencoded", large, 413),
    ] {
        let form = operator.request(Method::POST, "/leave").header(ORIGIN, &own);
        let form = form.header(CONTENT_TYPE, kind).body(body);
        assert_eq!(operator.asks(form).await.status, status, "{kind}");
    }
    // An own form in TLS, which a proxy has added, and the form of a program that says nothing about its origin.
    operator.sees("/").await;
    let form = operator.form("/leave", &[]);
    let form = form.header(ORIGIN, own.replace("http:", "https:"));
    assert_eq!(operator.asks(form).await.status, 200);
    let mut other = other;
    let form = other.form("/leave", &[]);
    assert_eq!(other.asks(form).await.status, 200);
}

#[tokio::test]
async fn foreign_hosts_are_refused_on_an_address() {
    let world = World::with_admin_page().await;
    let token = world.admin_token().await;
    let asks = async |host: &str| {
        let request = format!(
            "GET /enter?token={token} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        rest_of(connected(world.admin_address(), request.as_bytes()).await).await
    };
    for host in [&world.admin_address().to_string(), "localhost:8081", "[::1]:1"] {
        assert!(asks(host).await.starts_with("HTTP/1.1 200"), "{host}");
    }
    for host in ["evil.example.com", "127.0.0.1.example.com", "192.0.2.1:8081", "", "a@localhost"] {
        assert!(asks(host).await.starts_with("HTTP/1.1 421"), "{host}");
    }
}

#[tokio::test]
async fn wrong_links_are_limited_and_right_ones_still_work() {
    let world = World::with_admin_page().await;
    let mut mallory = Operator::at(world.admin_address());
    for attempt in 0..10 {
        let guess = AdminToken::generate();
        let guess = if attempt == 0 { "x" } else { guess.as_str() };
        assert_eq!(mallory.uses(guess).await.status, 403);
    }
    let limited = mallory.uses(AdminToken::generate().as_str()).await;
    assert_eq!(limited.status, 429);
    assert!(limited.headers.contains_key("retry-after"));
    Operator::enters(&world).await;
}

#[tokio::test]
async fn every_answer_has_the_strict_headers_and_no_page_has_scripts_or_inline_styles() {
    let world = World::with_admin_page().await;
    world.person("Alice").await;
    let mut operator = Operator::enters(&world).await;
    for path in PAGES.iter().chain(&["/enter?token=0", "/admin.css", "/nowhere", "/leave"]) {
        let answer = operator.opens(path).await;
        let header = |name: &str| answer.headers[name].to_str().unwrap();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{path}: {policy}");
        assert!(!policy.contains("script") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "same-origin");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
        if *path != "/admin.css" {
            assert!(header("content-type").starts_with("text/html"), "{path}");
            for forbidden in ["<script", " style=", "<style", " onclick", "javascript:"] {
                assert!(!answer.text.contains(forbidden), "{path} has {forbidden}");
            }
        }
    }
}

#[tokio::test]
async fn no_input_fails_the_server() {
    let world = World::with_admin_page().await;
    world.person("Alice").await;
    let mut operator = Operator::enters(&world).await;
    let long = "x".repeat(4000);
    let paths = [
        "/?%ff=%00",
        "/users?search=%ff%00&before=x",
        "/users?before=-9223372036854775808",
        "/users?before=99999999999999999999",
        "/users?search=%25_%27%22%3C&search=2",
        &format!("/users?search={long}"),
        "/users/%ff",
        "/users/%00",
        "/users/..%2f..%2fetc",
        &format!("/users/{long}"),
        "/users/%ff/delete",
        "/users/%00/disable",
        "/users/alice@example.com/delete",
        "/users/carol@example.com/export",
        "/invitations",
        "/invitations/revoke",
        "/retention?conversation=%ff%00",
        "/retention/preview",
        "/retention/rule",
        "/enter?token=%ff&token=",
        "/enter",
        "//users",
    ];
    let hostile = [
        ("station", &*long),
        ("token", "\u{0}"),
        ("email", &long),
        ("nick", "\u{0}\u{202e}"),
        ("expires", "-1d"),
    ];
    for path in paths {
        let status = operator.opens(path).await.status.as_u16();
        assert!((200..500).contains(&status), "{path}: {status}");
        let status = operator.sends(path, &hostile).await.status;
        assert!((200..500).contains(&status.as_u16()), "POST {path}: {status}");
    }
    assert!(operator.sees("/").await.contains("The server is ready."));
}
