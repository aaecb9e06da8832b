//! Runs the command of `listen --exec` for a message.

use std::fs::File;
use std::io::{self, Read as _};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::login::{API_KEY, PASSWORD};
use super::messages::json_of;
use super::payload::KEY;
use crate::client::{Conversation, Received};
use crate::commands::Failed;

/// Maximum bytes of an answer: sealed, it fits into `limits.message_bytes`.
const ANSWER_BYTES: usize = 128 * 1024;

/// Maximum bytes of a text in a variable: the system refuses variables of 128 KiB.
const VARIABLE_BYTES: usize = 100 * 1024;

/// Kills a command and all its children when it is dropped.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended already.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

/// Runs the command and returns what it prints until it ends. Kills it and its children after `limit`, and when the future
/// is dropped. Children that it leaves in the background when it ends go on, but what they print is lost.
pub(super) async fn run(
    command: &str,
    limit: Duration,
    conversation: &Conversation,
    message: &Received,
    text: &str,
) -> Result<String, Failed> {
    let mut child = start(command, conversation, message, text)?;
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut group = ProcessGroup(id);
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err("the command has no pipes".into());
    };
    let object = format!("{}\n", json_of(conversation, message));
    let mut printed = Vec::new();
    let ended = timeout(limit, async {
        tokio::select! {
            status = child.wait() => status,
            failed = exchange(stdin, &object, &mut stdout, &mut printed) => Err(failed),
        }
    });
    let status =
        ended.await.map_err(|_| format!("the command was ended after {} s", limit.as_secs()))??;
    group.0 = None;
    if !status.success() {
        return Err(format!("the command failed: {status}").into());
    }
    read_rest(stdout, &mut printed)?;
    String::from_utf8(printed).map_err(|_| "the command printed no UTF-8".into())
}

/// Starts the command in a process group of its own.
fn start(
    command: &str,
    conversation: &Conversation,
    message: &Received,
    text: &str,
) -> Result<Child, Failed> {
    let sender = message.sender.as_ref().map_or("", |user| user.as_str());
    // A variable can't hold NUL.
    let plain = |text: &str| text.replace('\0', "\u{fffd}");
    let short = if text.len() > VARIABLE_BYTES { String::new() } else { plain(text) };
    let child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("CHAT_TEXT", short)
        .env("CHAT_FROM", sender)
        .env("CHAT_NICK", plain(conversation.nick_of(sender)))
        .env("CHAT_CONVERSATION", &conversation.id)
        .env("CHAT_ID", message.id.as_str())
        .env_remove(API_KEY)
        .env_remove(PASSWORD)
        .env_remove(KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    child.map_err(|error| format!("sh can't be started: {error}").into())
}

/// Writes the object to the command and collects what it prints. Returns only if the command prints too much.
async fn exchange(
    mut stdin: ChildStdin,
    object: &str,
    stdout: &mut ChildStdout,
    printed: &mut Vec<u8>,
) -> io::Error {
    let write = async move {
        // A command need not read its stdin.
        drop(stdin.write_all(object.as_bytes()).await);
        drop(stdin);
        Ok(())
    };
    let read = async {
        while stdout.read_buf(printed).await? > 0 {
            refuse_excess(printed)?;
        }
        Ok(())
    };
    match tokio::try_join!(write, read) {
        Err(failed) => failed,
        Ok(((), ())) => std::future::pending().await,
    }
}

/// Reads what is left in the pipe of a command that has ended. A child of the command may keep the pipe open, so its end
/// is not waited for.
fn read_rest(stdout: ChildStdout, printed: &mut Vec<u8>) -> io::Result<()> {
    let pipe = stdout.into_owned_fd()?;
    fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    let most = u64::try_from(ANSWER_BYTES + 1).expect("the bound fits into 64 bits");
    match File::from(pipe).take(most).read_to_end(printed) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => refuse_excess(printed),
    }
}

fn refuse_excess(printed: &[u8]) -> io::Result<()> {
    if printed.len() <= ANSWER_BYTES {
        return Ok(());
    }
    let sentence = format!("the command printed more than {ANSWER_BYTES} bytes");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, sentence))
}
