//! `chatserver demo`: runs a server with two users and their conversation, and prints shell commands to use it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::demo_users::{DemoUsers, Person, database_url};
use super::failure::Refusal;
use super::output::Output;
use super::{Failed, in_shell, serve};
use crate::config::Config;
use crate::server::{self, Server};
use crate::shutdown::Hangup;
use crate::telemetry::Logging;

/// Template of the shell functions and commands. Names in double braces stand for what differs in each demo.
const SHELL: &str = include_str!("demo.sh");

const GUIDE: &str = "\
Paste all of this into another shell: bash, dash, zsh. It needs curl and openssl, and defines a function for each command:
  chat_as_alice, chat_as_bob   act as Alice or as Bob from then on
  chat_login                   log in; chat_key opens the private key that comes with it
  chat_list, chat_download     show the server's answers; chat_read decrypts the messages
  chat_add TEXT, chat_clear    send a message; remove all messages
  chat_call API FIELDS         add the timestamp to any request, sign it and send it
The server never reads Data. chatserver client seal and open make and read it (profile 1), under the conversation's
secret, which chat_secret decrypts. The commands at the end work in any order and any number of times.
Ctrl-C here ends the demo.
";

/// Opens a here-document around the text, so that no shell executes it. Comments would not do: interactive zsh runs
/// them as commands and interprets the quotes in them.
const TEXT: &str = ": <<'CHAT_TEXT'";

/// Closes the here-document.
const END_OF_TEXT: &str = "CHAT_TEXT";

#[derive(Args)]
pub(crate) struct Demo {
    /// Keep the database, the keys and the passwords in this folder. Without it, they are deleted when the demo ends
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Print one JSON object on stdout instead of the text and the commands
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let temporary;
        let folder = if let Some(folder) = &self.data {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| format!("--data {}: {error}", folder.display()))?;
            folder.as_path()
        } else {
            temporary = tempfile::tempdir()?;
            temporary.path()
        };
        let url = database_url(folder);
        let flags = [
            ("http.listen", self.listen.as_str()),
            ("http.metrics_listen", ""),
            ("database.url", &url),
            ("log.filter", "warn"),
        ];
        let config = Config::load(None, [], &flags)?;
        let logging = Arc::new(Logging::start(&config.log)?);
        let demo_users = DemoUsers::of(folder).await?;
        let ready = |server: &Server| {
            let url = &server.app().public_url;
            if self.json { print_json(&demo_users, url) } else { print(&demo_users, url) }
        };
        // A demo ends with its terminal, so SIGHUP stops it.
        let served = serve::run(config, &logging, Hangup::Stops, ready).await;
        served.map_err(|failed| match failed.downcast_ref() {
            Some(server::Error::Listen { address, source, .. }) => {
                let sentence =
                    format!("can't listen on {address}: {source}; --listen takes another address");
                Refusal::with_code("cannot_listen", sentence)
            }
            _ => failed,
        })
    }
}

/// JSON form of a running demo.
#[derive(Serialize)]
struct Shown<'a> {
    url: &'a str,
    links: [String; 2],
    #[serde(flatten)]
    demo_users: &'a DemoUsers,
}

fn print_json(demo_users: &DemoUsers, url: &Url) -> Result<(), Failed> {
    let links = [&demo_users.alice, &demo_users.bob].map(|person| link(url, person));
    let shown = Shown { url: url.as_str(), links: links.map(String::from), demo_users };
    Output::new("", serde_json::to_value(shown)?).print(true)
}

/// Returns a link that signs in to the web client. Its secrets are in the fragment, which no browser sends to a server.
fn link(url: &Url, person: &Person) -> Url {
    let mut link = url.join("app/").expect("the public URL has a path");
    let escaped =
        |text: &str| byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let (key, password) = (escaped(&person.apikey), escaped(&person.encryptionpassword));
    link.set_fragment(Some(&format!("apikey={key}&password={password}")));
    link
}

fn print(demo_users: &DemoUsers, url: &Url) -> Result<(), Failed> {
    let program = std::env::current_exe()?;
    let mut shell = SHELL
        .replace("{{program}}", &in_shell(&program.to_string_lossy()))
        .replace("{{url}}", url.as_str())
        .replace("{{conversation}}", &demo_users.conversationid);
    for (name, person) in [("alice", &demo_users.alice), ("bob", &demo_users.bob)] {
        shell = shell
            .replace(&format!("{{{{{name}.userid}}}}"), &person.userid)
            .replace(&format!("{{{{{name}.stationid}}}}"), &person.stationid)
            .replace(&format!("{{{{{name}.apikey}}}}"), &person.apikey)
            .replace(&format!("{{{{{name}.encryptionpassword}}}}"), &person.encryptionpassword);
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{TEXT}")?;
    print_links(&mut stdout, demo_users, url)?;
    writeln!(stdout, "\nThe server is at {url}. It has two users:")?;
    for person in [&demo_users.alice, &demo_users.bob] {
        writeln!(stdout, "  {}", person.email)?;
        writeln!(stdout, "    user id             {}", person.userid)?;
        writeln!(stdout, "    API key             {}", person.apikey)?;
        writeln!(stdout, "    encryption password {}", person.encryptionpassword)?;
    }
    writeln!(stdout, "They are friends, and their conversation is {}.", demo_users.conversationid)?;
    writeln!(stdout, "{GUIDE}{END_OF_TEXT}\n\n{shell}")?;
    // Again at the end, where a terminal shows them.
    writeln!(stdout, "{TEXT}")?;
    print_links(&mut stdout, demo_users, url)?;
    writeln!(stdout, "{END_OF_TEXT}")?;
    Ok(stdout.flush()?)
}

fn print_links(stdout: &mut impl Write, demo_users: &DemoUsers, url: &Url) -> io::Result<()> {
    writeln!(
        stdout,
        "Chat in a browser: open each link in a tab of its own. Two tabs are two people."
    )?;
    for (nick, person) in [("Alice", &demo_users.alice), ("Bob", &demo_users.bob)] {
        writeln!(stdout, "  {nick:<5}  {}", link(url, person))?;
    }
    Ok(())
}
