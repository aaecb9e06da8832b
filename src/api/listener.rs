//! `GET /ws` (docs/protocol.md#12-the-listener): upgrades HTTP to a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use axum::http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::client::Connection;
use super::observe::RequestOutcome;
use super::{client, response};
use crate::app::App;
use crate::config::ErrorStatus;
use crate::error::Error;
use crate::limits::AddressPermit;
use crate::live::{self, SocketPermit};

/// Maximum time of the upgrade, in which the client must receive the answer to its handshake.
const UPGRADE_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn upgrade(
    State(app): State<Arc<App>>,
    mut request: Request<Body>,
) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let outcome = RequestOutcome::of("chatlistener", "upgrade");
    let (response, permit, counted) = match admit(&app, &head) {
        Ok(admitted) => admitted,
        Err(error) => {
            return outcome.refused(&error).on(response::refusal(&error, ErrorStatus::Real));
        }
    };
    let client = client::address(&head);
    let listening = Arc::clone(&app);
    let connection = head.extensions.get::<Connection>().cloned();
    app.hub.tasks().spawn(async move {
        let _counted = (connection, counted);
        // Without an upgrade in time there is no client to serve, so the task ends.
        if let Ok(Ok(upgraded)) = timeout(UPGRADE_WITHIN, upgraded).await {
            live::run(listening, TokioIo::new(upgraded), client, permit).await;
        }
    });
    outcome.on(response)
}

/// Checks a handshake. Returns its answer, the permit of its socket, and its count as a connection behind a trusted
/// proxy.
fn admit(
    app: &App,
    head: &Parts,
) -> Result<(Response<Body>, SocketPermit, Option<AddressPermit>), Error> {
    let request = Request::from_parts(head.clone(), ());
    let response = create_response_with_body(&request, Body::empty);
    let response = response
        .map_err(|_| Error::BadRequest("this URL takes the handshake of a WebSocket (RFC 6455)"))?;
    let origins = &app.config.http.listener_origins.0;
    if let Some(origin) = head.headers.get(ORIGIN)
        && !origins.is_empty()
        && !origins.iter().any(|allowed| allowed.0.as_bytes() == origin.as_bytes())
    {
        return Err(Error::malformed("Origin", "an origin that http.listener_origins allows"));
    }
    let permit = app.hub.unsubscribed().ok_or_else(|| {
        app.bounds.hit("listeners that have not subscribed");
        Error::Crowded
    })?;
    Ok((response, permit, client::count_behind_proxy(app, head)?))
}
