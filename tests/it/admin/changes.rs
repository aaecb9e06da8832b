//! Disabling, enabling, exporting and deleting on the page of a user.

use std::fs;
use std::path::Path;

use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde_json::Value;

use super::audited;
use super::commands::token;
use crate::harness::operator::Operator;
use crate::harness::process::{Workplace, free_address};
use crate::harness::world::World;

#[tokio::test]
async fn a_user_is_disabled_and_enabled() {
    let world = World::with_admin_page().await;
    let (alice, _) = world.alice_and_bob().await;
    let mut operator = Operator::enters(&world).await;
    let path = format!("/users/{}", alice.user);
    let page = operator.does(&format!("{path}/disable"), &[]).await;
    assert!(page.contains("role=\"status\">alice@example.com is disabled.</p>"), "{page}");
    assert!(page.contains(&format!("action=\"{path}/enable\"")) && !page.contains("/disable\""));
    assert_eq!(alice.logs_in().await.status, 401);
    let page = operator.does(&format!("{path}/enable"), &[]).await;
    assert!(page.contains("role=\"status\">alice@example.com is enabled.</p>"), "{page}");
    alice.logs_in().await.ok();
    let entries =
        ["user_disabled by admin page dora", "user_enabled by admin page dora"].map(String::from);
    assert_eq!(audited(&world, "user_").await[2..], entries);
    for action in ["disable", "enable"] {
        let answer = operator.sends(&format!("/users/carol@example.com/{action}"), &[]).await;
        assert_eq!(answer.status, 404);
    }
}

#[tokio::test]
async fn an_export_is_the_file_of_the_command() {
    let place = Workplace::new();
    let admin = free_address();
    let server = place.serves(&[("CHATSERVER_ADMIN__LISTEN", &admin.to_string())]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    // More than a page of messages, and a reply.
    for n in 0..20 {
        alice.sends(&format!("Message {n}")).await;
    }
    bob.sends("Hello, Alice").await;
    let (link, _) = place.admin_link(&admin.to_string());
    let mut operator = Operator::at(admin);
    operator.uses(token(&link)).await;
    operator.sees("/").await;
    let answer = operator.sends("/users/alice@example.com/export", &[]).await;
    assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
    let disposition = format!("attachment; filename=\"user-{}.json\"", alice.user);
    assert_eq!(answer.headers[CONTENT_DISPOSITION], disposition.as_str());
    let printed = place.runs(&["user", "export", "alice@example.com"]);
    assert_eq!(answer.text, String::from_utf8(printed.stdout).unwrap());
    let exported: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(exported["conversations"][0]["messages"].as_array().unwrap().len(), 21);
    let missing = operator.sends("/users/carol@example.com/export", &[]).await;
    assert_eq!(missing.status, 404);
    server.stops(&place).await;
}

#[tokio::test]
async fn a_user_is_deleted_only_if_the_address_is_typed() {
    let world = World::with_admin_page().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut operator = Operator::enters(&world).await;
    let path = format!("/users/{}", alice.user);
    let confirm = format!("{path}/delete");
    assert!(operator.sees(&path).await.contains(&format!("href=\"{confirm}\"")));
    let page = operator.sees(&confirm).await;
    assert!(page.contains("<label for=\"email\">E-mail address of the user</label>"), "{page}");
    for wrong in ["bob@example.com", "", "alice", "<b>alice@example.com"] {
        let refused = operator.sends(&confirm, &[("email", wrong)]).await;
        assert_eq!(refused.status, 422, "{wrong}");
        let typed =
            format!("name=\"email\" value=\"{}\"", wrong.replace('<', "&lt;").replace('>', "&gt;"));
        let sentence = "This is not the address of the user. Nothing was deleted.";
        for part in [&typed, sentence, "aria-invalid=\"true\"", "aria-describedby=\"email-wrong "] {
            assert!(refused.text.contains(part), "{wrong}: {part} is not in {refused:?}");
        }
    }
    alice.logs_in().await.ok();
    let page = operator.does(&confirm, &[("email", " Alice@example.com ")]).await;
    assert!(page.contains("role=\"status\">alice@example.com is deleted. Others keep"), "{page}");
    assert!(page.contains("Users: 1."), "{page}");
    assert_eq!(alice.logs_in().await.status, 401);
    assert_eq!(operator.opens(&path).await.status, 404);
    assert_eq!(operator.sends(&confirm, &[("email", "alice@example.com")]).await.status, 404);
    assert_eq!(bob.sees().await["displayname"].as_str().map(str::is_empty), Some(false));
    let entries = audited(&world, "user_").await;
    assert_eq!(entries.last().unwrap(), "user_deleted by admin page dora", "{entries:?}");
}

#[tokio::test]
async fn the_page_says_what_goes_and_stays_as_the_manual_does() {
    let world = World::with_admin_page().await;
    world.person("Alice").await;
    let page = Operator::enters(&world).await.sees("/users/alice@example.com/delete").await;
    let page = page.replace("&quot;", "\"");
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let manual = fs::read_to_string(manual).unwrap();
    let (_, table) = manual.split_once("| data | after the deletion |").unwrap();
    let rows: Vec<_> = table.split("\n\n").next().unwrap().lines().skip(2).collect();
    assert_eq!(rows.len(), page.matches("<th scope=\"row\">").count());
    for row in rows {
        let [what, after] = row.trim_matches('|').split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let row = format!("<th scope=\"row\">{}</th><td>{}</td>", what.trim(), after.trim());
        assert!(page.contains(&row), "{row} is not in {page}");
    }
}
