//! Entry points of the listener for fuzz targets, see [`crate::fuzzing`].

use tokio::io;
use tokio::runtime::Builder;

use super::connection::Heard;
use super::socket::{Received, Socket};
use super::subscription::SubscribeFrame;

/// Reads what a client sends after the handshake: WebSocket frames, of which the first subscribes and the others
/// acknowledge or ping. Returns the names of the well-formed actions.
#[must_use]
pub fn listener(bytes: &[u8]) -> Vec<&'static str> {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without I/O").block_on(async {
        let mut read = Vec::new();
        let mut socket = Socket::new(io::join(bytes, io::sink())).await;
        while let Ok(received) = socket.receive().await {
            socket.hurry();
            let Received::Text(text) = received else {
                if socket.answer().await.is_err() {
                    break;
                }
                continue;
            };
            read.extend(SubscribeFrame::read(text.as_bytes()).is_ok().then_some("subscribe"));
            read.extend(Heard::read(text.as_bytes()).ok().map(|heard| match heard {
                Heard::Acknowledgement(_) => "ack",
                Heard::Ping => "ping",
            }));
        }
        read
    })
}
