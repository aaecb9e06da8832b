//! A full disk of the server, a real one (error 53100).

use std::sync::Arc;

use crate::harness::person::message;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::postgres::small_disk::frees_the_disk;
use crate::harness::process::{Workplace, get};
use crate::harness::world::until;

#[tokio::test]
async fn a_full_disk_of_the_server_refuses_changes_until_it_has_space_again() {
    let Some(database) = PostgresDatabase::on_a_small_disk() else { return };
    let database = Arc::new(database);
    let place = Workplace::on(Arc::clone(&database));
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut sent = vec![alice.sends("before").await];
    let filled = database.fills_the_disk().await;

    // The last pages of the tables have space for some more: four of these fill a page.
    let text = "x".repeat(1200);
    let refused = loop {
        let message = message(&text, &alice.date());
        let answer = alice.adds(&message).await;
        if answer.status != 200 {
            break answer;
        }
        sent.push(message["ID"].as_str().unwrap().to_owned());
        assert!(sent.len() < 1000, "the disk is full without end");
    };
    refused.refused(503, "storage_full");
    assert_eq!(refused.headers["retry-after"], "60");

    // The change that /readyz makes leaves nothing behind, and finds space.
    let (status, body) = get(server.address, "/readyz").await.unwrap();
    assert_eq!((status, body.as_str()), (200, "storage_full: what grows the data is refused\n"));
    bob.elsewhere().logs_in().await.ok();
    assert_eq!(bob.downloads().await.message_ids(), sent);

    place.logs("the disk of PostgreSQL is full").await;

    frees_the_disk(filled).await;
    until("changes are made again", async || {
        let message = message(&text, &alice.date());
        let is_made = alice.adds(&message).await.status == 200;
        if is_made {
            sent.push(message["ID"].as_str().unwrap().to_owned());
        }
        is_made
    })
    .await;
    sent.push(alice.sends("after").await);
    assert_eq!(bob.downloads().await.message_ids(), sent);
    let (status, body) = get(server.address, "/readyz").await.unwrap();
    assert_eq!((status, body.as_str()), (200, "OK\n"));
    place.logs("the disk of PostgreSQL has space again").await;
}
