//! One server per database: a second server is refused, and what a crash leaves behind does not refuse the next start.

use std::os::unix::fs::symlink;

use crate::harness::process::{Workplace, free_address};

#[tokio::test]
async fn a_second_server_refuses_to_start_and_names_the_first() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    symlink("chatserver.db", place.path().join("link.db")).unwrap();
    let same = server.address.to_string();
    let other = free_address().to_string();
    let (pid, address) = (format!("process id {}", server.id()), server.address.to_string());
    for listen in [&same, &other] {
        for url in ["sqlite://chatserver.db", "sqlite://link.db", "sqlite://./chatserver.db"] {
            let error = place.fails(&["serve", "--listen", listen, "--database-url", url]);
            let error = error.lines().last().unwrap();
            for told in ["in use", "server", &pid, &address, url.trim_start_matches("sqlite://")] {
                assert!(error.contains(told), "{told} is missing: {error}");
            }
        }
    }
    alice.sends("still there").await;
    place.adds(&server, "Carol");
    assert_eq!(bob.reads().await, ["still there"]);
}

#[tokio::test]
async fn a_killed_server_does_not_block_the_next_one() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    server.signal("KILL");
    server.ended().await;
    let mut again = place.starts_at(server.address, &["serve"], &[]).await;
    again.signal("TERM");
    assert_eq!(again.ended().await.code(), Some(0), "{}", place.log());
    place.starts_at(server.address, &["serve"], &[]).await;
}

#[tokio::test]
async fn a_second_demo_in_the_same_folder_is_refused() {
    let place = Workplace::new();
    let demo = place.starts(&["demo", "--data", "."], &[]).await;
    let error = place.fails(&["demo", "--data", ".", "--listen", "127.0.0.1:0"]);
    assert!(error.contains(&format!("process id {}", demo.id())), "{error}");
    assert!(error.contains(&demo.address.to_string()), "{error}");
}
