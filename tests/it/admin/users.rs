//! The list of users, its search, and the page of one user.

use crate::harness::operator::Operator;
use crate::harness::world::{World, until};

/// Returns how many rows the table of a page has.
fn rows(page: &str) -> usize {
    page.matches("<th scope=\"row\">").count()
}

#[tokio::test]
async fn users_are_listed_newest_first_in_pages_of_fifty_and_found_by_parts() {
    let world = World::with_admin_page().await;
    for n in 0..51 {
        world.person_at(&format!("user{n}@example.com"), &format!("Nick {n}")).await;
    }
    let zoe = world.person_at("zoe@example.org", "<b>Zoë</b>").await;
    world.disables(&zoe).await;
    let mut operator = Operator::enters(&world).await;
    let first = operator.sees("/users").await;
    assert!(first.contains("Users: 52. Disabled: 1."), "{first}");
    assert_eq!(rows(&first), 50);
    assert!(first.contains("&lt;b&gt;Zoë&lt;/b&gt;") && !first.contains("<b>"), "{first}");
    assert!(first.find("zoe@example.org") < first.find("user50@example.com"));
    let (_, next) = first.split_once("href=\"/users?search=&amp;before=").unwrap();
    let second = format!("/users?before={}", next.split('"').next().unwrap());
    let second = operator.sees(&second).await;
    assert_eq!(rows(&second), 2);
    assert!(second.contains("user0@example.com") && !second.contains("before="), "{second}");
    for (search, found) in [("ZO%C3%8B", 1), ("example.ORG", 1), ("user1", 11), ("nobody", 0)] {
        let page = operator.sees(&format!("/users?search={search}")).await;
        assert_eq!(rows(&page), found, "{search}: {page}");
    }
    world.deletes(&zoe).await;
    let page = operator.sees("/users?search=zo").await;
    assert!(rows(&page) == 0 && page.contains("Users: 51. Disabled: 0."), "{page}");
}

#[tokio::test]
async fn the_page_of_a_user_shows_facts_friends_and_stations_without_secrets() {
    let world = World::with_admin_page().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.logs_in().await.ok();
    alice.sends("Hello, Bob").await;
    let mut operator = Operator::enters(&world).await;
    let path = format!("/users/{}", alice.user);
    until("the station is bound", async || operator.sees(&path).await.contains("Revoke")).await;
    let page = operator.sees(&path).await;
    for part in [
        "<h1>alice@example.com</h1>",
        "Ozeki Alice",
        "enabled",
        alice.user.as_str(),
        "1, with ",
        &format!("<a href=\"/users/{}\">bob@example.com</a> (Bob)", bob.user),
        &format!("<code>{}…</code>", &alice.station.as_str()[..8]),
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains(alice.station.as_str()), "a station's id is a secret");
    assert!(!page.contains(alice.api_key.as_str()));
    assert_eq!(operator.sees("/users/alice@example.com").await.matches("Ozeki Alice").count(), 1);
    assert_eq!(operator.opens("/users/carol@example.com").await.status, 404);
}

#[tokio::test]
async fn a_station_is_revoked_by_its_button() {
    let world = World::with_admin_page().await;
    let (alice, _) = world.alice_and_bob().await;
    alice.logs_in().await.ok();
    let mut operator = Operator::enters(&world).await;
    let path = format!("/users/{}", alice.user);
    until("the station is bound", async || operator.sees(&path).await.contains("Revoke")).await;
    let page = operator.sees(&path).await;
    let (_, rest) = page.split_once("name=\"station\" value=\"").unwrap();
    let station = rest.split('"').next().unwrap().to_owned();
    let revoke = format!("{path}/stations/revoke");
    let after = operator.does(&revoke, &[("station", &station)]).await;
    assert!(after.contains("<p class=\"message\" role=\"status\">The station is revoked.</p>"));
    assert!(after.contains("No device has logged in."), "{after}");
    assert!(!operator.sees(&path).await.contains("role=\"status\""), "it is told once");
    let again = operator.does(&revoke, &[("station", &station)]).await;
    assert!(again.contains("The user has no such station any more."), "{again}");
    let by = "SELECT via FROM audit WHERE action = 'station_revoked'";
    assert_eq!(world.opens_database().await.texts(by).await, ["admin page"]);
    // The server does not take it for bound: the next login binds it again.
    alice.logs_in().await.ok();
    until("it is bound", async || operator.sees(&path).await.contains("Revoke station")).await;
}
