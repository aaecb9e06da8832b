//! Reports failed commands: as a sentence, or with `--json` as an object with an `errorcode`.

use std::borrow::Cow;
use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config;
use crate::key_file::KeyFileError;
use crate::server;
use crate::store::{self, BackupError, CopyError, OpenError};
use crate::tls;
use crate::users::UserError;

/// Why a command failed. Its text and the texts of its sources are shown.
pub(super) type Failed = Box<dyn Error + Send + Sync>;

/// Maximum wait for a failure to be written to stderr.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the log of this process is JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// A refusal by the command line itself, with its `errorcode`.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    code: Cow<'static, str>,
    sentence: String,
    /// A further field of the object, such as the ID of a message.
    field: Option<(&'static str, String)>,
}

impl Refusal {
    /// Refuses an argument, or a file that an argument names.
    pub(crate) fn argument(sentence: impl Into<String>) -> Failed {
        Self::with_code("invalid_argument", sentence)
    }

    /// Makes a refusal with one of the codes that docs/operating.md#output-and-failures lists, or with that of a server.
    pub(crate) fn with_code(
        code: impl Into<Cow<'static, str>>,
        sentence: impl Into<String>,
    ) -> Failed {
        Box::new(Self { code: code.into(), sentence: sentence.into(), field: None })
    }

    /// Makes a refusal like [`Self::with_code`] whose object has a further field.
    pub(crate) fn with_field(
        code: impl Into<Cow<'static, str>>,
        sentence: impl Into<String>,
        (name, value): (&'static str, &str),
    ) -> Failed {
        let (code, sentence) = (code.into(), sentence.into());
        Box::new(Self { code, sentence, field: Some((name, value.to_owned())) })
    }
}

/// Returns the `errorcode` of a failure. docs/operating.md#output-and-failures lists all codes.
fn code<'a>(failed: &'a (dyn Error + 'static)) -> &'a str {
    if let Some(refusal) = failed.downcast_ref::<Refusal>() {
        &refusal.code
    } else if failed.is::<config::Error>() {
        "invalid_settings"
    } else if let Some(error) = failed.downcast_ref::<OpenError>() {
        code_of_open(error)
    } else if let Some(error) = failed.downcast_ref::<BackupError>() {
        match error {
            BackupError::Open(error) => code_of_open(error),
            BackupError::Exists { .. } | BackupError::Replaces { .. } => "already_exists",
            BackupError::Name { .. } => "invalid_argument",
            BackupError::Unfit { .. } => "invalid_backup",
            BackupError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "invalid_argument"
            }
            BackupError::File { .. } => "failed",
            BackupError::Database { .. } => "database_failed",
        }
    } else if let Some(error) = failed.downcast_ref::<CopyError>() {
        match error {
            CopyError::Open { source, .. } => code_of_open(source),
            CopyError::Same { .. } => "invalid_argument",
            CopyError::Serving { .. } | CopyError::Locked { .. } | CopyError::Changed { .. } => {
                "in_use"
            }
            CopyError::NotEmpty { .. } | CopyError::OfAnother { .. } => "already_exists",
            CopyError::Differs { .. } => "copy_differs",
            CopyError::KeyFile(_) => "key_file",
            CopyError::Database { .. } => "database_failed",
        }
    } else if let Some(error) = failed.downcast_ref::<server::Error>() {
        match error {
            server::Error::Store(error) => code_of_open(error),
            server::Error::Listen { .. } => "cannot_listen",
            server::Error::Config(_) | server::Error::Tls(_) | server::Error::NoUrl => {
                "invalid_settings"
            }
            _ => "failed",
        }
    } else if let Some(error) = failed.downcast_ref::<UserError>() {
        match error {
            UserError::NotFound(_) => "not_found",
            UserError::EmailTaken(_) | UserError::IdTaken(_) => "already_exists",
            UserError::SameUser => "invalid_argument",
            UserError::TooManyFriends { .. } => "limit_reached",
            UserError::Store(error) => code_of_store(error),
            UserError::Refused(_) | UserError::Keys(_) => "failed",
        }
    } else if failed.is::<tls::Error>() {
        "invalid_settings"
    } else if failed.is::<store::WalLeft>() {
        "log_left"
    } else if failed.is::<KeyFileError>() {
        "key_file"
    } else if let Some(error) = failed.downcast_ref::<store::Error>() {
        code_of_store(error)
    } else {
        "failed"
    }
}

fn code_of_open(error: &OpenError) -> &'static str {
    match error {
        OpenError::Missing { .. } | OpenError::Empty { .. } => "no_database",
        OpenError::InUse { .. } | OpenError::OpenElsewhere { .. } => "in_use",
        OpenError::OlderSchema { .. } => "older_schema",
        OpenError::UnfinishedCopy { .. } => "unfinished_copy",
        OpenError::NoFile { .. } => "sqlite_only",
        OpenError::Authority { .. } => "invalid_settings",
        OpenError::KeyFile(_) => "key_file",
        _ => "database_failed",
    }
}

fn code_of_store(error: &store::Error) -> &'static str {
    match error {
        store::Error::StorageFull { .. } | store::Error::ServerFull => "storage_full",
        store::Error::Sealed(_) => "key_file",
        _ => "database_failed",
    }
}

/// Writes a failure and its causes, down to the first, to stderr. Skips a cause whose text is already there.
pub fn print(failed: &(dyn Error + 'static)) {
    let mut text = failed.to_string();
    let mut cause = failed.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        if !text.contains(&error_text) {
            text.push_str(": ");
            text.push_str(&error_text);
        }
        cause = error.source();
    }
    let mut object = json!({ "errorcode": code(failed), "errormessage": text });
    let refusal = failed.downcast_ref::<Refusal>();
    if let Some((name, value)) = refusal.and_then(|refusal| refusal.field.as_ref()) {
        object[*name] = value.as_str().into();
    }
    write(&object, &format!("chatserver: {text}\n"));
}

/// Reports invalid arguments on stderr, or prints the requested help or version. Returns `true` for help and version.
pub fn tell_usage(error: &clap::Error) -> bool {
    if !error.use_stderr() {
        // A reader such as `head` may close the pipe early.
        drop(error.print());
        return true;
    }
    let text = error.to_string();
    let sentence = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
    if wants_json() {
        write(&json!({ "errorcode": "usage", "errormessage": sentence }), "");
    } else {
        drop(error.print());
    }
    false
}

/// Warns on stderr about something that the command did nevertheless.
pub(crate) fn warn(sentence: &str) {
    let line = if wants_json() {
        json!({ "warning": sentence }).to_string()
    } else {
        format!("chatserver: warning: {sentence}")
    };
    // A closed stderr must not fail the command.
    drop(writeln!(io::stderr(), "{line}"));
}

/// Whether the failure is a closed pipe: the reader of stdout stopped early, which is no failure of the command.
pub(crate) fn is_closed_pipe(failed: &(dyn Error + 'static)) -> bool {
    let error = failed.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn write(object: &Value, text: &str) {
    let line = if wants_json() { format!("{object}\n") } else { text.to_owned() };
    // A closed stderr is ignored. A thread writes, because a full pipe that is never read must not block the exit.
    let (told, done) = mpsc::channel();
    thread::spawn(move || {
        drop(io::stderr().write_all(line.as_bytes()));
        told.send(()).ok();
    });
    done.recv_timeout(PATIENCE).ok();
}

/// Reports failures as JSON from now on: the log of this process has that form.
pub(crate) fn report_as_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// Whether the log is JSON, or the arguments contain `--json`. Reads them unparsed, because parsing may be what failed.
fn wants_json() -> bool {
    if AS_JSON.load(Ordering::Relaxed) {
        return true;
    }
    let mut options =
        std::env::args_os().skip(1).take_while(|argument| argument != OsStr::new("--"));
    options.any(|argument| argument == OsStr::new("--json"))
}
