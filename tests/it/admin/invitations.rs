//! Inviting people, and revoking invitations.

use super::audited;
use crate::harness::operator::Operator;
use crate::harness::world::World;

/// Returns the link on the page that answers an invitation.
fn link(page: &str) -> &str {
    page.split_once("<p class=\"secret\"><code>").unwrap().1.split('<').next().unwrap()
}

#[tokio::test]
async fn a_person_is_invited_with_a_link_that_one_page_shows() {
    let world = World::with_admin_page().await;
    let mut operator = Operator::enters(&world).await;
    assert!(operator.sees("/users").await.contains("href=\"/invitations\""));
    assert!(operator.sees("/invitations").await.contains("There are none."));
    let invite = [("email", " Carol@example.com"), ("nick", "Carol"), ("expires", "3d")];
    let answer = operator.sends("/invitations", &invite).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let until = "carol@example.com can register once, until 2024-03-11 12:00:00 UTC";
    assert!(answer.text.to_lowercase().contains(&until.to_lowercase()), "{answer:?}");
    let start = format!("http://{}/app/invite.html#invite=", world.address);
    let token = link(&answer.text).strip_prefix(&start).unwrap().to_owned();
    let page = operator.sees("/invitations").await;
    assert!(page.contains("arol@example.com") && page.contains("2024-03-11 12:00:00"), "{page}");
    for path in ["/invitations", "/users", "/"] {
        assert!(!operator.sees(path).await.contains(&token), "{path} has the link");
    }
    assert_eq!(audited(&world, "user_").await, ["user_invited by admin page dora"]);
}

#[tokio::test]
async fn an_invitation_that_is_wrong_keeps_what_was_typed() {
    let world = World::with_admin_page().await;
    world.person("Alice").await;
    let mut operator = Operator::enters(&world).await;
    let long = "x".repeat(65);
    for (fields, sentence) in [
        (["carol", "Carol", "7d"], "E-mail address must be an e-mail address such as"),
        (["", "Carol", "7d"], "E-mail address must be an e-mail address such as"),
        (["carol@example.com", &long, "7d"], "Nick must be 1 to 64 characters"),
        (
            ["carol@example.com", "Carol", "8w"],
            "Life of the link must be a number of minutes, hours or days",
        ),
        (
            ["carol@example.com", "", "91d"],
            "Life of the link must be a number of minutes, hours or days",
        ),
        (
            ["alice@example.com", "", "7d"],
            "Nobody was invited: there is a user alice@example.com already.",
        ),
    ] {
        let form = [("email", fields[0]), ("nick", fields[1]), ("expires", fields[2])];
        let refused = operator.sends("/invitations", &form).await;
        assert_eq!(refused.status, 422, "{fields:?}");
        assert!(refused.text.contains(sentence), "{sentence} is not in {refused:?}");
        assert_eq!(refused.text.matches("aria-invalid").count(), 1, "{refused:?}");
        for (name, typed) in form {
            let kept = format!("name=\"{name}\" value=\"{typed}\"");
            assert!(refused.text.contains(&kept), "{kept} is not in {refused:?}");
        }
    }
    assert_eq!(world.number("SELECT count(*) FROM invitations").await, 0);
}

#[tokio::test]
async fn an_invitation_is_revoked_by_its_button() {
    let world = World::with_admin_page().await;
    let mut operator = Operator::enters(&world).await;
    for email in ["carol@example.com", "dave@example.com"] {
        operator.sends("/invitations", &[("email", email), ("expires", "12h")]).await;
    }
    let carol = [("email", "carol@example.com")];
    let page = operator.does("/invitations/revoke", &carol).await;
    assert!(page.contains("role=\"status\">The invitation is revoked.</p>"), "{page}");
    assert!(page.contains("dave@example.com") && !page.contains("carol@example.com"), "{page}");
    for gone in [carol, [("email", "no address")]] {
        let page = operator.does("/invitations/revoke", &gone).await;
        assert!(page.contains("There is no such invitation any more."), "{page}");
    }
    let revoked = audited(&world, "invitation_revoked").await;
    assert_eq!(revoked, ["invitation_revoked by admin page dora"]);
}

#[tokio::test]
async fn the_page_says_what_to_set_while_registration_is_closed() {
    let settings = [("admin.listen", "127.0.0.1:0"), ("auth.registration", "closed")];
    let world = World::with(&settings).await;
    let mut operator = Operator::enters(&world).await;
    let page = operator.sees("/invitations").await;
    let advice =
        "<code>auth.registration</code> is <code>closed</code>. Set it to <code>invite</code>";
    assert!(page.contains(advice) && !page.contains("name=\"email\""), "{page}");
    let fields = [("email", "carol@example.com"), ("expires", "7d")];
    let refused = operator.sends("/invitations", &fields).await;
    assert!(refused.status == 422 && refused.text.contains(advice), "{refused:?}");
    assert_eq!(world.number("SELECT count(*) FROM invitations").await, 0);
}
