//! Settings of TLS that the server refuses to start with, and the sentence for each.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use super::{Secured, text, variable};
use crate::harness::openssl::openssl;
use crate::harness::process::Workplace;

/// Runs a command with settings.
fn run(place: &Workplace, command: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = place.command(&[command]);
    command.envs(settings.iter().map(|(name, value)| (variable(name), value))).output().unwrap()
}

/// Asserts that a server refuses to start with these settings, and returns what it says.
#[track_caller]
fn refusal(place: &Workplace, settings: &[(&str, &str)]) -> String {
    let output = run(place, "serve", settings);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_pair_that_can_not_be_used_is_refused_with_its_file_and_the_reason() {
    let place = Workplace::new();
    let (secured, other) = (Secured::new(), Secured::new());
    let (certificate, key) = (&secured.certificates.certificate, &secured.certificates.key);
    let file = |name: &str, content: &[u8]| {
        let path = secured.folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        path
    };
    let empty = file("empty.pem", b"");
    let garbage =
        file("garbage.pem", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    let no_certificate = file(
        "no-certificate.pem",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let encrypted = openssl(&["pkey", "-aes256", "-passout", "pass:x", "-in", text(key)], b"");
    let encrypted = file("encrypted.pem", &encrypted.unwrap());
    let open = file("open.pem", &fs::read(key).unwrap());
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let nowhere = Path::new("/nowhere/name.pem");
    for (certificate, key, setting, sentence) in [
        (nowhere, key.as_path(), "http.tls_certificate", "No such file"),
        (certificate, nowhere, "http.tls_key", "No such file"),
        (secured.folder.path(), key, "http.tls_certificate", "it is not a regular file"),
        (&empty, key, "http.tls_certificate", "it holds no certificate"),
        (key, key, "http.tls_certificate", "it holds no certificate"),
        (&garbage, key, "http.tls_certificate", "it is no PEM"),
        (&no_certificate, key, "http.tls_certificate", "its first certificate can't be read"),
        (certificate, &empty, "http.tls_key", "it holds no private key"),
        (certificate, certificate, "http.tls_key", "other users"),
        (certificate, &encrypted, "http.tls_key", "the key has a password"),
        (certificate, &open, "http.tls_key", "(mode 644); run `chmod o= "),
        (
            certificate,
            &other.certificates.key,
            "http.tls_key",
            "it is not the key of the first certificate",
        ),
    ] {
        let pair = [("http.tls_certificate", text(certificate)), ("http.tls_key", text(key))];
        let said = refusal(&place, &pair);
        let path = if setting == "http.tls_key" { key } else { certificate };
        for part in [&format!("{setting} = {}: ", path.display()), sentence] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}

#[test]
fn settings_of_tls_that_contradict_each_other_are_refused() {
    let place = Workplace::new();
    let (certificate, key) = ("/etc/chat/fullchain.pem", "/etc/chat/privkey.pem");
    let pair = [("http.tls_certificate", certificate), ("http.tls_key", key)];
    let acme =
        [("http.acme_domains", "chat.example.com"), ("http.acme_cache", "/var/lib/chat/acme")];
    for (settings, name, sentence) in [
        (&pair[..1], "http.tls_key", "must be set, because http.tls_certificate is"),
        (&pair[1..], "http.tls_certificate", "must be set, because http.tls_key is"),
        (&acme[..1], "http.acme_cache", "must be set, because http.acme_domains is"),
        (
            &[pair, acme].concat(),
            "http.tls_certificate",
            "must be empty, because http.acme_domains",
        ),
        (
            &[&pair[..], &[("http.public_url", "http://chat.example.com/")]].concat(),
            "http.public_url",
            "must be an https URL, because the server speaks TLS",
        ),
    ] {
        let output = run(&place, "check-config", settings);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("{name} = ")) && said.contains(sentence), "{said}");
    }
}

#[test]
fn a_folder_of_acme_that_can_not_be_used_is_refused() {
    let place = Workplace::new();
    let folder = tempfile::tempdir().unwrap();
    let (open, file) = (folder.path().join("open"), folder.path().join("file"));
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o750)).unwrap();
    fs::write(&file, "").unwrap();
    for (cache, sentence) in [
        (open.as_path(), "(mode 750); run `chmod 700 "),
        (&file, "it is not a folder"),
        (Path::new("/nowhere/acme"), "the folder can't be made"),
    ] {
        let acme = [("http.acme_domains", "chat.example.com"), ("http.acme_cache", text(cache))];
        let said = refusal(&place, &acme);
        let begin = format!("http.acme_cache = {}: ", cache.display());
        assert!(said.contains(&begin) && said.contains(sentence), "{said}");
    }
}
