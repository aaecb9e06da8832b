//! The page that shows who takes the space.

use crate::harness::operator::Operator;
use crate::harness::world::World;

#[tokio::test]
async fn the_page_shows_totals_and_the_largest_users_and_conversations() {
    let world = World::with_admin_page().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("Hello, Bob").await;
    world.person("Carol").await;
    let mut operator = Operator::enters(&world).await;
    let page = operator.sees("/usage").await;
    let id = &alice.conversation;
    let bobs = format!("<a href=\"/users/{}\">bob@example.com</a>", bob.user);
    for part in [
        "<dt>Database",
        "<dt>Users</dt><dd>3</dd>",
        "<dt>Conversations</dt><dd>1</dd>",
        "<dt>Messages</dt><dd>1, with 16 bytes of data</dd>",
        &format!("<th scope=\"row\">{bobs}</th><td class=\"number\">1</td>"),
        &format!("<a href=\"/retention?conversation={id}\"><code>{id}</code></a>"),
        "carol@example.com",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    world.deletes(&bob).await;
    let page = operator.sees("/usage").await;
    assert!(page.contains("Deleted user") && !page.contains("bob@example.com"), "{page}");
}

#[tokio::test]
async fn at_most_fifty_users_are_listed() {
    let world = World::with_admin_page().await;
    for n in 0..51 {
        world.person_at(&format!("user{n}@example.com"), &format!("Nick {n}")).await;
    }
    let page = Operator::enters(&world).await.sees("/usage").await;
    assert_eq!(page.matches("@example.com</a>").count(), 50, "{page}");
    assert!(page.contains("<dt>Users</dt><dd>51</dd>"), "{page}");
}
