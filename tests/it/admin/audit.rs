//! The page of the audit log.

use crate::harness::operator::Operator;
use crate::harness::world::World;

#[tokio::test]
async fn entries_are_shown_newest_first_with_who_and_whom() {
    let world = World::with_admin_page().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.removes(bob.user.as_str()).await.ok();
    let mut operator = Operator::enters(&world).await;
    let page = operator.sees("/audit").await;
    let offsets = ["friendship ended", "friendship made", "user added"].map(|text| page.find(text));
    assert!(offsets.is_sorted() && offsets[0].is_some(), "{page}");
    let link = format!("<a href=\"/users/{}\">{}</a>", alice.user, alice.email);
    assert!(page.contains(&link), "{page}");
    assert!(page.contains("127.0.0.1"), "{page}");

    let of_bob = operator.sees(&format!("/audit?user={}", bob.email)).await;
    assert_eq!(of_bob.matches("user added").count(), 1, "{of_bob}");
    assert!(of_bob.contains("value=\"bob@example.com\""), "{of_bob}");
    let none = operator.sees("/audit?user=nobody%40example.com").await;
    assert!(none.contains("There are no such entries."), "{none}");
    let none = operator.sees("/audit?user=%00%ff").await;
    assert!(none.contains("There are no such entries."), "{none}");
    let later = operator.sees("/audit?since=9999-01-01").await;
    assert!(later.contains("There are no such entries."), "{later}");
    let wrong = operator.sees("/audit?since=%3Cscript%3E").await;
    assert!(wrong.contains("Since must be a day such as 2024-03-08"), "{wrong}");
    assert!(wrong.contains("value=\"&lt;script&gt;\""), "{wrong}");
}

#[tokio::test]
async fn earlier_entries_are_on_further_pages() {
    let world = World::with_admin_page().await;
    let alice = world.person("Alice").await;
    for _ in 0..30 {
        world.disables(&alice).await;
        world.enables(&alice).await;
    }
    let mut operator = Operator::enters(&world).await;
    let first = operator.sees("/audit?user=alice%40example.com").await;
    assert_eq!(first.matches("<tr>").count(), 51, "{first}");
    let (_, next) = first.split_once("<a href=\"/audit?").unwrap();
    let next = next.split('"').next().unwrap().replace("&amp;", "&");
    let second = operator.sees(&format!("/audit?{next}")).await;
    assert_eq!(second.matches("<tr>").count(), 12, "{second}");
    assert!(second.contains("user added") && !second.contains("Earlier entries"), "{second}");
}
