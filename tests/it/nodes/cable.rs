//! A cable between a node and its database, which can die without a sign.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::postgres::PostgresDatabase;
use crate::harness::world::{World, until};

struct Cable {
    address: SocketAddr,
    /// Counts how often the connections were cut.
    cuts: watch::Sender<u32>,
}

impl Cable {
    /// Forwards all connections to a port of this machine.
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        // Both ends stay open, and hear nothing more.
                        _ = cut.changed() => std::future::pending().await,
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// Has all present connections forward nothing more. Later ones work.
    fn dies(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

#[tokio::test]
async fn connections_that_die_silently_are_given_up() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let cable = Cable::to(database.port()).await;
    let world = World::on_postgres(database.through(cable.address.port()), &[]).await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("before").await;
    let mut listener = bob.elsewhere().listens_from_now_on().await;
    cable.dies();
    let download = bob.prepares_download();
    until("messages are read again", async || download.sent().await.status == 200).await;
    let id = alice.sends("after").await;
    assert!(bob.downloads().await.message_ids().contains(&id));
    assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
}
