//! `chatserver client`, as people, bots and scripts use it, against the server's process.

mod bots;
mod following;
mod profiles;
mod reading;
mod tampering;

use std::fs::{self, File};
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
    printed: std::path::PathBuf,
}

impl Running {
    fn printed(&self) -> String {
        fs::read_to_string(&self.printed).unwrap()
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
        let email = format!("{}@example.com", nick.to_lowercase());
        let told = self.tells(&["user", "add", &email, "--nick", nick]);
        let person = Person::added(&told, server.address);
        let profile = format!("{}.profile", nick.to_lowercase());
        let url = format!("http://{}/", server.address);
        let login = ["client", "login", &url, "--profile", &profile, "--json"];
        let output = self.runs_with(&login, &told.to_string(), &[]);
        assert!(output.status.success(), "{output:?}");
        Chatter { place: self, profile, person }
    }

    /// Returns Alice and Bob, who are friends and have logged in.
    fn alice_and_bob_chat(&self, server: &Process) -> (Chatter<'_>, Chatter<'_>) {
        let (mut alice, mut bob) = (self.joins(server, "Alice"), self.joins(server, "Bob"));
        self.befriends(&mut alice.person, &mut bob.person);
        (alice, bob)
    }
}

impl Chatter<'_> {
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
