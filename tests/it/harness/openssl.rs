//! The `openssl` command, as an independent client implementation.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tempfile::NamedTempFile;

/// Runs `openssl` with this stdin and returns its stdout, or `None` if it fails.
pub fn openssl(arguments: &[&str], stdin: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // A process that refuses its arguments does not read stdin.
    drop(child.stdin.take().unwrap().write_all(stdin));
    let output = child.wait_with_output().unwrap();
    output.status.success().then_some(output.stdout)
}

/// A private key as login returns it, in a file, and the password that should decrypt it.
pub struct SealedKey {
    file: NamedTempFile,
    password: String,
}

impl SealedKey {
    pub fn of(login: &Value, password: &str) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(login["rsakey"].as_str().unwrap().as_bytes()).unwrap();
        Self { file, password: format!("pass:{password}") }
    }

    fn path(&self) -> &str {
        self.file.path().to_str().unwrap()
    }

    /// Returns the public key in wire format, or `None` if the password does not decrypt the key.
    pub fn public(&self) -> Option<String> {
        let arguments = ["rsa", "-in", self.path(), "-passin", &self.password];
        let der = openssl(&[&arguments[..], &["-pubout", "-outform", "DER"]].concat(), b"")?;
        Some(BASE64.encode(der))
    }

    /// Returns the decrypted key as PKCS#1 DER.
    pub fn private(&self) -> Vec<u8> {
        let arguments = ["rsa", "-in", self.path(), "-passin", &self.password];
        openssl(&[&arguments[..], &["-traditional", "-outform", "DER"]].concat(), b"").unwrap()
    }

    /// Asserts that the parts of the key belong together.
    #[track_caller]
    pub fn is_consistent(&self) {
        let arguments = ["rsa", "-in", self.path(), "-passin", &self.password, "-check", "-noout"];
        assert_eq!(openssl(&arguments, b"").as_deref(), Some(&b"RSA key ok\n"[..]));
    }

    /// Decrypts what was wrapped for the owner of the key.
    pub fn unwraps(&self, wrapped: &Value) -> Vec<u8> {
        let arguments = ["pkeyutl", "-decrypt", "-inkey", self.path(), "-passin", &self.password];
        let oaep = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"];
        let oaep = oaep.iter().flat_map(|option| ["-pkeyopt", option]);
        let arguments: Vec<_> = arguments.into_iter().chain(oaep).collect();
        openssl(&arguments, &BASE64.decode(wrapped.as_str().unwrap()).unwrap()).unwrap()
    }
}
