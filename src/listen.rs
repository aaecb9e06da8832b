//! Sockets that the API is served on: an address, a Unix socket, or the socket that systemd passes.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::{self, set_socket_send_buffer_size};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio_util::either::Either;

use crate::config::{Listen, UNIX};

/// Maximum connections that wait to be accepted, as far as the operating system allows. After a restart, all clients
/// come back at once.
const BACKLOG: u32 = 4096;

/// Send buffer of a TCP connection in bytes. The kernel reports progress only after a third of it has drained, and by
/// default buffers up to 4 MiB. A client that reads 12 KiB/s would seem to take nothing for 90 s.
const SEND_BUFFER: u32 = 128 * 1024;

/// Mode of a Unix socket: the server's user and group may connect. The group is that of the process, or of a folder
/// with the setgid bit.
const UNIX_MODE: u32 = 0o660;

/// A connection of a client or a proxy, before TLS.
pub(crate) type Socket = Either<TcpStream, UnixStream>;

/// The far end of a connection. `None` is a process of this machine, on a Unix socket.
pub(crate) type PeerAddress = Option<SocketAddr>;

/// The address of a listener, for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Ip(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns the address and port, which a Unix socket has not.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether only processes of this machine reach it.
    pub(crate) fn is_local(&self) -> bool {
        self.ip().is_none_or(|address| address.ip().is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "{UNIX}{}", path.display()),
        }
    }
}

/// A listening socket.
pub(crate) struct Listener {
    socket: Either<TcpListener, UnixListener>,
    address: Address,
    /// The file of a Unix socket that this process has made.
    _file: Option<SocketFile>,
    /// Whether systemd has the socket, too, and keeps connections that wait for the next process.
    is_inherited: bool,
}

impl Listener {
    pub(crate) fn open(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Address(address) => Self::on_address(*address),
            Listen::Unix(path) => Self::on_path(path),
            Listen::Systemd => Self::from_systemd(),
        }
    }

    pub(crate) fn on_address(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Let a restarted server listen on its address at once.
        socket.set_reuseaddr(true)?;
        // Connections inherit the buffer size from the listener.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        Self::of_tcp(socket.listen(BACKLOG)?, false)
    }

    fn of_tcp(listener: TcpListener, is_inherited: bool) -> io::Result<Self> {
        let address = Address::Ip(listener.local_addr()?);
        Ok(Self { socket: Either::Left(listener), address, _file: None, is_inherited })
    }

    fn on_path(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Nothing can connect before `listen`, so nothing connects by the mode that the umask gives.
        fs::set_permissions(path, Permissions::from_mode(UNIX_MODE))?;
        let file = Some(SocketFile::find(path)?);
        let socket = Either::Right(socket.listen(BACKLOG)?);
        let address = Address::Unix(path.to_owned());
        Ok(Self { socket, address, _file: file, is_inherited: false })
    }

    /// Takes the socket that systemd passes. Call it once for the process.
    fn from_systemd() -> io::Result<Self> {
        let mut passed = sd_listen_fds::get().map_err(io::Error::other)?;
        let (1, Some((_, socket))) = (passed.len(), passed.pop()) else {
            let sentence = format!(
                "systemd passed {} sockets, and must pass one; start the server by a socket unit such as packaging/chatserver.socket",
                passed.len()
            );
            return Err(io::Error::other(sentence));
        };
        let socket = socket.into_std();
        if sockopt::socket_type(&socket)? != SocketType::STREAM
            || !sockopt::socket_acceptconn(&socket)?
        {
            let sentence = "the socket that systemd passed does not listen for connections; the socket unit needs ListenStream= and Accept=no";
            return Err(io::Error::other(sentence));
        }
        if sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
            let listener = net::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            let path =
                listener.local_addr()?.as_pathname().map_or_else(PathBuf::new, Path::to_owned);
            let socket = Either::Right(UnixListener::from_std(listener)?);
            return Ok(Self {
                socket,
                address: Address::Unix(path),
                _file: None,
                is_inherited: true,
            });
        }
        set_socket_send_buffer_size(&socket, SEND_BUFFER as usize)?;
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        Self::of_tcp(TcpListener::from_std(listener)?, true)
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) async fn accept(&self) -> io::Result<(Socket, PeerAddress)> {
        match &self.socket {
            Either::Left(tcp) => {
                let (stream, peer) = tcp.accept().await?;
                Ok((Either::Left(stream), Some(peer)))
            }
            Either::Right(unix) => {
                let (stream, _) = unix.accept().await?;
                Ok((Either::Right(stream), None))
            }
        }
    }

    /// Stops listening. Returns the connections that clients see as open but that are not accepted yet. Asks the
    /// operating system directly: the runtime may not know of them yet, and makes a task that accepts many pause.
    ///
    /// Connections on a socket of systemd's are left to the next process.
    pub(crate) fn into_backlog(self) -> impl Iterator<Item = (Socket, PeerAddress)> {
        let waiting = match self.socket {
            _ if self.is_inherited => None,
            Either::Left(tcp) => tcp.into_std().ok().map(Either::Left),
            Either::Right(unix) => unix.into_std().ok().map(Either::Right),
        };
        std::iter::from_fn(move || {
            loop {
                match accept_now(waiting.as_ref()?) {
                    Ok(accepted) => return Some(accepted),
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(_) => return None,
                }
            }
        })
    }
}

/// Accepts a connection that waits. The listener does not block.
fn accept_now(
    listener: &Either<std::net::TcpListener, net::UnixListener>,
) -> io::Result<(Socket, PeerAddress)> {
    match listener {
        Either::Left(tcp) => {
            let (stream, peer) = tcp.accept()?;
            stream.set_nonblocking(true)?;
            Ok((Either::Left(TcpStream::from_std(stream)?), Some(peer)))
        }
        Either::Right(unix) => {
            let (stream, _) = unix.accept()?;
            stream.set_nonblocking(true)?;
            Ok((Either::Right(UnixStream::from_std(stream)?), None))
        }
    }
}

/// Waits for the first byte of a connection, and returns it without taking it. Returns `None` at the end.
pub(crate) async fn first_byte(socket: &Socket) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let count = match socket {
        Either::Left(tcp) => tcp.peek(&mut byte).await?,
        Either::Right(unix) => {
            let mut peek = || {
                let (count, _) = recv(unix, &mut byte, RecvFlags::PEEK)?;
                Ok(count)
            };
            unix.async_io(Interest::READABLE, &mut peek).await?
        }
    };
    Ok((count == 1).then_some(byte[0]))
}

/// Writes what fits at once, and does not wait.
pub(crate) fn try_write(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    match socket {
        Either::Left(tcp) => tcp.try_write(bytes),
        Either::Right(unix) => unix.try_write(bytes),
    }
}

/// Removes the file of a Unix socket that no process listens on any more, as a killed server leaves it. Refuses any
/// other file.
fn remove_stale(path: &Path) -> io::Result<()> {
    let refuse = |kind, sentence: &str| Err(io::Error::new(kind, sentence));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return refuse(
                ErrorKind::AlreadyExists,
                "there is a file that is no socket; remove it, or name another path",
            );
        }
        Ok(_) => {}
    }
    // Does not block: a server whose backlog is full would keep this process waiting.
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?)
        .map_err(|error| io::Error::from(error).kind())
    {
        Err(ErrorKind::ConnectionRefused) => fs::remove_file(path),
        Err(ErrorKind::PermissionDenied) => {
            refuse(ErrorKind::PermissionDenied, "the socket of another user is there")
        }
        _ => refuse(ErrorKind::AddrInUse, "another process listens on this socket"),
    }
}

/// The file of a Unix socket. Dropping it removes the file, unless another one has taken its place.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn find(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_this = |found: fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(is_this) {
            // A file that stays is found stale by the next start.
            drop(fs::remove_file(&self.path));
        }
    }
}
