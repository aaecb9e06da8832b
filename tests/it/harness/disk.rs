//! Disks that fail, as libraries to preload into the binary.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::process::{Process, Workplace, free_address};

/// A compiled library. Its file exists as long as this.
pub struct Disk {
    library: PathBuf,
    _folder: TempDir,
}

impl Disk {
    /// Compiles [`failing_disk.c`](failing_disk.c).
    pub fn failing() -> Self {
        Self::compiled(include_str!("failing_disk.c"))
    }

    /// Compiles [`disk_model.c`](disk_model.c).
    pub fn with_journal() -> Self {
        Self::compiled(include_str!("disk_model.c"))
    }

    fn compiled(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("disk.c"), folder.path().join("disk.so"));
        fs::write(&source, text).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-pthread", "-o"]).args([&library, &source]);
        assert!(compiler.status().unwrap().success());
        Self { library, _folder: folder }
    }

    /// Returns the environment variable that preloads the library into a command.
    pub fn preload(&self) -> (&str, &str) {
        ("LD_PRELOAD", self.library.to_str().unwrap())
    }

    /// Starts a command on this disk without waiting for its end.
    pub fn begins(&self, place: &Workplace, arguments: &[&str]) -> Process {
        let mut command = place.command(arguments);
        command.env("LD_PRELOAD", &self.library);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Process::of(command, free_address())
    }
}
