//! Requests to an ACME server, with the root certificates of the machine.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::time::timeout;

use super::BoxError;

/// Maximum time of a request with its answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Maximum bytes of an answer.
const ANSWER_BYTES: usize = 1024 * 1024;

pub(super) struct Transport(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl Transport {
    pub(super) fn new() -> io::Result<Self> {
        let roots = HttpsConnectorBuilder::new().with_native_roots()?;
        let connector = roots.https_only().enable_http1().build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let answering = self.0.request(request);
        let received = timeout(ANSWER, async {
            let (head, body) = answering.await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::from_parts(head, Full::new(body)))
        });
        Box::pin(async {
            match received.await {
                Ok(answer) => answer.map(BytesResponse::from).map_err(Error::Other),
                Err(elapsed) => Err(Error::Other(elapsed.into())),
            }
        })
    }
}
