//! A real nginx in front of a server.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::left_out::left_out;
use super::process::{free_address, get};
use super::world::until;

/// What a proxy must pass on: the client's address and WebSockets.
pub const PASSES_ALL: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;";

/// A running nginx. Dropping it ends it.
pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts it in a folder, in front of `server`, an address or a Unix socket as nginx names it. Returns `None` on a
    /// machine without nginx.
    pub async fn start(folder: &Path, server: &str, passes: &str) -> Option<Self> {
        let (address, at) = (free_address(), folder.display());
        let text = format!(
            "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/nginx.log; events {{}}
             http {{
               access_log off;
               client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
               uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
               map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
               server {{
                 listen {address};
                 location / {{
                   proxy_pass http://{server}; proxy_http_version 1.1; proxy_set_header Host $host; {passes}
                 }}
               }}
             }}"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let path = format!("{}:/usr/sbin", env::var("PATH").unwrap_or_default());
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file).arg("-p").arg(folder).env("PATH", path);
        let Ok(child) = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() else {
            left_out("a test of a proxy", "nginx");
            return None;
        };
        let nginx = Self { child, address };
        until("nginx passes requests on", async || {
            get(address, "/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
