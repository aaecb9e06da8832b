//! TLS from the side of a client.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A client that trusts one authority.
#[derive(Clone)]
pub struct TlsClient(TlsConnector);

impl TlsClient {
    /// Trusts the authority with this certificate.
    pub fn trusting(authority: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Makes a handshake with the server at this address, which has to be `localhost`.
    pub async fn tries(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.shakes(TcpStream::connect(address).await?).await
    }

    /// Makes a handshake on a connection.
    pub async fn shakes(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.connect(ServerName::try_from("localhost").unwrap(), socket).await
    }
}

/// An address without TLS whose connections go to a server over TLS. So clients without TLS can talk to the server.
pub struct Tunnel {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Tunnel {
    pub async fn to(server: SocketAddr, client: TlsClient) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut plain, _)) = listener.accept().await {
                let client = client.clone();
                tokio::spawn(async move {
                    // A connection that fails is closed, as the server does.
                    if let Ok(mut secured) = client.tries(server).await {
                        drop(copy_bidirectional(&mut plain, &mut secured).await);
                    }
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}
