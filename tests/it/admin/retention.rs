//! Retention on the admin page.

use super::audited;
use crate::harness::operator::Operator;
use crate::harness::world::World;

const RULE: &str = "/retention/rule";

#[tokio::test]
async fn the_page_shows_the_settings_and_a_dry_run_removes_nothing() {
    let settings = [("admin.listen", "127.0.0.1:0"), ("retention.days", "30")];
    let world = World::with(&settings).await;
    let (alice, _) = world.alice_and_bob().await;
    alice.sends("Hello, Bob").await;
    let mut operator = Operator::enters(&world).await;
    let page = operator.sees("/retention").await;
    for part in [
        "30: messages are removed 30 days after the server accepted them",
        "false: the <code>ValidUntil</code> of a message ends nothing",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let dry_run = operator.sends("/retention/preview", &[]).await;
    assert!(dry_run.text.contains("Nothing is due."), "{dry_run:?}");
    // The wall clock alone: the jobs of the server do not trust it yet.
    world.clock.jumps(31 * 24 * 60 * 60);
    let dry_run = operator.sends("/retention/preview", &[]).await;
    for part in
        ["messages: 1. To be emptied: 0. Data: 16 bytes.", &alice.conversation, "alice@example.com"]
    {
        assert!(dry_run.text.contains(part), "{part} is not in {dry_run:?}");
    }
    assert_eq!(world.number("SELECT count(*) FROM messages").await, 1);
}

#[tokio::test]
async fn a_conversation_gets_a_rule_of_its_own() {
    let world = World::with_admin_page().await;
    let (alice, _) = world.alice_and_bob().await;
    let mut operator = Operator::enters(&world).await;
    let id = &alice.conversation;
    let page = operator.sees(&format!("/retention?conversation={id}")).await;
    assert!(page.contains(&format!("name=\"conversation\" value=\"{id}\"")), "{page}");
    for (keep, days, told, stored) in [
        ("days", "30", "for 30 days", "30"),
        ("forever", "", "for ever", "0"),
        ("default", "", "as retention.days says", "none"),
    ] {
        let form = [("conversation", id.as_str()), ("keep", keep), ("days", days)];
        let page = operator.does(RULE, &form).await;
        let message = format!("role=\"status\">Conversation {id} keeps its messages {told}.</p>");
        assert!(page.contains(&message), "{message} is not in {page}");
        let rule = "SELECT coalesce(CAST(retention_days AS TEXT), 'none') FROM conversations";
        assert_eq!(world.opens_database().await.texts(rule).await, [stored]);
    }
    let entries = audited(&world, "retention_set").await;
    assert_eq!(entries, ["retention_set by admin page dora"; 3]);
}

#[tokio::test]
async fn a_rule_that_is_wrong_keeps_what_was_typed() {
    let world = World::with_admin_page().await;
    let (alice, _) = world.alice_and_bob().await;
    let mut operator = Operator::enters(&world).await;
    let (id, unknown) = (alice.conversation.as_str(), "0".repeat(32));
    for (conversation, keep, days, sentence) in [
        ("x", "days", "30", "Conversation id must be "),
        ("", "forever", "", "Conversation id must be "),
        (
            &unknown,
            "days",
            "30",
            &format!("There is no conversation {unknown}. Nothing was changed."),
        ),
        (id, "days", "0", "Days must be a whole number from 1 to 36500."),
        (id, "days", "36501", "Days must be a whole number from 1 to 36500."),
        (id, "days", "-1", "Days must be a whole number from 1 to 36500."),
        (id, "days", "", "Days must be a whole number from 1 to 36500."),
        (id, "forever", "30", "Days must be empty for this choice."),
        (id, "", "30", "Choose how long the conversation keeps its messages."),
    ] {
        let form = [("conversation", conversation), ("keep", keep), ("days", days)];
        let refused = operator.sends(RULE, &form).await;
        assert_eq!(refused.status, 422, "{form:?}");
        let [id, days] = [("conversation", conversation), ("days", days)]
            .map(|(name, typed)| format!("name=\"{name}\" value=\"{typed}\""));
        for part in [sentence, &id, &days] {
            assert!(refused.text.contains(part), "{part} is not in {refused:?}");
        }
        let checked = format!("value=\"{keep}\" checked");
        assert_eq!(refused.text.contains(&checked), !keep.is_empty(), "{refused:?}");
    }
    assert_eq!(audited(&world, "retention_set").await, [""; 0]);
}
