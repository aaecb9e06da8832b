//! A pseudo-terminal, for commands that ask a person.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

pub struct Terminal {
    keyboard: OwnedFd,
}

impl Terminal {
    pub fn new() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        Self { keyboard }
    }

    /// Returns the stdin of a command on this terminal.
    pub fn stdin(&self) -> File {
        let name = ptsname(&self.keyboard, Vec::new()).unwrap().into_string().unwrap();
        File::options().read(true).write(true).open(name).unwrap()
    }

    /// Types a line, which the command may read later.
    pub fn types(&self, line: &str) {
        let mut keyboard = File::from(self.keyboard.try_clone().unwrap());
        writeln!(keyboard, "{line}").unwrap();
    }

    /// Whether the terminal shows what is typed.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ECHO)
    }
}
