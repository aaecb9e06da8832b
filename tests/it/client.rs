//! `chatserver client`, as people, bots and scripts use it, against the server's process.

mod bots;
mod commands;
mod following;
mod misbehaving;
mod profiles;
mod reading;
mod tampering;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::person::Person;
use crate::harness::process::{Process, Workplace};
use crate::harness::world::{PATIENCE, until};

/// A user of the command-line client.
struct Chatter<'a> {
    place: &'a Workplace,
    /// The name of the profile in the folder.
    profile: String,
    /// The same user as a client of the wire.
    person: Person,
}

/// A client command that runs until it is dropped. Its output is in files.
struct Running {
    child: std::process::Child,
    printed: PathBuf,
}

impl Running {
    fn printed(&self) -> String {
        fs::read_to_string(&self.printed).unwrap()
    }

    /// Sends a signal by name, such as `TERM`.
    fn receives(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    async fn prints(&self, text: &str) {
        let printed = until("it is printed", async || self.printed().contains(text));
        let printed = tokio::time::timeout(PATIENCE / 2, printed).await;
        assert!(printed.is_ok(), "{text:?} is not in {:?}", self.printed());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Workplace {
    /// Adds a user, who logs in with the output of `user add --json` on stdin.
    fn joins(&self, server: &Process, nick: &str) -> Chatter<'_> {
        let name = nick.to_lowercase();
        self.joins_as(server, &format!("{name}@example.com"), nick, &format!("{name}.profile"))
    }

    /// Adds a user with any address and nick, who logs in into this profile.
    fn joins_as(&self, server: &Process, email: &str, nick: &str, profile: &str) -> Chatter<'_> {
        let told = self.tells(&["user", "add", email, "--nick", nick]);
        let person = Person::added(&told, server.address);
        let chatter = Chatter { place: self, profile: profile.to_owned(), person };
        chatter.logs_in(&format!("http://{}/", server.address));
        chatter
    }

    /// Returns Alice and Bob, who are friends and have logged in.
    fn alice_and_bob_chat(&self, server: &Process) -> (Chatter<'_>, Chatter<'_>) {
        let (mut alice, mut bob) = (self.joins(server, "Alice"), self.joins(server, "Bob"));
        self.befriends(&mut alice.person, &mut bob.person);
        (alice, bob)
    }
}

impl Chatter<'_> {
    /// Logs in at a server, into the profile of this user.
    #[track_caller]
    fn logs_in(&self, url: &str) -> Output {
        let login = ["client", "login", url, "--profile", &self.profile, "--json"];
        let Person { api_key, password, .. } = &self.person;
        let keys = format!("{}\n{}\n", api_key.as_str(), password.as_str());
        let output = self.place.runs_with(&login, &keys, &[]);
        assert!(output.status.success(), "{output:?}");
        output
    }

    /// Changes the server in the profile.
    fn talks_to(&self, address: SocketAddr) {
        let path = self.place.path().join(&self.profile);
        let mut profile: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        profile["url"] = format!("http://{address}/").into();
        fs::write(path, profile.to_string()).unwrap();
    }

    /// Returns the file that says how far `listen` has handled the messages.
    fn positions(&self) -> PathBuf {
        self.place.path().join(format!("{}.positions", self.profile))
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["client"], arguments, &["--profile", &self.profile]].concat()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(&self.arguments(arguments));
        // `listen --exec` looks for sh there.
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    /// Runs a command of the client to its end.
    fn runs(&self, arguments: &[&str]) -> Output {
        self.place.runs(&self.arguments(arguments))
    }

    /// Runs a command that must succeed, and returns its text.
    #[track_caller]
    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.runs(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Runs a command with `--json` that must succeed, and returns its object.
    #[track_caller]
    fn tells(&self, arguments: &[&str]) -> Value {
        self.place.tells(&self.arguments(arguments))
    }

    /// Runs a command that must fail, and returns its `errorcode`.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let error = self.place.fails(&self.arguments(&[arguments, &["--json"]].concat()));
        let told: Value = serde_json::from_str(&error).unwrap_or_else(|_| panic!("{error}"));
        told["errorcode"].as_str().unwrap().to_owned()
    }

    /// Sends a text to another user and returns the message ID.
    #[track_caller]
    fn sends(&self, to: &str, text: &str) -> String {
        self.prints(&["send", to, text])
    }

    /// Returns the texts of a conversation, oldest first. `None` stands for a message that does not open.
    #[track_caller]
    fn reads(&self, of: &str) -> Vec<Option<String>> {
        let read = self.tells(&["read", of]);
        let messages = read["messages"].as_array().unwrap().iter();
        messages.map(|message| message["text"].as_str().map(str::to_owned)).collect()
    }

    /// Starts a command that goes on. Its stdout and stderr go to the file `name`.
    fn starts(&self, name: &str, arguments: &[&str]) -> Running {
        let printed = self.place.path().join(name);
        let file = File::options().create(true).append(true).open(&printed).unwrap();
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Running { child: command.spawn().unwrap(), printed }
    }
}

/// Returns texts in the form of [`Chatter::reads`].
fn texts(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}
