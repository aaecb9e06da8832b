//! The charts of the last hour.

use crate::harness::operator::Operator;
use crate::harness::process::{Workplace, free_address};

#[tokio::test]
async fn the_start_page_draws_the_last_hour_without_a_metrics_address() {
    let place = Workplace::new();
    let address = free_address();
    let listen = address.to_string();
    let admin = ("CHATSERVER_ADMIN__LISTEN", listen.as_str());
    let server = place.serves(&[admin, ("CHATSERVER_HTTP__METRICS_LISTEN", "")]).await;
    let output = place.runs_with(&["admin", "link", "--json"], "", &[admin]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let link = told["link"].as_str().unwrap();
    let mut operator = Operator::at(address);
    assert_eq!(operator.uses(link.split_once("token=").unwrap().1).await.status, 303);
    let page = operator.sees("/").await;
    for title in ["Requests per second", "Time of a commit", "Changes in the queue", "Listeners"] {
        assert!(page.contains(title), "{page}");
    }
    // The first sample has no rates yet.
    assert!(page.matches("<svg").count() >= 3, "{page}");
    assert!(page.contains("aria-label=\"Free disk: last "), "{page}");
    assert!(page.contains("aria-label=\"Listeners: last 0, lowest 0, highest 0"), "{page}");
    server.stops(&place).await;
}
