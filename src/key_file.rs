//! The key file: the numbered keys that seal the API keys in the database. It is beside the database and never in it, so
//! that a copy of the database alone, such as a backup, opens nothing.
//!
//! Each line has a number and 32 random bytes as hexadecimal text. Lines that begin with `#` are comments. The file is
//! always replaced as a whole: a reader finds the old or the new one.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rand::Rng as _;
use zeroize::Zeroizing;

use crate::bounded;
use crate::random::os_random;

/// Maximum bytes of the file: some hundred keys.
const BYTES: u64 = 64 * 1024;

/// Greatest number of a key.
const GREATEST: i64 = i32::MAX as i64;

const HEAD: &str = "\
# Keys of chatserver. They seal the API keys in its database, which is of no use without this file. Back it up, but not
# beside the backups of the database. `chatserver keys rotate` adds a key.
";

/// A key of the file, from which sealing keys are derived.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    pub(crate) fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        os_random().fill_bytes(&mut *secret);
        Self(secret)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn of(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

/// Never shows the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// The keys of the file by their number.
pub(crate) type Secrets = BTreeMap<i64, Secret>;

/// The location of the key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
}

/// Why the key file can't be used, or does not fit the database.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no file, and the database has been sealed with one.
    #[error(
        "there is no key file {}, and the database needs key {number} (fingerprint {fingerprint}): restore the file \
         from its backup. A new one can't open the API keys", path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// A key that the database needs.
        number: i64,
        /// The fingerprint of that key.
        fingerprint: String,
    },
    /// The file is a folder, a FIFO or a device.
    #[error("the key file {} must be a regular file", path.display())]
    NoRegularFile {
        /// The file.
        path: PathBuf,
    },
    /// Other users of the machine may read or write the file.
    #[error(
        "the key file {} has mode {mode:o}: other users of this machine can use it. Run: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file can't be read.
    #[error("the key file {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A line is no key. Its text is not shown.
    #[error(
        "line {line} of the key file {} must be a number from 1, unlike those of other lines, a space, and 64 hexadecimal \
         characters", path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file has no line with a key.
    #[error("the key file {} has no key", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be made or replaced.
    #[error("the key file {} can't be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The database has been sealed with a key that the file lacks.
    #[error(
        "the key file {} lacks key {number}, which the database needs (fingerprint {fingerprint}); it has {found}",
        path.display()
    )]
    Lacks {
        /// The file.
        path: PathBuf,
        /// The missing key.
        number: i64,
        /// The fingerprint of the missing key.
        fingerprint: String,
        /// The keys of the file with their fingerprints.
        found: String,
    },
    /// The file belongs to another database.
    #[error(
        "the key file {} is not that of the database: its key {number} has the fingerprint {of_file}, and the database \
         needs the one with {of_database}", path.display()
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// The key that differs.
        number: i64,
        /// The fingerprint of the file's key.
        of_file: String,
        /// The fingerprint that the database records.
        of_database: String,
    },
}

impl KeyFile {
    /// Names the file at this path.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keys. `None` if there is no file.
    pub(crate) fn read(&self) -> Result<Option<Secrets>, KeyFileError> {
        let path = || self.path.clone();
        let unreadable = |source| KeyFileError::Unreadable { path: path(), source };
        // Opening a FIFO would block.
        let found = match fs::metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(unreadable(source)),
        };
        if !found.is_file() {
            return Err(KeyFileError::NoRegularFile { path: path() });
        }
        let file = File::open(&self.path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path(), mode });
        }
        let text = Zeroizing::new(bounded::read_text(file, BYTES).map_err(unreadable)?);
        let secrets = parse(&text);
        let secrets = secrets.map_err(|line| KeyFileError::Malformed { path: path(), line })?;
        if secrets.is_empty() {
            Err(KeyFileError::Empty { path: path() })
        } else {
            Ok(Some(secrets))
        }
    }

    /// Whether there is a file.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] if a server would refuse the file.
    pub(crate) fn exists(&self) -> Result<bool, KeyFileError> {
        Ok(self.read()?.is_some())
    }

    /// Makes the file with these keys and mode 0600, and reads it. If another process has made it meanwhile, reads that
    /// one. `owner` is the owner of the database, if that is a file, or else of the
    /// folder: a command run by root must not lock out the server's user.
    pub(crate) fn make(
        &self,
        secrets: &Secrets,
        owner: Option<&Metadata>,
    ) -> Result<Secrets, KeyFileError> {
        let made = self.write_beside(secrets, owner).and_then(|written| {
            written.persist_noclobber(&self.path).map_err(io::Error::from)?;
            self.flush_name()
        });
        match made {
            Ok(()) => tracing::info!(path = %self.path.display(), "key file made: back it up"),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(self.unwritable(source)),
        }
        let unreadable = |source| KeyFileError::Unreadable { path: self.path.clone(), source };
        self.read()?.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))
    }

    /// Replaces the file, or makes it with these keys.
    pub(crate) fn replace(&self, secrets: &Secrets) -> Result<(), KeyFileError> {
        let owner = fs::metadata(&self.path).ok();
        let replaced = self.write_beside(secrets, owner.as_ref()).and_then(|written| {
            // A link stays: the file that it leads to is replaced.
            let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
            written.persist(path).map_err(io::Error::from)?;
            self.flush_name()
        });
        replaced.map_err(|source| self.unwritable(source))
    }

    /// Writes the keys into a temporary file in the folder of the file, on the disk.
    fn write_beside(
        &self,
        secrets: &Secrets,
        owner: Option<&Metadata>,
    ) -> io::Result<tempfile::NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".chatserver-keys-").permissions(Permissions::from_mode(0o600));
        let mut written = builder.tempfile_in(self.folder())?;
        let of_folder = fs::metadata(self.folder()).ok();
        if let Some(owner) = owner.or(of_folder.as_ref())
            && owner.uid() != written.as_file().metadata()?.uid()
        {
            // Only root can do that. For other users the file stays theirs, as the database would.
            drop(fchown(written.as_file(), Some(owner.uid()), Some(owner.gid())));
        }
        written.write_all(text(secrets).as_bytes())?;
        written.as_file().sync_all()?;
        Ok(written)
    }

    fn flush_name(&self) -> io::Result<()> {
        File::open(self.folder())?.sync_all()
    }

    fn folder(&self) -> PathBuf {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        folder.unwrap_or(Path::new(".")).to_owned()
    }

    fn unwritable(&self, source: io::Error) -> KeyFileError {
        KeyFileError::Unwritable { path: self.path.clone(), source }
    }
}

impl fmt::Display for KeyFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(formatter)
    }
}

/// Parses the text of a key file. The error is the number of the line that is wrong.
fn parse(text: &str) -> Result<Secrets, usize> {
    let mut secrets = Secrets::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (number, secret) = parse_line(text).ok_or(line)?;
        if secrets.insert(number, secret).is_some() {
            return Err(line);
        }
    }
    Ok(secrets)
}

fn parse_line(line: &str) -> Option<(i64, Secret)> {
    let (number, hex) = line.split_once(' ')?;
    let number = number.parse().ok().filter(|number| (1..=GREATEST).contains(number))?;
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(hex.trim(), &mut *secret).ok()?;
    Some((number, Secret(secret)))
}

fn text(secrets: &Secrets) -> Zeroizing<String> {
    // Large enough from the start: a string that grows leaves its earlier text in memory.
    let mut text = Zeroizing::new(String::with_capacity(HEAD.len() + secrets.len() * 80));
    text.push_str(HEAD);
    for (number, secret) in secrets {
        let mut hex = Zeroizing::new([0; 64]);
        hex::encode_to_slice(secret.as_bytes(), &mut *hex).expect("64 characters for 32 bytes");
        let hex = std::str::from_utf8(&*hex).expect("hexadecimal characters are ASCII");
        writeln!(text, "{number} {hex}").expect("a string takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &tempfile::TempDir) -> KeyFile {
        KeyFile::at(folder.path().join("chat.db.key"))
    }

    fn one() -> Secrets {
        Secrets::from([(1, Secret::generate())])
    }

    #[test]
    fn a_made_file_is_private_and_reads_as_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        assert!(file.read().unwrap().is_none());
        let made = file.make(&one(), None).unwrap();
        assert_eq!(made.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(file.read().unwrap().unwrap(), made);
        assert_eq!(file.make(&one(), None).unwrap(), made, "a second one is not made");
    }

    #[test]
    fn a_replaced_file_has_the_new_keys_and_leaves_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        let mut secrets = file.make(&one(), None).unwrap();
        secrets.insert(2, Secret::generate());
        file.replace(&secrets).unwrap();
        assert_eq!(file.read().unwrap().unwrap(), secrets);
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replaced_link_still_leads_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        let secrets = file.make(&one(), None).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(file.path(), &link).unwrap();
        let mut more = secrets.clone();
        more.insert(2, Secret::generate());
        KeyFile::at(&link).replace(&more).unwrap();
        assert!(link.is_symlink());
        assert_eq!(file.read().unwrap().unwrap(), more);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_helps() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        file.make(&one(), None).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let said = file.read().unwrap_err().to_string();
            assert!(said.contains(&format!("chmod 600 {}", file.path().display())), "{said}");
            assert!(said.contains(&format!("{mode:o}")), "{said}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_not_repeated() {
        let secret = "0123456789abcdef".repeat(4);
        let good = format!("# head\n\n1 {secret}\r\n 3 {secret}\n");
        assert_eq!(parse(&good).unwrap().keys().collect::<Vec<_>>(), [&1, &3]);
        for (line, text) in [
            (1, format!("0 {secret}")),
            (1, format!("2147483648 {secret}")),
            (1, format!("-1 {secret}")),
            (1, secret.clone()),
            (2, format!("1 {secret}\n2 {}", &secret[1..])),
            (2, format!("1 {secret}\n2 {secret}0")),
            (2, format!("1 {secret}\n1 {secret}")),
            (3, format!("1 {secret}\n\n2 {}", secret.replace('a', "g"))),
        ] {
            assert_eq!(parse(&text), Err(line), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder);
        file.make(&one(), None).unwrap();
        fs::write(file.path(), format!("1 {secret}x")).unwrap();
        let said = format!("{0} {0:?}", file.read().unwrap_err());
        assert!(said.contains("line 1") && !said.contains(&secret), "{said}");
        fs::write(file.path(), "# nothing\n").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("has no key"));
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let said = KeyFile::at(folder.path()).read().unwrap_err().to_string();
        assert!(said.contains("must be a regular file"), "{said}");
    }
}
